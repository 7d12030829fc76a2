"""The table of the documentation."""

from pathlib import Path

import yaml

from coverage_table.cells import Cell
from coverage_table.table import render

ROOT = Path(__file__).parents[3]
CELLS = [
    Cell("a", "A R-CNN", "onnx", "ok", "", True, "1", True, True, {"score_error": 2e-5}, 10.0, 2**30),
    Cell("a", "A R-CNN", "other", "unsupported", "no operator | of this name"),
    Cell("b", "B net", "onnx", "ok", "", False, "any", None, True, {"score_error": 1e-6}, 30.0, 2**31),
    Cell("b", "B net", "other", "failed", "export: it broke"),
    Cell("c", "C net", "other", "skipped", "no compiler"),
]


def rows(page: str) -> dict[str, list[str]]:
    """The cells of each row of all tables, by the row's name."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return {
        name.strip(): [cell.strip() for cell in rest] for _, name, *rest, _ in (x.split("|") for x in lines)
    }


def test_each_architecture_has_a_row_and_each_target_a_column() -> None:
    page = render([cell.to_json() for cell in CELLS])
    table = rows(page)
    assert table["A R-CNN"] == ["ok", "n/a (1)"]
    assert table["B net"] == ["ok", "**failed**"]
    assert table["C net"] == ["", "skipped"]
    assert table["Any height and width"] == ["**no**", ""]
    assert table["No detections"] == ["yes", ""]
    assert table["Batch size"] == ["1 or any", ""]
    assert table["Export, median"] == ["20 s", ""]
    assert table["Memory, at most"] == ["2.0 GiB", ""]
    assert table["scores"] == ["2e-05", ""]
    assert "1. no operator | of this name" in page
    assert "- B net, other: export: it broke" in page


def test_what_the_task_metric_alone_judged_is_said_to_run_and_no_more() -> None:
    cell = Cell("a", "A", "int8", "ok", "", True, "1", True, True, {"bbox/AP": -0.01}, 10.0, 2**30)
    page = render([cell.to_json()])
    table = rows(page)
    assert table["Any height and width"] == table["No detections"] == ["runs"]
    assert table["In a fresh process"] == ["yes"]
    assert "`runs`:" in page


def test_every_model_of_the_table_has_a_name() -> None:
    experiment = yaml.safe_load((ROOT / "conf/experiment/coverage.yaml").read_text())
    (models,) = (entry["override /model"] for entry in experiment["defaults"] if "override /model" in entry)
    assert list(experiment["architectures"]) == models
    assert len(set(experiment["architectures"].values())) == len(models)
