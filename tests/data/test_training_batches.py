"""The order of the images is a function of the seed, wherever it starts and however it is shared."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detexport.data.coco import CocoDataset, CocoRecord, load_coco
from detexport.data.mapping import GroundTruth
from detexport.data.training_batches import (
    Draw,
    Order,
    TrainingBatches,
    TrainingExamples,
    build_training_loader,
    learnable_records,
)
from detexport.errors import DataError
from synthetic_shapes import synthetic_shapes

ORDER = Order(batch_size=4, seed=3, flip=True)


def records(count: int) -> list[CocoRecord]:
    """Every third image is portrait."""
    sizes = [(80, 60) if index % 3 == 0 else (60, 80) for index in range(count)]
    return [CocoRecord(i, Path(f"{i}.png"), *size, annotations=()) for i, size in enumerate(sizes)]


def first(batches: TrainingBatches, count: int) -> list[list[Draw]]:
    return list(itertools.islice(batches, count))


def test_each_pass_has_every_image_once() -> None:
    draws = [draw for batch in first(TrainingBatches(records(10), ORDER), 5) for draw in batch]
    for start in (0, 10):
        assert sorted(draw.index for draw in draws[start : start + 10]) == list(range(10))
    assert [draw.index for draw in draws[:10]] != [draw.index for draw in draws[10:]]
    assert {draw.flip for draw in draws} == {True, False}
    assert len({draw.seed for draw in draws}) == 20


@pytest.mark.parametrize("by_orientation", [False, True])
@pytest.mark.parametrize("start", [1, 2, 7])
def test_the_sequence_continues_after_any_number_of_batches(start: int, by_orientation: bool) -> None:
    order = replace(ORDER, by_orientation=by_orientation)
    whole = first(TrainingBatches(records(10), order), start + 5)
    assert first(TrainingBatches(records(10), order, start=start), 5) == whole[start:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_each_batch(world_size: int) -> None:
    whole = first(TrainingBatches(records(10), ORDER), 6)
    shares = [
        first(TrainingBatches(records(10), ORDER, rank=rank, world_size=world_size), 6)
        for rank in range(world_size)
    ]
    assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == whole


def test_batches_of_one_orientation() -> None:
    images = records(20)
    batches = first(TrainingBatches(images, replace(ORDER, by_orientation=True)), 15)
    kinds = [{images[draw.index].width > images[draw.index].height for draw in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds)
    assert {True} in kinds
    assert {False} in kinds


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=5, val_images=0, sizes=((64, 64),), object_px=(20, 40)).write(folder)
    return load_coco(folder, "train")


def test_workers_do_not_change_the_batches(dataset: CocoDataset) -> None:
    from torchvision.transforms import v2

    from detexport.data.augmentation import Crop

    torch.manual_seed(0)
    before = torch.get_rng_state()
    examples = TrainingExamples(
        dataset.images,
        "RGB",
        GroundTruth(masks=True),
        augmentations=[Crop("relative_range", [0.5, 0.5]), v2.RandomPhotometricDistort()],
    )
    loaded = []
    for workers in (0, 2):
        batches = TrainingBatches(dataset.images, replace(ORDER, batch_size=2), start=1)
        loader = build_training_loader(batches, examples, workers)
        loaded.append(list(itertools.islice(loader, 4)))
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(*loaded, strict=True):
        for example, same in zip(one, other, strict=True):
            assert torch.equal(example["image"], same["image"])
            masks = [each["instances"].gt_masks.tensor for each in (example, same)]
            assert torch.equal(*masks)


def test_a_split_without_annotations(dataset: CocoDataset) -> None:
    bare = replace(dataset, images=tuple(replace(record, annotations=()) for record in dataset.images))
    with pytest.raises(DataError, match="no annotated image; got: 5 images"):
        learnable_records(bare, GroundTruth())
    # A map of classes needs no instances.
    assert len(learnable_records(bare, GroundTruth(sem_seg=True, instances=False))) == 5
