"""The stored sample of a version: which input it is, and the limits that it was compared with."""

from typing import Any

import numpy as np
import pytest

from detexport.errors import DataError
from detexport.reference.store import DATA, Reference, SampleMeta, read_reference, write_reference
from detexport.registry.run_files import choose_sample, sample_tolerance
from tiny_artifacts import tiny_contract, tiny_image
from tolerances import LIMITS

CONTRACT = tiny_contract()


def outputs(rows: int) -> dict[str, Any]:
    return {
        "pred_boxes": np.zeros((rows, 4), np.float32),
        "scores": np.ones(rows, np.float32),
        "pred_classes": np.zeros(rows, np.int64),
        "pred_masks": np.zeros((rows, 20, 30), bool),
    }


def sample(id: str, rows: int = 1, **fields: Any) -> tuple[SampleMeta, np.ndarray, dict[str, Any]]:
    meta = {
        "image_id": 1,
        "file": "",
        "image_size": (20, 30),
        "output_size": (20, 30),
        "scale": 1.0,
        **fields,
    }
    return SampleMeta(id, **meta), tiny_image(20, 30), outputs(rows)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("samples") / "reference"
    samples = [
        sample("made", kind="noise"),
        sample("batch", batch="1"),
        sample("small", scale=0.75),
        sample("empty", rows=0),
        sample("plain", kind=DATA),
        sample("other", kind=DATA),
    ]
    write_reference(folder, samples, contract=CONTRACT, environment={})
    return read_reference(folder)


def verdict(*passed: str, **widened: dict[str, float]) -> dict[str, Any]:
    samples = [{"id": id, "passed": True, "widened": widened.get(id, {})} for id in passed]
    return {"tolerance": LIMITS, "samples": [*samples, {"id": "failed", "passed": False}]}


@pytest.mark.parametrize(
    ("passed", "chosen"),
    [
        (("made", "batch", "small", "empty", "plain", "other"), "plain"),
        (("made", "batch", "small", "empty", "other"), "other"),
        (("made", "small", "empty"), "small"),
        (("made", "empty"), "empty"),
        (("made",), "made"),
    ],
)
def test_the_most_ordinary_input_that_passed_is_stored(
    reference: Reference, passed: tuple[str, ...], chosen: str
) -> None:
    assert choose_sample(reference, verdict(*passed)).meta.id == chosen


def test_an_input_within_the_limits_comes_before_one_with_wider_limits(reference: Reference) -> None:
    given = verdict("plain", "other", plain={"score": 0.5})
    assert choose_sample(reference, given).meta.id == "other"
    tolerance = sample_tolerance(given, "plain")
    assert tolerance is not None
    assert (tolerance.score, tolerance.box_px) == (0.5, LIMITS["box_px"])


def test_reduced_precision_has_no_limits(reference: Reference) -> None:
    assert sample_tolerance({**verdict("plain"), "tolerance": None}, "plain") is None


def test_without_an_input_that_passed_alone_there_is_no_sample(reference: Reference) -> None:
    with pytest.raises(DataError, match="no input that can be stored with a version"):
        choose_sample(reference, verdict("batch"))
