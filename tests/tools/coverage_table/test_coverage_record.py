"""The committed table is that of the committed record of a whole run."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from coverage_table.cells import STATUSES, pairs_of
from coverage_table.table import render
from detexport.system.files import read_json

ROOT = Path(__file__).parents[3]
RECORD = ROOT / "docs/coverage.json"


@pytest.fixture(scope="module")
def record() -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = read_json(RECORD)
    return cells


def test_the_committed_table_is_that_of_the_record(record: list[dict[str, Any]]) -> None:
    assert (ROOT / "docs/coverage.md").read_text(encoding="utf-8") == render(record)


def test_the_record_is_whole_and_nothing_failed(record: list[dict[str, Any]]) -> None:
    experiment = yaml.safe_load((ROOT / "conf/experiment/coverage.yaml").read_text())
    assert [(cell["model"], cell["target"]) for cell in record] == pairs_of(experiment)
    assert {cell["status"] for cell in record} <= set(STATUSES) - {"failed"}
    assert all(cell["reason"] for cell in record if cell["status"] != "ok")
    for cell in record:
        if cell["status"] == "ok":
            assert (cell["dynamic_size"], cell["fresh_process"]) == (True, True)
            assert cell["zero_detections"] in (True, None)
