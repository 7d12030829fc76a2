"""Augmentation moves the image and its whole ground truth together."""

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from detexport.contract import ResizeRule
from detexport.data.augmentation import Augmentation, Crop, ShortestEdge
from detexport.data.resize import resize_image, resized_size
from detexport.errors import ConfigError
from detexport.structures import BitMasks, Boxes, Instances, Keypoints

SIZE = (60, 80)
BOXES = torch.tensor([[10.0, 10.0, 50.0, 40.0], [60.0, 40.0, 79.0, 59.0]])


@pytest.fixture
def example() -> dict[str, Any]:
    """Each object fills its box, in the image, its mask and the map of classes; its keypoint is a corner."""
    instances = Instances(SIZE, gt_boxes=Boxes(BOXES.clone()), gt_classes=torch.tensor([3, 1]))
    sem_seg = torch.zeros(SIZE, dtype=torch.int64)
    image = torch.zeros((3, *SIZE), dtype=torch.uint8)
    masks = torch.zeros((2, *SIZE), dtype=torch.bool)
    for index, (x0, y0, x1, y1) in enumerate(BOXES.int().tolist()):
        masks[index, y0:y1, x0:x1] = True
        sem_seg[y0:y1, x0:x1] = index + 1
        image[:, y0:y1, x0:x1] = 250
    instances.gt_masks = BitMasks(masks)
    corners = torch.cat((BOXES[:, None, :2], torch.full((2, 1, 1), 2.0)), dim=2)
    instances.gt_keypoints = Keypoints(torch.cat((corners, torch.zeros(2, 1, 3)), dim=1))
    return {"image": image, "instances": instances, "sem_seg": sem_seg}


def test_without_transforms_the_example_stays(example: dict[str, Any]) -> None:
    same = Augmentation([v2.Identity()])(example, seed=0)
    assert same.keys() == example.keys()
    assert type(same["image"]) is torch.Tensor
    assert torch.equal(same["image"], example["image"])
    assert torch.equal(same["sem_seg"], example["sem_seg"])
    for name, value in example["instances"].get_fields().items():
        found = same["instances"].get(name)
        assert type(found) is type(value)
        assert torch.equal(getattr(found, "tensor", found), getattr(value, "tensor", value))


def test_the_resize_is_that_of_the_evaluation(example: dict[str, Any]) -> None:
    example["image"] = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    resized = Augmentation([ShortestEdge([45], max_size=56)])(example, seed=0)
    size = resized_size(*SIZE, ResizeRule(45, 56))
    assert size == (42, 56)
    assert np.array_equal(resized["image"].numpy(), resize_image(example["image"].numpy(), size))
    instances = resized["instances"]
    assert instances.image_size == size
    assert torch.allclose(instances.gt_boxes.tensor, BOXES * 0.7)
    assert torch.allclose(instances.gt_keypoints.tensor[:, 0, :2], BOXES[:, :2] * 0.7)
    assert tuple(resized["sem_seg"].shape) == size
    assert instances.gt_masks.tensor.shape == (2, *size)


@pytest.mark.parametrize(("sampling", "sizes"), [("choice", [30, 90]), ("range", [30, 33])])
def test_lengths_are_drawn(example: dict[str, Any], sampling: str, sizes: list[int]) -> None:
    augmentation = Augmentation([ShortestEdge(sizes, sampling=sampling)])
    lengths = {min(augmentation(example, seed)["image"].shape[1:]) for seed in range(40)}
    assert lengths == ({30, 90} if sampling == "choice" else {30, 31, 32, 33})


@pytest.mark.parametrize("seed", range(8))
def test_after_a_crop_all_kinds_of_annotations_agree(example: dict[str, Any], seed: int) -> None:
    cropped = Augmentation([Crop("relative_range", [0.3, 0.3])])(example, seed)
    instances = cropped["instances"]
    assert instances.image_size == tuple(cropped["image"].shape[1:])
    for index in range(len(instances)):
        mask = instances.gt_masks.tensor[index]
        assert mask.any()
        label = {3: 1, 1: 2}[int(instances.gt_classes[index])]
        assert torch.equal(mask, cropped["sem_seg"] == label)
        assert (cropped["image"][:, mask] == 250).all()
        # The box of what is left of the object.
        assert torch.equal(
            instances.gt_boxes.tensor[index], instances.gt_masks.get_bounding_boxes().tensor[index]
        )
        x, y, visibility = instances.gt_keypoints.tensor[index, 0].tolist()
        corner = instances.gt_boxes.tensor[index, :2].tolist()
        assert (visibility == 2 and [x, y] == corner) or (x, y, visibility) == (0, 0, 0)
    assert not instances.gt_keypoints.tensor[:, 1].any()


