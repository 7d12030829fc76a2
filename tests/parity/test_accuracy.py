"""The task metric of an artifact and of the eager model; reduced precision is evaluated by it alone."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from detexport.artifact import Artifact, read_artifact
from detexport.contract import ResizeRule
from detexport.data.coco import CocoDataset, load_coco
from detexport.errors import DataError
from detexport.execution.sessions import OneSession
from detexport.metrics.evaluate import Evaluation, evaluate_predictions
from detexport.metrics.tallies import Matches, Pixels, Segments, pack_tallies
from detexport.parity.accuracy import (
    Accuracy,
    ClassAccuracy,
    class_names,
    compare_accuracy,
    measure_accuracy,
)
from detexport.parity.measures import limited_errors
from detexport.parity.validate import validate
from detexport.processing.postprocess import postprocess
from detexport.reference.store import EagerAccuracy, Reference, SampleMeta, read_reference, write_reference
from detexport.runtime.session import Session
from synthetic_shapes import synthetic_shapes
from tiny_artifacts import tiny_contract
from tolerances import TOLERANCE

PERFECT = {"bbox/AP": 1.0, "bbox/AP50": 1.0, "segm/AP": 0.9}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    path = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=6).write(path)
    return load_coco(path, "val")


@dataclass
class Finder:
    """A session that finds the boxes that are annotated, of the first image first."""

    dataset: CocoDataset
    artifact: Artifact
    device: str = "cpu"
    shift_px: float = 0.0
    left_out: int = 0
    _records: Iterator = field(init=False)

    def __post_init__(self) -> None:
        self._records = iter(self.dataset.images)

    def __call__(
        self, image: np.ndarray, output_size: tuple[int, int] | None = None
    ) -> dict[str, np.ndarray]:
        annotations = next(self._records).annotations[self.left_out :]
        boxes = np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return {
            "pred_boxes": boxes + np.float32(self.shift_px),
            "scores": np.linspace(0.9, 0.6, len(boxes), dtype=np.float32),
            "pred_classes": np.array([a["category_id"] for a in annotations], np.int64),
        }


@pytest.fixture
def artifact(tiny_onnx: Path) -> Artifact:
    outputs = tiny_contract().outputs[:3]
    return replace(read_artifact(tiny_onnx), contract=tiny_contract(outputs=outputs, resize=ResizeRule(0, 0)))


def eager(dataset: CocoDataset, **metrics: float) -> EagerAccuracy:
    return EagerAccuracy(metrics or {"bbox/AP": 1.0}, tuple(image.image_id for image in dataset.images))


def measured(
    session: Session, dataset: CocoDataset, reached: EagerAccuracy, budget: float = 0.02
) -> Accuracy:
    return measure_accuracy(OneSession(session), reached, dataset, precision="int8", budget=budget, least=0.1)


def test_what_finds_the_same_passes(dataset: CocoDataset, artifact: Artifact) -> None:
    accuracy = measured(Finder(dataset, artifact), dataset, eager(dataset))
    assert accuracy.images == 6
    assert accuracy.differences == {"bbox/AP": pytest.approx(0.0)}
    assert accuracy.faults == ()


def test_what_finds_less_does_not(dataset: CocoDataset, artifact: Artifact) -> None:
    accuracy = measured(Finder(dataset, artifact, left_out=1), dataset, eager(dataset))
    assert accuracy.differences["bbox/AP"] < -0.02
    (fault,) = accuracy.faults
    assert "bbox/AP" in fault
    assert "limit 0.02" in fault


def test_only_the_images_that_eager_was_evaluated_on_count(dataset: CocoDataset, artifact: Artifact) -> None:
    first = replace(eager(dataset), image_ids=(dataset.images[0].image_id,))
    accuracy = measured(Finder(dataset, artifact), dataset, first)
    assert accuracy.images == 1
    assert accuracy.faults == ()


@pytest.mark.parametrize(
    ("reached", "words"),
    [
        ({"bbox/AP": 0.05}, "too low to compare with"),
        ({"bbox/AP50": 1.0}, "no metric"),
        (PERFECT, "segm/AP 0.0000"),
    ],
)
def test_what_proves_nothing_or_is_not_given(
    dataset: CocoDataset, artifact: Artifact, reached: dict[str, float], words: str
) -> None:
    accuracy = measured(Finder(dataset, artifact), dataset, EagerAccuracy(reached, eager(dataset).image_ids))
    assert any(words in fault for fault in accuracy.faults)


@pytest.fixture
def reference(tmp_path: Path, dataset: CocoDataset, artifact: Artifact) -> Reference:
    session = Finder(dataset, artifact)

    def samples() -> Iterator[tuple[SampleMeta, np.ndarray, dict]]:
        for record in dataset.images:
            size = (record.height, record.width)
            meta = SampleMeta(f"{record.image_id}", record.image_id, record.file_name.name, size, size, 1.0)
            image = np.zeros((3, *size), np.uint8)
            yield meta, image, postprocess(session(image), size, size, artifact.contract)

    write_reference(
        tmp_path / "reference", samples(), contract=artifact.contract, environment={}, accuracy=eager(dataset)
    )
    return read_reference(tmp_path / "reference")


def verdict(dataset: CocoDataset, reference: Reference, session: Session, *, reduced: bool) -> dict:
    second = Finder(dataset, session.artifact, shift_px=getattr(session, "shift_px", 0.0))
    measure = partial(
        measure_accuracy, eager=eager(dataset), dataset=dataset, precision="int8", budget=0.02, least=0.1
    )
    report = validate(
        session,
        reference,
        TOLERANCE,
        job="j",
        measure=lambda _: measure(OneSession(second)),
        reduced=reduced,
    )
    return report.to_json()


def test_a_shift_beyond_the_tolerance_is_evidence_alone(
    dataset: CocoDataset, reference: Reference, artifact: Artifact
) -> None:
    shifted = Finder(dataset, artifact, shift_px=0.05)
    reduced = verdict(dataset, reference, shifted, reduced=True)
    assert reduced["passed"]
    assert reduced["max"]["box_error_px"] == pytest.approx(0.05, abs=1e-3)
    assert [(measure.words, limit) for measure, _, limit in limited_errors(reduced)] == [
        ("delta bbox/AP vs eager", "0.02")
    ]
    full = verdict(dataset, reference, Finder(dataset, artifact, shift_px=0.05), reduced=False)
    assert not full["passed"]
    words = [measure.words for measure, _, _ in limited_errors(full)]
    assert words == ["boxes", "scores", "delta bbox/AP vs eager"]


def test_what_cannot_be_compared_stays_a_reason(
    dataset: CocoDataset, reference: Reference, artifact: Artifact
) -> None:
    class Nan(Finder):
        def __call__(
            self, image: np.ndarray, output_size: tuple[int, int] | None = None
        ) -> dict[str, np.ndarray]:
            return {**super().__call__(image, output_size), "scores": np.full(0, np.nan, np.float32)}

    report = verdict(dataset, reference, Nan(dataset, artifact), reduced=True)
    assert not report["passed"]
    assert any("scores" in reason for reason in report["reasons"])


def test_data_without_the_annotations_says_nothing_of_the_artifact(
    dataset: CocoDataset, reference: Reference, artifact: Artifact
) -> None:
    def unannotated(_: Session) -> Accuracy:
        raise DataError("no annotations")

    with pytest.raises(DataError):
        validate(Finder(dataset, artifact), reference, TOLERANCE, job="j", measure=unannotated)


def test_the_reference_keeps_what_eager_reached(
    tmp_path: Path, dataset: CocoDataset, artifact: Artifact
) -> None:
    reached = eager_evaluated(dataset, artifact)
    write_reference(tmp_path / "r", [], contract=artifact.contract, environment={}, accuracy=reached)
    stored = read_reference(tmp_path / "r").accuracy
    assert stored == reached
    assert stored.tallies.keys() == reached.tallies.keys()
    for name, array in reached.tallies.items():
        np.testing.assert_array_equal(stored.tallies[name], array)


def eager_evaluated(dataset: CocoDataset, artifact: Artifact) -> EagerAccuracy:
    """An eager model that finds everything."""
    session = Finder(dataset, artifact)
    evaluation = evaluate_predictions(((record, session(np.zeros(0))) for record in dataset.images), dataset)
    return EagerAccuracy(evaluation.metrics, evaluation.image_ids, pack_tallies(evaluation.tallies))


def test_each_image_is_held_against_itself(dataset: CocoDataset, artifact: Artifact) -> None:
    """Of every image the first object is missed, so all lose, those with one object most."""
    accuracy = measured(Finder(dataset, artifact, left_out=1), dataset, eager_evaluated(dataset, artifact))
    low, high = accuracy.intervals["bbox/AP"]
    assert low <= accuracy.differences["bbox/AP"] <= high < 0
    assert f"[{low:+.4f}, {high:+.4f}] (limit 0.02)" in accuracy.faults[0]
    counts = accuracy.per_image["bbox/AP"]
    annotated = [record for record in dataset.images if record.annotations]
    assert (counts.better, counts.worse, counts.equal) == (0, len(annotated), 0)
    assert counts.undefined == len(dataset.images) - len(annotated)
    losses = [loss for _, loss in counts.worst]
    assert losses == sorted(losses)
    assert {id for id, _ in counts.worst} <= {record.image_id for record in annotated}


def test_what_finds_the_same_is_equal_on_every_image(dataset: CocoDataset, artifact: Artifact) -> None:
    accuracy = measured(Finder(dataset, artifact), dataset, eager_evaluated(dataset, artifact))
    assert accuracy.intervals == {"bbox/AP": (0, 0)}
    counts = accuracy.per_image["bbox/AP"]
    assert (counts.better, counts.worse, counts.worst) == (0, 0, ())
    assert counts.equal + counts.undefined == len(dataset.images)
    json.dumps(accuracy.to_json(), allow_nan=False)


def test_accuracy_is_reported_by_class(dataset: CocoDataset, artifact: Artifact) -> None:
    accuracy = measured(Finder(dataset, artifact, left_out=1), dataset, eager_evaluated(dataset, artifact))
    classes = accuracy.per_class["bbox/AP"]
    assert tuple(classes) == dataset.class_names
    annotated = [one for record in dataset.images for one in record.annotations]
    for index, one in enumerate(classes.values()):
        assert one.objects == sum(annotation["category_id"] == index for annotation in annotated)
    present = [one for one in classes.values() if one.objects]
    assert np.mean([one.artifact for one in present]) == pytest.approx(accuracy.artifact["bbox/AP"])
    assert [one.eager for one in present] == pytest.approx([1.0] * len(present))
    curve = accuracy.curves["bbox/AP"]["0.50"]
    assert curve.eager == (1.0,) * 101
    assert np.mean(curve.artifact) == pytest.approx(accuracy.artifact["bbox/AP50"], abs=1e-4)
    json.dumps(accuracy.to_json(), allow_nan=False)


def test_panoptic_quality_and_iou_are_reported_by_class(dataset: CocoDataset, artifact: Artifact) -> None:
    """Also if one side alone predicts a class, and if two classes share a name."""
    iou = Pixels(np.array([[8.0], [0.0]]), np.array([[10.0], [0.0]]))
    more = Pixels(np.array([[6.0], [0.0], [0.0]]), np.array([[10.0], [0.0], [2.0]]))
    found = np.array([[1.6], [0.0]]), *(np.array([[2], [0]]), np.array([[0], [0]]), np.array([[0], [3]]))
    lost = np.array([[0.0], [0.0]]), *(np.array([[0], [0]]), np.array([[0], [1]]), np.array([[2], [3]]))
    eager, reached = (
        Evaluation({}, (1,), {"sem_seg/mIoU": pixels, "panoptic/PQ": Segments(*segments)})
        for pixels, segments in ((iou, found), (more, lost))
    )
    accuracy = compare_accuracy(
        EagerAccuracy({}, (1,), pack_tallies(eager.tallies)),
        reached,
        names={"sem_seg/mIoU": ("things", "sky"), "panoptic/PQ": ("water", "water")},
        precision="int8",
        budget=0.02,
        least=0.1,
    )
    assert accuracy.per_class["sem_seg/mIoU"] == {
        "things": ClassAccuracy(None, 0.8, 0.6),
        "sky": ClassAccuracy(None, None, None),
        "class 2": ClassAccuracy(None, None, 0.0),
    }
    assert accuracy.per_class["panoptic/PQ"] == {
        "water (0)": ClassAccuracy(2, 0.8, 0.0),
        "water (1)": ClassAccuracy(3, 0.0, 0.0),
    }
    contract = replace(artifact.contract, stuff_class_names=("things", "sky"))
    names = class_names(dataset, contract)
    assert names["segm/AP"] == dataset.class_names
    assert names["panoptic/PQ"] == (*dataset.class_names, "sky")
    assert names["sem_seg/mIoU"] == ("things", "sky")


def test_a_weak_eager_model_fails_reduced_precision_alone(dataset: CocoDataset, artifact: Artifact) -> None:
    """In float32 the other verdicts hold; a difference stays one."""
    accuracy = measured(Finder(dataset, artifact), dataset, eager(dataset))
    weak = replace(accuracy, eager={"bbox/AP": 0.05}, artifact={"bbox/AP": 0.05})
    assert "too low to compare with" in weak.faults[0]
    full = replace(weak, precision="float32")
    assert full.faults == ()
    assert "too low to compare with" in full.to_json()["notes"][0]
    assert "difference +0.9500" in replace(full, artifact={"bbox/AP": 1.0}).faults[0]


def test_a_tie_across_images_fails_no_job_in_float32() -> None:
    """Rounding swaps a right and a wrong detection of two images; on so few that is much of the metric."""

    def side(*correct: bool) -> tuple[Matches, float]:
        matches = Matches(
            image=np.arange(2),
            category=np.zeros(2, np.int64),
            correct=np.array([correct] * 10),
            ignored=np.zeros((10, 2), bool),
            objects=np.ones((1, 2), np.int64),
            score=np.array([0.90001, 0.9]),
        )
        return matches, float(matches.values(np.ones((1, 2)))[0])

    (mine, value), (other, reached) = side(True, False), side(False, True)
    expected = EagerAccuracy({"bbox/AP": value}, (1, 2), pack_tallies({"bbox/AP": mine}))
    found = Evaluation({"bbox/AP": reached}, (1, 2), {"bbox/AP": other})
    limits = {"precision": "float32", "budget": 0.001, "least": 0.1}
    assert compare_accuracy(expected, found, tie=2e-4, **limits).faults == ()
    assert "difference -0.2" in compare_accuracy(expected, found, tie=1e-6, **limits).faults[0]
    lost = Evaluation({"bbox/AP": 0.0}, (1, 2), {"bbox/AP": side(False, False)[0]})
    assert compare_accuracy(expected, lost, tie=2e-4, **limits).faults


def test_data_that_lack_an_image_that_eager_was_evaluated_on(
    dataset: CocoDataset, artifact: Artifact
) -> None:
    reached = replace(eager(dataset), image_ids=(987,))
    with pytest.raises(DataError, match="lacks images"):
        measured(Finder(dataset, artifact), dataset, reached)
