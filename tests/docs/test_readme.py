"""What the README shows is what was measured."""

import json
import re

import pytest
from pages import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
CELLS = json.loads((ROOT / "docs/coverage.json").read_text(encoding="utf-8"))
# The architectures of each row and the targets of each column, as docs/coverage.md names them.
ROWS = {
    "Faster and Mask R-CNN: FPN, C4, DC5": [
        f"{name} R-CNN, {neck}" for name in ("Faster", "Mask") for neck in ("FPN", "C4", "DC5")
    ],
    "Keypoint R-CNN: FPN, C4, DC5": [f"Keypoint R-CNN, {neck}" for neck in ("FPN", "C4", "DC5")],
    "RetinaNet, Cascade R-CNN, PointRend": ["RetinaNet", "Cascade Mask R-CNN", "PointRend"],
    "Panoptic FPN, semantic, proposals": ["Panoptic FPN", "Semantic segmentor", "Proposal network"],
    "torchvision: Faster and Mask R-CNN, RetinaNet, FCOS, SSD, SSDlite": [
        f"torchvision {name}"
        for name in ("Faster R-CNN", "Mask R-CNN", "RetinaNet", "FCOS", "SSD", "SSDlite")
    ],
    "torchvision: Keypoint R-CNN": ["torchvision Keypoint R-CNN"],
}
COLUMNS = {
    "TorchScript": ["tracing", "scripting"],
    "ONNX": ["onnx"],
    "`torch.export`, AOTInductor": ["torch_export", "aot_inductor"],
    "OpenVINO float32, bf16": ["openvino", "openvino_bf16"],
    "ONNX int8": ["onnx_int8"],
    "OpenVINO int8": ["openvino_int8"],
}
WORDS = {"ok": "ok", "unsupported": "n/a"}


def table(heading: str) -> list[list[str]]:
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not set("".join(row)) <= {"-", " "}]


def test_the_table_has_every_architecture_and_target() -> None:
    (_, *columns), *rows = table("Architectures and targets")
    assert columns == [*COLUMNS]
    assert [row[0] for row in rows] == [*ROWS]
    assert {cell["architecture"] for cell in CELLS} == {name for names in ROWS.values() for name in names}
    assert {cell["target"] for cell in CELLS} == {name for names in COLUMNS.values() for name in names}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_what_the_coverage_has(row: str) -> None:
    (_, *columns), *rows = table("Architectures and targets")
    (shown,) = (cells for name, *cells in rows if name == row)
    for column, word in zip(columns, shown, strict=True):
        measured = {
            WORDS[cell["status"]]
            for cell in CELLS
            if cell["architecture"] in ROWS[row] and cell["target"] in COLUMNS[column]
        }
        assert measured == {word}, column


def test_the_average_precision_is_that_of_the_checkpoint() -> None:
    accuracy = json.loads((ROOT / "checkpoints/mask_rcnn.json").read_text(encoding="utf-8"))
    box, mask = re.findall(r"(?:box|mask) AP (0\.\d+)", README)
    assert [box, mask] == [f"{accuracy[name]:.3f}" for name in ("bbox/AP", "segm/AP")]


def test_the_picture_is_small() -> None:
    (picture,) = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert (ROOT / picture).stat().st_size <= 80_000