def test_objects_outside_a_crop_are_left_out(example: dict[str, Any]) -> None:
    kept = [len(Augmentation([Crop("absolute", [20, 20])])(example, seed)["instances"]) for seed in range(60)]
    assert {0, 1} <= set(kept)


def test_the_seed_alone_determines_the_transforms(example: dict[str, Any]) -> None:
    augmentation = Augmentation([Crop("relative_range", [0.3, 0.3]), v2.RandomPhotometricDistort(p=1.0)])
    torch.manual_seed(7)
    np.random.seed(7)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist())
    first = augmentation(example, seed=(5 << 32) + 3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    torch.manual_seed(8)
    again, other = (augmentation(example, seed=(5 << 32) + number) for number in (3, 4))
    assert torch.equal(first["image"], again["image"])
    assert first["image"].shape != other["image"].shape or not torch.equal(first["image"], other["image"])


def test_the_seed_of_the_training_changes_what_torch_and_numpy_draw(example: dict[str, Any]) -> None:
    crop = Augmentation([Crop("relative_range", [0.3, 0.3])])
    sizes = {tuple(crop(example, (seed << 32) + 3)["image"].shape) for seed in range(8)}
    assert len(sizes) > 4
    noise = Augmentation([v2.RandomPhotometricDistort(p=1.0)])
    images = [noise(example, (seed << 32) + 3)["image"] for seed in (0, 1)]
    assert not torch.equal(*images)


BORDERS = [
    v2.Pad(7),
    v2.Pad(7, fill=127),
    v2.RandomZoomOut(p=1.0),
    v2.RandomRotation((30, 30), expand=True),
    v2.RandomAffine(0, translate=(0.4, 0.4)),
    v2.RandomPerspective(p=1.0),
    v2.ElasticTransform(300.0),
]


@pytest.mark.parametrize("transform", BORDERS, ids=str)
def test_borders_are_unlabelled(example: dict[str, Any], transform: v2.Transform) -> None:
    example["sem_seg"] += 1
    example["sem_seg"][0, 0] = 255
    added = Augmentation([transform])(example, seed=1)
    assert added["sem_seg"].dtype == torch.int64
    assert set(added["sem_seg"].unique().tolist()) <= {1, 2, 3, 255}
    assert (added["sem_seg"] == 255).sum() > 60
    for mask, label in zip(added["instances"].gt_masks.tensor, (2, 3), strict=False):
        assert torch.equal(mask, added["sem_seg"] == label)


def nested(transform: v2.Transform) -> list[Any]:
    return [
        v2.RandomApply([transform], p=1.0),
        v2.RandomChoice([v2.Compose([transform])]),
        v2.RandomOrder([transform]),
        torch.nn.Sequential(transform),
    ]


@pytest.mark.parametrize("index", range(4))
def test_nested_transforms_are_those_inside(example: dict[str, Any], index: int) -> None:
    with pytest.raises(ConfigError, match="use the option flip"):
        Augmentation([nested(v2.RandomHorizontalFlip(1.0))[index]])(example, seed=0)
    del example["instances"]._fields["gt_keypoints"]
    masks = example["instances"].gt_masks.tensor
    masks[0, 10:30] = False  # the upper part of its box
    cropped = Augmentation([nested(v2.CenterCrop([40, 60]))[index]])(example, seed=0)
    assert cropped["instances"].gt_boxes.tensor[0].tolist() == [0, 20, 40, 30]


def test_an_image_without_instances(example: dict[str, Any]) -> None:
    example["instances"] = example["instances"][:0]
    augmented = Augmentation([Crop("relative", [0.5, 0.5]), ShortestEdge([90])])(example, seed=0)
    assert len(augmented["instances"]) == 0
    assert augmented["instances"].gt_masks.tensor.shape[1:] == augmented["image"].shape[1:]


def test_a_flip_of_torchvision_does_not_swap_keypoints(example: dict[str, Any]) -> None:
    flip = Augmentation([v2.RandomHorizontalFlip(1.0)])
    with pytest.raises(ConfigError, match="use the option flip"):
        flip(example, seed=0)
    instances = example["instances"]
    example["instances"] = Instances(
        SIZE, **{n: v for n, v in instances.get_fields().items() if "key" not in n}
    )
    assert flip(example, seed=0)["instances"].gt_boxes.tensor[0].tolist() == [30, 10, 70, 40]


@pytest.mark.parametrize(("sizes", "sampling"), [([], "choice"), ([1, 2, 3], "range"), ([1], "median")])
def test_lengths_that_do_not_fit(sizes: list[int], sampling: str) -> None:
    with pytest.raises(ConfigError, match="do not fit their sampling"):
        ShortestEdge(sizes, sampling=sampling)
