"""Output and comparison of metrics."""

import pytest

from detexport.config import get_cfg
from detexport.errors import DetexportError
from detexport.evaluation import print_csv_format, verify_results
from detexport.evaluation.testing import flatten_results_dict

RESULTS = {"bbox": {"AP": 40.0, "AP50": 61.25, "AP-cat": 39.0}}


def test_the_lines_leave_single_classes_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        print_csv_format({**RESULTS, "score": 3})
    assert [record.getMessage() for record in caplog.records] == [
        "copypaste: Task: bbox",
        "copypaste: AP,AP50",
        "copypaste: 40.0000,61.2500",
        "copypaste: score=3",
    ]


def test_expected_results() -> None:
    cfg = get_cfg()
    assert verify_results(cfg, {})
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 40.1, 0.2]]
    assert verify_results(cfg, RESULTS)
    for other in ({}, {"bbox": {"AP": 39.0}}, {"bbox": {"AP": float("nan")}}):
        with pytest.raises(DetexportError, match=r"40\.1 \+- 0\.2"):
            verify_results(cfg, other)


def test_nested_results_by_path() -> None:
    assert flatten_results_dict({"a": {"b": {"c": 1}}, "d": 2}) == {"a/b/c": 1, "d": 2}
