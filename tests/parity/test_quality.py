"""Reduced precision: held to what it finds, not to single numbers."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from detexport.artifact import Artifact, read_artifact
from detexport.contract import ResizeRule
from detexport.data.coco import CocoDataset, load_coco
from detexport.data.synthetic import SyntheticShapes
from detexport.errors import DataError
from detexport.parity.measures import tell
from detexport.parity.quality import Quality, measure_quality
from detexport.parity.reference import EagerQuality, Reference, SampleMeta, read_reference, write_reference
from detexport.parity.validate import validate
from detexport.postprocess import postprocess
from detexport.runtime.session import Session
from tiny_artifacts import tiny_contract
from tolerances import TOLERANCE

PERFECT = {"bbox/AP": 1.0, "bbox/AP50": 1.0, "segm/AP": 0.9}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    path = tmp_path_factory.mktemp("data") / "shapes"
    SyntheticShapes(train_images=0, val_images=6).write(path)
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


def eager(dataset: CocoDataset, **metrics: float) -> EagerQuality:
    return EagerQuality(metrics or {"bbox/AP": 1.0}, tuple(image.image_id for image in dataset.images))


def measured(session: Session, dataset: CocoDataset, reached: EagerQuality, budget: float = 0.02) -> Quality:
    return measure_quality(session, reached, dataset, precision="int8", budget=budget, least=0.1)


def test_what_finds_the_same_passes(dataset: CocoDataset, artifact: Artifact) -> None:
    quality = measured(Finder(dataset, artifact), dataset, eager(dataset))
    assert quality.images == 6
    assert quality.differences == {"bbox/AP": pytest.approx(0.0)}
    assert quality.faults == ()


def test_what_finds_less_does_not(dataset: CocoDataset, artifact: Artifact) -> None:
    quality = measured(Finder(dataset, artifact, left_out=1), dataset, eager(dataset))
    assert quality.differences["bbox/AP"] < -0.02
    (fault,) = quality.faults
    assert "bbox/AP" in fault
    assert "limit 0.02" in fault


def test_only_the_images_that_eager_was_judged_on_count(dataset: CocoDataset, artifact: Artifact) -> None:
    first = replace(eager(dataset), image_ids=(dataset.images[0].image_id,))
    quality = measured(Finder(dataset, artifact), dataset, first)
    assert quality.images == 1
    assert quality.faults == ()


@pytest.mark.parametrize(
    ("reached", "words"),
    [
        ({"bbox/AP": 0.05}, "proves nothing"),
        ({"bbox/AP50": 1.0}, "no metric"),
        (PERFECT, "segm/AP 0.0000"),
    ],
)
def test_what_proves_nothing_or_is_not_given(
    dataset: CocoDataset, artifact: Artifact, reached: dict[str, float], words: str
) -> None:
    quality = measured(Finder(dataset, artifact), dataset, EagerQuality(reached, eager(dataset).image_ids))
    assert any(words in fault for fault in quality.faults)


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
        tmp_path / "reference", samples(), contract=artifact.contract, environment={}, quality=eager(dataset)
    )
    return read_reference(tmp_path / "reference")


def verdict(dataset: CocoDataset, reference: Reference, session: Session, *, reduced: bool) -> dict:
    second = Finder(dataset, session.artifact, shift_px=getattr(session, "shift_px", 0.0))
    measure = partial(
        measure_quality, eager=eager(dataset), dataset=dataset, precision="int8", budget=0.02, least=0.1
    )
    report = validate(
        session,
        reference,
        TOLERANCE,
        job="j",
        measure=(lambda _: measure(second)) if reduced else None,
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
    assert [(measure.words, limit) for measure, _, limit in tell(reduced)] == [
        ("bbox/AP less eager's", "0.02")
    ]
    full = verdict(dataset, reference, Finder(dataset, artifact, shift_px=0.05), reduced=False)
    assert not full["passed"]


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
    def unannotated(_: Session) -> Quality:
        raise DataError("no annotations")

    with pytest.raises(DataError):
        validate(Finder(dataset, artifact), reference, TOLERANCE, job="j", measure=unannotated)


def test_the_reference_keeps_what_eager_reached(dataset: CocoDataset, reference: Reference) -> None:
    assert reference.quality == eager(dataset)
