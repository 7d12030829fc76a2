"""`make coverage`'s program up to where steps are run; that they run is tested in tests/coverage."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from detexport.coverage.cells import Cell

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "stages/measure_coverage.py"


def test_a_cell_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    arguments = ["--work-dir", tmp_path / "work", "--save-to", tmp_path / "cells.json", "--only", "nothing*"]
    command = [sys.executable, SCRIPT, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no cell is asked for")
    assert "mask_rcnn_C4" in done.stderr
    assert not (tmp_path / "cells.json").exists()
    # Declared pairs are jobs here: whether they work is measured.
    params = yaml.safe_load((tmp_path / "work/params.yaml").read_text())
    assert len(params["jobs"]) == len(params["models"]) * len(params["targets"])
    assert params["left_out"] == {}


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    path = tmp_path / "cells.json"
    path.write_text(json.dumps([Cell("a", "A net", "onnx", "failed", "export: no").to_json()]))
    return path


def test_the_documentation_is_written_of_the_cells(cells: Path, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "stages/document_coverage.py", "--cells", cells, "--save-dir", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True)
    assert json.loads((tmp_path / "coverage.json").read_text()) == json.loads(cells.read_text())
    assert "| A net | **failed** |" in (tmp_path / "coverage.md").read_text()
