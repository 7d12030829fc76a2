"""The table of the small models has the accuracy that their training measured."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/detectron2.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Models in the repository")[2].partition("\n## ")[0]
ROWS = {
    line.split("`")[1]: [cell.strip() for cell in line.split("|")[2:-1]]
    for line in SECTION.splitlines()
    if line.startswith("| `") and "model=" not in line
}
OTHERS = {
    "keypoints/AP": "keypoint AP",
    "panoptic/PQ": "PQ",
    "sem_seg/mIoU": "mIoU",
    "proposals/AR100": "AR of 100 proposals",
}
CHECKPOINTS = sorted(path.stem for path in (ROOT / "checkpoints").glob("*.json"))


def test_the_table_has_every_checkpoint() -> None:
    assert sorted(ROWS) == CHECKPOINTS
    assert all((ROOT / "conf/model" / f"{name}.yaml").is_file() for name in ROWS)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_row_has_the_metrics_of_the_checkpoint(name: str) -> None:
    measured = json.loads((ROOT / "checkpoints" / f"{name}.json").read_text(encoding="utf-8"))
    shown = {key: f"{value:.3f}" for key, value in measured.items()}
    others = ", ".join(f"{word} {shown[key]}" for key, word in OTHERS.items() if key in shown)
    assert ROWS[name] == [shown.get("bbox/AP", ""), shown.get("segm/AP", ""), others]
