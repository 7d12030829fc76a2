"""`make coverage`'s program up to where steps are run; that they run is tested in tests/coverage."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from coverage_table.cells import Cell, pairs_of
from coverage_table.steps import inside, producers, read_steps
from measure_coverage import STAGES

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools/measure_coverage.py"


def test_a_cell_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    arguments = ["--work-dir", tmp_path / "work", "--save-to", tmp_path / "cells.json", "--only", "nothing*"]
    command = [sys.executable, SCRIPT, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no cell is selected")
    assert "mask_rcnn_C4" in done.stderr
    assert not (tmp_path / "cells.json").exists()
    # Declared pairs are jobs here: whether they work is measured.
    params = yaml.safe_load((tmp_path / "work/params.yaml").read_text())
    assert len(params["jobs"]) == len(params["models"]) * len(params["targets"])
    assert params["left_out"] == {}


def test_the_steps_write_all_results_that_they_read() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    steps = read_steps(stages, params, STAGES)
    before = producers(steps)
    for step in steps:
        written = {out for other in before[step.name] for out in other.outs}
        read = {dep for dep in step.deps if dep.startswith(("outputs/", "data/"))}
        assert {dep for dep in read if not any(inside(dep, out) for out in written)} == set(), step.name


def document(cells: list[dict[str, Any]], folder: Path) -> "subprocess.CompletedProcess[str]":
    (folder / "cells.json").write_text(json.dumps(cells))
    arguments = ["--cells", folder / "cells.json", "--save-dir", folder]
    command = [sys.executable, ROOT / "tools/document_coverage.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def cells() -> list[dict[str, Any]]:
    pairs = pairs_of(yaml.safe_load((ROOT / "conf/experiment/coverage.yaml").read_text()))
    return [Cell(model, f"{model} net", target, "failed", "export: no").to_json() for model, target in pairs]


def test_the_documentation_is_written_of_the_cells(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    done = document(cells, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "coverage.json").read_text()) == cells
    assert "| retinanet net | **failed** |" in (tmp_path / "coverage.md").read_text()


def test_a_part_of_the_table_is_not_documented(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    done = document(cells[:-1], tmp_path)
    assert done.returncode == 2
    assert "does not hold the whole table" in done.stderr
    assert f"{cells[-1]['model']}-{cells[-1]['target']}" in done.stderr
    assert not (tmp_path / "coverage.json").exists()
    assert not (tmp_path / "coverage.md").exists()
