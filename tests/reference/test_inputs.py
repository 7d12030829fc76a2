"""The inputs of a reference: of a small trained model, of models without detections; who is asked."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.contract import Contract
from detexport.data.coco import CocoRecord, load_coco
from detexport.modeling import build_model
from detexport.parity.compare import compare
from detexport.parity.settings import default_settings
from detexport.processing.postprocess import postprocess
from detexport.reference.batching import group_by_call
from detexport.reference.eager_outputs import run_eager_batch, with_score_threshold
from detexport.reference.input_images import ASPECT
from detexport.reference.input_kinds import (
    BATCH,
    BLACK,
    FLAT,
    MOST,
    NEAR,
    NOISE,
    ODD,
    TALL,
    TIES,
    WHITE,
    WIDE,
    probed_threshold,
)
from detexport.reference.inputs import inputs
from detexport.reference.store import DATA, Reference, SampleMeta, read_reference, write_reference
from detexport.runtime.onnxruntime import OnnxRuntime
from synthetic_shapes import synthetic_shapes
from tiny_artifacts import write_tiny_onnx
from tolerances import TOLERANCE

ROOT = Path(__file__).parents[2]
CLASSES = ("circle", "rectangle", "triangle", "star", "ring")
PLAN = replace(default_settings().plan, scales=(1.0, 0.75))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[CocoRecord, ...]:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=3).write(folder)
    return load_coco(folder, "val").images


class Counted:
    """The small Faster R-CNN as it was trained, and how often it was run."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.net = build_model(load_cfg(ROOT / "conf/detectron2/faster_rcnn.yaml")).eval()
        load_weights(self.net, read_state_dict(ROOT / "checkpoints/faster_rcnn.safetensors"))
        self.contract: Contract = self.net.contract(CLASSES)
        self.lowered = with_score_threshold(self.net, probed_threshold(self.contract))
        self.runs = 0

    def run(self, images: Any, sizes: Any) -> list[dict[str, Any]]:
        self.runs += 1
        return run_eager_batch(self.net, images, sizes, self.contract)

    def probe(self, image: np.ndarray) -> np.ndarray:
        self.runs += 1
        (outputs,) = run_eager_batch(self.lowered, [image], [image.shape[1:]], self.contract)
        return outputs["scores"]


@pytest.fixture(scope="module")
def model() -> Counted:
    return Counted()


def write(model: Counted, records: tuple[CocoRecord, ...], folder: Path) -> Reference:
    samples = inputs(records, model.contract, PLAN, model.run, model.probe)
    write_reference(folder, samples, contract=model.contract, environment={})
    return read_reference(folder)


