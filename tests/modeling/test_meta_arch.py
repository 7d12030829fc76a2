"""Each further architecture: its graphs compute what it computes eagerly, and it learns."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detexport.config.cfg import load_cfg
from detexport.contract import PanopticRule
from detexport.errors import ConfigError
from detexport.export import Provenance
from detexport.modeling import build_model
from detexport.modeling.meta_arch.panoptic_fpn import PanopticCombination, PanopticFPN
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.structures import BitMasks, Boxes, Instances
from detexport.utils.events import EventStorage
from makers import maker
from small_architectures import draw, ground_truth, small_cfg, small_model

CONFIG = Path(__file__).parents[2] / "conf/detectron2/mask_rcnn.yaml"
SIZES = [(64, 96), (33, 65), (97, 31), (1, 1), (128, 128), (50, 70), (160, 45), (32, 32)]
SMALL: dict[str, Any] = {"MODEL.RESNETS.DEPTH": 18, "MODEL.MASK_ON": False}


@dataclass(frozen=True)
class Case:
    """An architecture, small.

    Args:
        overrides: what its configuration changes in the Mask R-CNN's.
        key: of ``forward``'s outputs.
        predictor: the layer whose weights are drawn wide, so that its scores differ.
        threshold: the object and attribute that leaves no, one or several detections, where there is one.
    """

    overrides: dict[str, Any]
    key: str
    predictor: str
    threshold: tuple[str, str] | None = None


SEM_SEG = {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5, "MODEL.SEM_SEG_HEAD.CONVS_DIM": 64}
CASES = {
    "RetinaNet": Case(
        {
            "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
            "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
            "MODEL.RETINANET.NUM_CLASSES": 5,
            "MODEL.RETINANET.NUM_CONVS": 2,
            "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 100,
        },
        key="instances",
        predictor="head.cls_score",
        threshold=("", "score_threshold"),
    ),
    "ProposalNetwork": Case(
        {"MODEL.RPN.POST_NMS_TOPK_TEST": 20}, "proposals", "proposal_generator.rpn_head.anchor_deltas"
    ),
    "SemanticSegmentor": Case(SEM_SEG, "sem_seg", "sem_seg_head.predictor"),
    "PointRend": Case(
        {
            **SEM_SEG,
            "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
            "MODEL.SEM_SEG_HEAD.NAME": "PointRendSemSegHead",
            "MODEL.POINT_HEAD.IN_FEATURES": ["p2"],
            "MODEL.POINT_HEAD.NUM_CLASSES": 5,
            "MODEL.POINT_HEAD.FC_DIM": 32,
            "MODEL.POINT_HEAD.SUBDIVISION_STEPS": 2,
        },
        key="sem_seg",
        predictor="sem_seg_head.point_head.predictor",
    ),
    "PanopticFPN": Case(
        {"MODEL.MASK_ON": True, **SEM_SEG},
        key="instances",
        predictor="roi_heads.box_predictor.cls_score",
        threshold=("roi_heads.box_predictor", "score_threshold"),
    ),
}


IMAGES = [draw(*size, seed) for seed, size in enumerate(SIZES)]


def build(name: str, **further: Any) -> Any:
    cfg = load_cfg(CONFIG)
    overrides = {"MODEL.META_ARCHITECTURE": name, **SMALL, **CASES[name].overrides, **further}
    cfg.merge_from_list([part for item in overrides.items() for part in item])
    torch.manual_seed(0)
    return build_model(cfg)


def set_threshold(model: Any, case: Case) -> None:
    """The middle of the widest gap between scores that leaves no, one and several detections."""
    assert case.threshold is not None
    owner, attribute = model.get_submodule(case.threshold[0]), case.threshold[1]
    setattr(owner, attribute, 0.0)
    with torch.no_grad():
        found = [model.detect([image])[0]["scores"] for image in IMAGES]
    scores = torch.cat(found).unique()
    gaps = (scores[1:] - scores[:-1]).argsort(descending=True)
    for low in gaps.tolist():
        threshold = float(scores[low] + scores[low + 1]) / 2
        counts = {int((values > threshold).sum()) for values in found}
        if {0, 1} < counts:
            setattr(owner, attribute, threshold)
            return
    raise AssertionError("no threshold leaves no, one and several detections")


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> Any:
    model = build(name).eval()
    predictor = model.get_submodule(CASES[name].predictor)
    torch.nn.init.normal_(predictor.weight, std=0.1)
    torch.nn.init.zeros_(predictor.bias)
    if CASES[name].threshold is not None:
        set_threshold(model, CASES[name])
    return model


@pytest.fixture(scope="module")
def names(model: Any) -> tuple[str, ...]:
    return model.contract(CLASSES[: model.num_classes]).output_names


CLASSES = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module", params=["trace", "script"])
def graph(model: Any, names: tuple[str, ...], request: pytest.FixtureRequest) -> Callable[[Tensor], dict]:
    if request.param == "script":
        scripted = torch.jit.script(model.batch_graph())
        return lambda image: scripted([image])[0]
    traced = torch.jit.trace(model.image_graph(names), IMAGES[-2], check_trace=False)
    return lambda image: dict(zip(names, traced(image), strict=True))


@pytest.mark.parametrize("size", range(len(SIZES)), ids=[f"{h}x{w}" for h, w in SIZES])
def test_graphs_equal_eager_to_the_bit(model: Any, names: tuple[str, ...], graph: Any, size: int) -> None:
    with torch.no_grad():
        found, expected = graph(IMAGES[size]), model.detect([IMAGES[size]])[0]
    assert set(found) == set(expected) == set(names)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


def test_the_contract_says_what_the_graph_does(model: Any) -> None:
    contract = model.contract(CLASSES[: model.num_classes])
    for image in (IMAGES[0], IMAGES[3]):
        with torch.no_grad():
            found = model.detect([image])[0]
        assert set(found) == set(contract.output_names)
        sizes = dict(zip("CHW", image.shape, strict=True))
        for spec in contract.outputs:
            value = found[spec.name]
            assert str(value.dtype) == f"torch.{spec.dtype}"
            for want, size in zip(spec.shape, value.shape, strict=True):
                assert size == sizes.get(want, size) if isinstance(want, str) else size == want


@torch.no_grad()
def test_a_batch_is_padded_to_one_size(model: Any) -> None:
    """An image whose padding does not change gives in a batch what it gives alone."""
    images = [IMAGES[0], IMAGES[5]]  # 64 x 96 both, the second padded from 50 x 70
    together = model.detect(images)
    for image, batched in zip(images, together, strict=True):
        (alone,) = model.detect([image])
        assert set(batched) == set(alone)
        for name, value in alone.items():
            torch.testing.assert_close(batched[name], value, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_onnx_computes_what_the_model_computes(model: Any, names: tuple[str, ...], tmp_path: Path) -> None:
    contract = model.contract(CLASSES[: model.num_classes])
    provenance = Provenance(weights_sha256="w", config_sha256="c")
    folder = tmp_path / "onnx"
    maker("onnx").export(model, IMAGES[4].numpy(), folder, contract=contract, provenance=provenance)
    session = OnnxRuntime().open(folder)
    for image in IMAGES:
        found = session(image.numpy())
        with torch.no_grad():
            expected = model.detect([image])[0]
        for name in names:
            torch.testing.assert_close(
                torch.from_numpy(found[name]),
                expected[name],
                rtol=1e-4,
                atol=2e-3,
                msg=f"{name} {image.shape}",
            )


@torch.no_grad()
def test_forward_gives_the_graphs_detections_in_the_outputs_frame(name: str, model: Any) -> None:
    key = CASES[name].key
    for image in IMAGES:
        height, width = image.shape[1:]
        (plain,) = model([{"image": image}])
        (scaled,) = model([{"image": image, "height": 2 * height, "width": 3 * width}])
        raw = model.detect([image])[0]
        if key == "sem_seg":
            assert torch.equal(plain[key], raw[key])
            assert scaled[key].shape == (5, 2 * height, 3 * width)
            continue
        boxes, scores = (
            ("pred_boxes", "scores") if key == "instances" else ("proposal_boxes", "objectness_logits")
        )
        clipped = Boxes(raw[boxes].clone())
        clipped.clip((height, width))
        kept = clipped.nonempty()
        assert plain[key].image_size == (height, width)
        assert torch.equal(plain[key].get(boxes).tensor, clipped.tensor[kept])
        assert torch.equal(plain[key].get(scores), raw[scores][kept])
        stretched = clipped.tensor[kept] * torch.tensor([3.0, 2.0, 3.0, 2.0])
        torch.testing.assert_close(scaled[key].get(boxes).tensor, stretched)


def training_batch() -> list[dict[str, Any]]:
    batch = []
    for seed in range(2):
        image = torch.full((3, 96, 96), 40, dtype=torch.uint8)
        boxes = torch.tensor([[8.0, 12.0, 40.0, 44.0], [50.0, 30.0, 90.0, 80.0]]) + 2 * seed
        sem_seg = torch.zeros(96, 96, dtype=torch.int64)
        for index, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
            image[index, y0:y1, x0:x1] = 220
            sem_seg[y0:y1, x0:x1] = index + 1
        masks = torch.stack([sem_seg == 1, sem_seg == 2])
        instances = Instances(
            (96, 96),
            gt_boxes=Boxes(boxes),
            gt_classes=torch.tensor([seed, 3]),
            gt_masks=BitMasks(masks),
        )
        batch.append({"image": image, "instances": instances, "sem_seg": sem_seg})
    return batch


def test_training_reaches_every_parameter_and_lowers_the_losses(name: str) -> None:
    model = build(name).train()
    batch = training_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)
    totals = []
    for step in range(30):
        torch.manual_seed(0)  # the same anchors are drawn
        losses = model(batch)
        loss = sum(losses.values())
        assert torch.isfinite(loss), losses
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert not without
        optimizer.step()
        totals.append(loss.item())
    assert totals[-1] < 0.7 * totals[0]


def test_images_without_objects_train(name: str) -> None:
    model = build(name).train()
    batch = training_batch()
    nothing = Instances((96, 96), gt_boxes=Boxes([]), gt_classes=torch.zeros(0, dtype=torch.int64))
    for example in batch:
        example["instances"] = nothing
        example["sem_seg"] = torch.full((96, 96), 255)
    losses = model(batch)
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()


def combined(scores: list[float], masks: list[tuple[slice, slice]], **options: Any) -> Any:
    pasted = torch.zeros(len(masks), 4, 6, dtype=torch.bool)
    for mask, where in zip(pasted, masks, strict=True):
        mask[where] = True
    instances = Instances(
        (4, 6),
        scores=torch.tensor(scores),
        pred_classes=torch.arange(len(masks)),
        pred_masks=pasted,
    )
    classes = torch.tensor([[2, 2, 2, 0, 1, 1]] * 4)
    settings = {"overlap_threshold": 0.5, "stuff_area_limit": 6, "instances_score_threshold": 0.5}
    return PanopticCombination(**{**settings, **options})(instances, classes)


def test_things_take_free_pixels_by_score_and_stuff_the_rest() -> None:
    left, most = (slice(0, 4), slice(0, 1)), (slice(0, 4), slice(0, 3))
    ids, segments = combined([0.6, 0.9, 0.4], [most, left, (slice(0, 4), slice(4, 6))])
    assert ids.dtype == torch.int32
    assert ids.tolist() == [[1, 2, 2, 0, 3, 3]] * 4
    assert segments == [
        {"id": 1, "isthing": True, "score": pytest.approx(0.9), "category_id": 1, "instance_id": 1},
        {"id": 2, "isthing": True, "score": pytest.approx(0.6), "category_id": 0, "instance_id": 0},
        {"id": 3, "isthing": False, "category_id": 1, "area": 8},
    ]
    # A third of it is taken; stuff of just the limit stays.
    ids, segments = combined([0.6, 0.9], [most, left], overlap_threshold=0.3, stuff_area_limit=8)
    assert ids.tolist() == [[1, 3, 3, 0, 2, 2]] * 4
    assert [segment.get("area") for segment in segments] == [None, 8, 8]
    ids, segments = combined([], [], stuff_area_limit=9)
    assert ids.tolist() == [[1, 1, 1, 0, 0, 0]] * 4


def test_a_thing_without_pixels_or_with_none_left_is_dropped() -> None:
    nothing, left = (slice(0, 0), slice(0, 0)), (slice(0, 4), slice(0, 1))
    _, segments = combined([0.9, 0.8, 0.7], [nothing, left, left], overlap_threshold=1.0)
    assert [segment["instance_id"] for segment in segments if segment["isthing"]] == [1]


def test_without_an_area_limit_stuff_that_things_cover_stays_a_segment() -> None:
    ids, segments = combined([0.9], [(slice(0, 4), slice(4, 6))], stuff_area_limit=0)
    assert ids.tolist() == [[3, 3, 3, 0, 1, 1]] * 4
    assert [(segment["category_id"], segment.get("area")) for segment in segments[1:]] == [(1, 0), (2, 12)]


@torch.no_grad()
def test_panoptic_outputs_are_combined_unless_left_apart() -> None:
    example = {"image": IMAGES[4], "height": 100, "width": 90}
    (apart,) = build("PanopticFPN", **{"MODEL.PANOPTIC_FPN.COMBINE.ENABLED": False}).eval()([example])
    assert set(apart) == {"instances", "sem_seg"}
    (joined,) = build("PanopticFPN").eval()([example])
    assert joined["panoptic_seg"][0].shape == (100, 90)
    assert torch.equal(joined["sem_seg"], apart["sem_seg"])


@pytest.mark.filterwarnings("error")
def test_things_may_carry_gradients() -> None:
    things = Instances(
        (2, 3),
        scores=torch.tensor([0.9], requires_grad=True),
        pred_classes=torch.tensor([1]),
        pred_masks=torch.ones(1, 2, 3, dtype=torch.bool),
    )
    combination = PanopticCombination(
        overlap_threshold=0.5, stuff_area_limit=1, instances_score_threshold=0.5
    )
    ids, segments = combination(things, torch.zeros(2, 3, dtype=torch.int64))
    assert ids.tolist() == [[1] * 3] * 2
    assert segments[0]["score"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("RetinaNet", "MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "iou"),
        ("RetinaNet", "MODEL.RETINANET.NORM", "IN"),
        ("RetinaNet", "MODEL.RETINANET.IN_FEATURES", ["p2", "p3"]),
        ("RetinaNet", "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4"]),
        ("PanopticFPN", "MODEL.MASK_ON", False),
        ("SemanticSegmentor", "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p6"]),
        ("SemanticSegmentor", "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 8),
    ],
)
def test_what_is_not_supported_is_refused_by_name(name: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key.rpartition(".")[2]):
        build(name, **{key: value})


def test_images_of_a_training_are_recorded_each_period() -> None:
    cfg = small_cfg("mask_rcnn")
    cfg.VIS_PERIOD = 2
    torch.manual_seed(0)
    model = build_model(cfg).train()
    inputs = [{"image": draw(64, 96, 1), "instances": ground_truth()}]
    with EventStorage(start_iter=1) as storage:
        model(inputs)
        assert storage.images == {}
        storage.step()
        model(inputs)
    boxes, iteration = storage.images["training/ground truth and proposals"]
    assert (tuple(boxes.shape), iteration) == ((3, 64, 192), 2)
    masks, _ = storage.images["training/predicted and true masks"]
    assert masks.shape[0] == 3
    assert masks.shape[2] == 2 * 28


@pytest.mark.parametrize("combine_on", [True, False])
def test_a_panoptic_model_by_the_documented_arguments(combine_on: bool) -> None:
    built = small_model("panoptic_fpn")
    model = PanopticFPN(
        sem_seg_head=built.sem_seg_head,
        combine_overlap_thresh=0.25,
        combine_stuff_area_thresh=10,
        combine_instances_score_thresh=0.75,
        combine_on=combine_on,
        backbone=built.backbone,
        proposal_generator=built.proposal_generator,
        roi_heads=built.roi_heads,
        pixel_mean=(0.0, 0.0, 0.0),
        pixel_std=(1.0, 1.0, 1.0),
    )
    assert model.contract(()).panoptic == (PanopticRule(0.25, 10, 0.75) if combine_on else None)
    cfg = small_cfg("panoptic_fpn")
    cfg.MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH = 0.125
    assert build_model(cfg).contract(()).panoptic.overlap_threshold == 0.125
