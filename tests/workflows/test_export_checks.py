"""What an export needs, and where it may write: checked before any work."""

from pathlib import Path
from typing import Any

import pytest

from detexport.artifact import MANIFEST
from detexport.errors import ConfigError
from detexport.workflows.export_checks import check_inputs, check_output

NOTHING: dict[str, Any] = {"images": (), "calibration": (), "data": None, "check": True}
DATA = {"data": Path("data")}
INT8, BF16 = "onnx_int8", "openvino_bf16"


@pytest.mark.parametrize(
    ("target", "given"),
    [
        ("onnx", {}),
        ("onnx", {**DATA, "evaluate": True}),
        (BF16, DATA),
        (BF16, {"check": False}),
        (INT8, DATA),
        (INT8, {"check": False, "images": ["a.png"]}),
        (INT8, {"check": False, "calibration": ["a.png"]}),
    ],
)
def test_what_suffices(target: str, given: dict[str, Any]) -> None:
    check_inputs(target, **{**NOTHING, **given})


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        ("onxx", {}, "unknown target"),
        (
            "onnx",
            {"evaluate": True},
            r"--run-eval needs data; got: no --data; .*remedy: give --data DIR \(in Python: data=...\)$",
        ),
        (
            BF16,
            {},
            "checked by its task metrics on annotated images; .*or export without the check",
        ),
        (BF16, {"check": False, "evaluate": True}, "--run-eval needs data"),
        (INT8, {"images": ["a.png"]}, "is checked by its task metrics"),
        (INT8, {"check": False}, "onnx_int8 needs calibration images; got: none"),
    ],
)
def test_what_does_not(target: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_inputs(target, **{**NOTHING, **given})


def test_a_new_folder_an_empty_one_and_an_artifact_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / MANIFEST).write_text("{}")
    for name in ("new", "new/deeper", "empty", "artifact"):
        check_output(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "empty"]


def test_what_is_not_an_artifact_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/b.txt").touch()
    (tmp_path / "mine/a.txt").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    for name, got in {"file": "a file", "mine": r"a folder with a\.txt", "nowhere": "a file"}.items():
        with pytest.raises(
            ConfigError, match=rf"{name} exists and is not an artifact; got: {got}; .*--output"
        ):
            check_output(tmp_path / name)