@pytest.fixture(scope="module")
def folder(model: Counted, records: tuple[CocoRecord, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs") / "reference"
    model.runs = 0
    write(model, records, folder)
    return folder


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return read_reference(folder)


def of_kind(reference: Reference, kind: str) -> list[SampleMeta]:
    return [sample.meta for sample in reference.samples if sample.meta.kind == kind]


def test_every_kind_of_input_is_there(
    model: Counted, reference: Reference, records: tuple[CocoRecord, ...]
) -> None:
    kinds = Counter(sample.meta.kind for sample in reference.samples)
    assert kinds[DATA] == len(records) * len(PLAN.scales)
    for kind in (ODD, WIDE, TALL, TIES, FLAT, BLACK, WHITE, NOISE, MOST):
        assert kinds[kind] == 1, kind
    assert kinds[BATCH] == 6
    assert model.runs <= PLAN.most_runs(len(records), model.contract)


def test_sizes_are_odd_and_extreme_both_ways(reference: Reference) -> None:
    ((odd,), (wide,), (tall,)) = (of_kind(reference, kind) for kind in (ODD, WIDE, TALL))
    assert all(side % 2 for side in odd.image_size)
    assert wide.image_size[1] == ASPECT * wide.image_size[0]
    assert tall.image_size[0] == ASPECT * tall.image_size[1]


def test_the_index_says_what_was_reached(folder: Path, reference: Reference) -> None:
    coverage = reference.coverage
    counts = [sample.detections for sample in reference.samples]
    assert coverage.kinds == dict(Counter(sample.meta.kind for sample in reference.samples))
    assert coverage.most == max(counts) == coverage.max_detections
    assert coverage.without == counts.count(0) > 0
    assert coverage.with_one == counts.count(1) > 0
    assert coverage.ties is not None
    assert coverage.ties > 0
    assert coverage.gaps == ()
    assert json.loads((folder / "reference.json").read_text())["input_coverage"]["most"] == max(counts)


def test_scores_lie_within_a_hair_of_the_threshold_on_both_sides(
    model: Counted, reference: Reference
) -> None:
    (near,) = reference.coverage.thresholds
    assert near.threshold == model.contract.score_threshold
    assert near.above is not None
    assert near.below is not None
    assert near.above < TOLERANCE.score
    assert near.below < TOLERANCE.score
    for sample in reference.samples:
        if sample.meta.kind == NEAR:
            # What the meta says is what the model says; below the threshold the lowered copy alone knows.
            distance = sample.meta.threshold_distance
            assert distance is not None
            scores = model.probe(sample.image()).astype(np.float64) - near.threshold
            assert np.abs(scores - distance).min() < 1e-12
            given = sample.expected()["scores"].astype(np.float64) - near.threshold
            assert bool((np.abs(given - distance) < 1e-12).any()) == (distance > 0)
            assert f"{abs(distance):.2g}" in sample.meta.note


@pytest.mark.parametrize("by", [1e-3, -1e-3])
def test_a_threshold_that_moved_by_a_thousandth_decides_otherwise_on_these_inputs(
    model: Counted, reference: Reference, by: float
) -> None:
    moved = with_score_threshold(model.net, model.contract.score_threshold + by)
    flips = []
    for sample in reference.samples:
        if sample.meta.kind == NEAR:
            size = sample.meta.output_size
            (outputs,) = run_eager_batch(moved, [sample.image()], [size], model.contract)
            found = compare(
                sample.expected(), outputs, tolerance=TOLERANCE, contract=model.contract, scale=1.0
            )
            flips += [one for one in (*found.missing, *found.extra) if not one.excused]
    assert flips


def test_the_lowered_copy_gives_the_same_detections_and_some_more(
    model: Counted, reference: Reference
) -> None:
    sample = next(sample for sample in reference.samples if sample.meta.kind == NEAR)
    scores = model.probe(sample.image())
    kept = scores[scores > model.contract.score_threshold]
    np.testing.assert_array_equal(kept, sample.expected()["scores"])
    assert model.net.roi_heads.box_predictor.score_threshold == model.contract.score_threshold


def test_a_batch_holds_what_the_model_gives_for_all_its_images_at_once(
    model: Counted, reference: Reference
) -> None:
    batches = [group for group in group_by_call(reference.samples) if group[0].meta.batch]
    assert len(batches) == reference.coverage.batches == 2
    for batch in batches:
        assert len({sample.meta.image_size for sample in batch}) > 1
        sizes = [sample.meta.output_size for sample in batch]
        given = model.run([sample.image() for sample in batch], sizes)
        for sample, outputs in zip(batch, given, strict=True):
            np.testing.assert_array_equal(sample.expected()["scores"], outputs["scores"])
    assert sum(len(group) for group in group_by_call(reference.samples)) == len(reference.samples)


def test_a_reference_of_inputs_has_the_same_bytes_every_time(
    model: Counted, records: tuple[CocoRecord, ...], folder: Path, tmp_path: Path
) -> None:
    write(model, records, tmp_path / "again")
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
    assert len(names) > 20
    assert names == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*"))
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize("kind", ["semantic", "proposals"])
def test_models_without_detections_have_what_makes_sense(
    kind: str, records: tuple[CocoRecord, ...], tmp_path: Path
) -> None:
    contract = write_tiny_onnx(tmp_path / "artifact", kind).contract
    session = OnnxRuntime(threads=1).open(tmp_path / "artifact")

    def run(images: Any, sizes: Any) -> list[dict[str, Any]]:
        return [
            postprocess(session(image), image.shape[1:], size, contract)
            for image, size in zip(images, sizes, strict=True)
        ]

    write_reference(
        tmp_path / "r", inputs(records, contract, PLAN, run, None), contract=contract, environment={}
    )
    coverage = read_reference(tmp_path / "r").coverage
    assert {ODD, WIDE, TALL, FLAT, BLACK, WHITE, NOISE, TIES, BATCH} < set(coverage.kinds)
    assert (MOST in coverage.kinds) == (kind == "proposals")
    assert NEAR not in coverage.kinds
    assert coverage.thresholds == ()
    assert coverage.without is None
