"""The whole model: eager, traced and scripted give the same bits, whatever the size and the number found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detexport.config.cfg import load_cfg
from detexport.modeling import build_model
from small_architectures import draw

CONFIG = Path(__file__).parents[2] / "conf/detectron2/mask_rcnn.yaml"
NAMES = ("pred_boxes", "scores", "pred_classes", "pred_masks")
SIZES = [(64, 96), (33, 65), (97, 31), (1, 1), (128, 128), (50, 70), (160, 45), (32, 32)]


IMAGES = [draw(*size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def model() -> Any:
    """Random weights whose scores vary, and a threshold that leaves no, one and several detections."""
    torch.manual_seed(0)
    model = build_model(load_cfg(CONFIG)).eval()
    predictor = model.roi_heads.box_predictor
    torch.nn.init.normal_(predictor.cls_score.weight, std=0.5)
    predictor.score_threshold = 0.0
    with torch.no_grad():
        best = [model.detect([image])[0]["scores"] for image in IMAGES]
    thresholds = torch.cat(best).unique()
    for threshold in thresholds[:-1]:
        counts = [int((scores > threshold).sum()) for scores in best]
        if {0, 1} <= set(counts) and max(counts) > 1:
            predictor.score_threshold = float(threshold)
            return model
    raise AssertionError("no threshold leaves no, one and several detections")


@pytest.fixture(scope="module", params=["trace", "script"])
def graph(model: Any, request: pytest.FixtureRequest) -> Callable[[Tensor], dict[str, Tensor]]:
    if request.param == "script":
        scripted = torch.jit.script(model.batch_graph())
        return lambda image: scripted([image])[0]
    counts = [len(model.detect([image])[0]["scores"]) for image in IMAGES]
    sample = IMAGES[counts.index(max(counts))]
    traced = torch.jit.trace(model.image_graph(NAMES), sample, check_trace=False)
    return lambda image: dict(zip(NAMES, traced(image), strict=True))


@pytest.mark.parametrize("size", range(len(SIZES)), ids=[f"{h}x{w}" for h, w in SIZES])
def test_graphs_equal_eager_to_the_bit(model: Any, graph: Callable, size: int) -> None:
    with torch.no_grad():
        found, expected = graph(IMAGES[size]), model.detect([IMAGES[size]])[0]
    assert set(found) == set(expected) == set(NAMES)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


def test_there_are_images_with_no_one_and_several_detections(model: Any) -> None:
    with torch.no_grad():
        counts = {len(model.detect([image])[0]["scores"]) for image in IMAGES}
    assert {0, 1} < counts


@torch.no_grad()
def test_forward_gives_what_the_graph_gives_in_the_outputs_frame(model: Any) -> None:
    for image in IMAGES:
        height, width = image.shape[1:]
        (plain,) = model([{"image": image}])
        (scaled,) = model([{"image": image, "height": 2 * height, "width": 3 * width}])
        raw = model.detect([image])[0]
        instances = plain["instances"]
        assert instances.image_size == (height, width)
        kept = (raw["pred_boxes"][:, 2:] > raw["pred_boxes"][:, :2]).all(dim=1)
        assert torch.equal(instances.pred_boxes.tensor, raw["pred_boxes"][kept])
        assert torch.equal(instances.scores, raw["scores"][kept])
        assert instances.pred_masks.shape == (len(instances), height, width)
        assert instances.pred_masks.dtype == torch.bool
        stretched = raw["pred_boxes"][kept] * torch.tensor([3.0, 2.0, 3.0, 2.0])
        torch.testing.assert_close(scaled["instances"].pred_boxes.tensor, stretched)
        assert scaled["instances"].pred_masks.shape[1:] == (2 * height, 3 * width)


@torch.no_grad()
def test_a_batch_is_padded_to_one_size(model: Any) -> None:
    """An image whose padding does not change gives in a batch what it gives alone."""
    images = [IMAGES[0], IMAGES[5]]  # 64 x 96 both, the second padded from 50 x 70
    together = model.detect(images)
    assert max(len(one["scores"]) for one in together) > 0
    for image, batched in zip(images, together, strict=True):
        (alone,) = model.detect([image])
        assert set(batched) == set(alone)
        assert len(batched["scores"]) == len(alone["scores"])
        for name in NAMES:
            torch.testing.assert_close(batched[name], alone[name], rtol=1e-4, atol=1e-3)


def test_images_of_any_dtype_are_normalized(model: Any) -> None:
    image = IMAGES[0]
    expected = (image.float() - 127.5) / 64
    assert torch.equal(model.normalize(image), expected)
    assert torch.equal(model.normalize(image.double()), expected)
    batch = model.preprocess_image([{"image": IMAGES[1]}])
    assert batch.tensor.shape == (1, 3, 64, 96)
    assert not batch.tensor[:, :, 33:].any()
    assert batch.image_sizes == [(33, 65)]


@pytest.mark.parametrize(
    "shape", [(64, 64), (1, 3, 64, 64), (1, 64, 64), (4, 64, 64), (64, 64, 3), (3, 0, 64), (3, 64, 0)]
)
def test_an_image_of_another_shape_is_refused(model: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image 1 has a wrong shape; .*expected: \(3, height, width\)"):
        model([{"image": IMAGES[0]}, {"image": torch.zeros(shape, dtype=torch.uint8)}])


def test_other_wrong_inputs(model: Any) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        model([])
    for half in ({"height": 3}, {"width": 3}):
        with pytest.raises(ValueError, match="both height and width"):
            model([{"image": IMAGES[3], **half}])


def test_the_contract_says_what_the_graph_does(model: Any) -> None:
    contract = model.contract(("a", "b", "c", "d", "e"))
    with torch.no_grad():
        found = model.detect([IMAGES[0]])[0]
    assert contract.output_names == NAMES
    for spec in contract.outputs:
        value = found[spec.name]
        assert str(value.dtype) == f"torch.{spec.dtype}"
        assert all(want in ("R", size) for want, size in zip(spec.shape, value.shape, strict=True))
    assert contract.size_divisibility == 32
    assert (contract.channel_order, contract.pixel_mean) == ("RGB", (127.5,) * 3)
    assert contract.score_threshold == model.roi_heads.box_predictor.score_threshold
    assert (contract.max_detections, contract.nms_threshold) == (20, 0.5)


def test_boxes_of_an_image_without_proposals(model: Any) -> None:
    """A generator that proposes nothing is no error."""
    least = model.proposal_generator.min_box_size
    model.proposal_generator.min_box_size = 1e6
    try:
        with torch.no_grad():
            for result in model([{"image": image} for image in IMAGES[:2]]):
                assert len(result["instances"]) == 0
                assert result["instances"].pred_masks.shape[0] == 0
    finally:
        model.proposal_generator.min_box_size = least
