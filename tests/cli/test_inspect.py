"""What `detexport inspect` says, and that it notices what was changed."""

import json
import shutil
from pathlib import Path

import pytest

from detexport.artifact import read_artifact
from detexport.cli.inspect import inspect
from detexport.errors import ArtifactError, ConfigError, OutputError
from tiny_artifacts import KINDS, tiny_contract, write_tiny_onnx


def test_it_says_what_the_artifact_is(tiny_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(tiny_onnx, as_json=False, dump_to=None)
    text = capsys.readouterr().out
    artifact = read_artifact(tiny_onnx)
    for part in (
        "ONNX",
        artifact.sha256,
        artifact.weights_sha256,
        "shortest edge to 40 px, longest at most 64 px",
        "3: circle, square, star",
        "(R, 28, 28)",
        "x0, y0, x1, y1 in px of the input image",
        "raw, in the frame of their boxes",
        "as exported",
    ):
        assert part in text, part


def test_json_is_the_manifest_and_the_files_as_they_are(
    tiny_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect(tiny_onnx, as_json=True, dump_to=None)
    document = json.loads(capsys.readouterr().out)
    artifact = read_artifact(tiny_onnx)
    assert document["contract"] == json.loads(json.dumps(artifact.contract.to_json()))
    assert document["sha256"] == artifact.sha256
    assert document["files_now"] == {"model.onnx": "as exported"}
    assert document["size_bytes"] == (tiny_onnx / "model.onnx").stat().st_size


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_described(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = write_tiny_onnx(tmp_path, kind)
    inspect(tmp_path, as_json=False, dump_to=None)
    text = capsys.readouterr().out
    assert f"results        {', '.join(artifact.contract.results)}\n" in text
    for spec in artifact.contract.outputs:
        assert f"  {spec.name} " in text


@pytest.mark.parametrize("fault", ["changed", "missing"])
def test_what_was_changed_is_told(
    tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(tiny_onnx, folder)
    if fault == "changed":
        (folder / "model.onnx").write_bytes(b"other")
    else:
        (folder / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx is not the file that was exported"):
        inspect(folder, as_json=False, dump_to=None)
    assert fault in capsys.readouterr().out, "and all else is described, too"


def test_torchscript_is_dumped_as_text_beside_what_is_there(tiny_tracing: Path, tmp_path: Path) -> None:
    kept = tmp_path / "text" / "deep" / "notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    for _ in range(2):
        inspect(tiny_tracing, as_json=False, dump_to=tmp_path / "text")
    assert "def forward" in (tmp_path / "text/model_ts_code.txt").read_text()
    assert kept.read_text() == "mine"
    assert sorted(path.name for path in kept.parents[1].iterdir()) == [
        "deep",
        "model_ts_IR.txt",
        "model_ts_IR_inlined.txt",
        "model_ts_code.txt",
    ]


def test_a_dump_into_a_file_is_told(tiny_tracing: Path, tmp_path: Path) -> None:
    (tmp_path / "text").touch()
    with pytest.raises(OutputError, match=r"cannot write .*text; got: File exists"):
        inspect(tiny_tracing, as_json=False, dump_to=tmp_path / "text")


def test_nothing_else_is_dumped(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only a TorchScript artifact can be dumped; got: ONNX"):
        inspect(tiny_onnx, as_json=False, dump_to=tmp_path / "text")
    assert not (tmp_path / "text").exists()


def test_the_whole_contract_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_onnx(tmp_path, "panoptic")
    inspect(tmp_path, as_json=False, dump_to=None)
    text = capsys.readouterr().out
    for part in (
        "score          greater than 0.25",
        "NMS            IoU greater than 0.5",
        "detections     at most 10 per image",
        "mask           probability of at least 0.5",
        "pixel mean     0, 0, 0",
        "pixel std      1, 1, 1",
        "padding        none",
        "stuff          3: things, green, blue",
        "panoptic       overlap at most 0.5, instances of a score of at least 0.4, stuff of at least 20 px",
    ):
        assert part in text, part


def test_keypoints_are_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_onnx(tmp_path, "keypoints")
    inspect(tmp_path, as_json=False, dump_to=None)
    assert "keypoints      2: head, foot" in capsys.readouterr().out


def test_an_unlisted_file_is_named(
    tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_onnx, tmp_path / "artifact"))
    (folder / "evil.py").touch()
    with pytest.raises(ArtifactError, match=r"holds files that its manifest does not list; got: evil\.py; "):
        inspect(folder, as_json=True, dump_to=None)
    assert json.loads(capsys.readouterr().out)["files_now"]["evil.py"] == "not in the manifest"


def test_control_characters_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_onnx(tmp_path, contract=tiny_contract(class_names=("\x1b[2J", "b\nc", "é")))
    inspect(tmp_path, as_json=False, dump_to=None)
    assert "classes        3: \\x1b[2J, b\\nc, é\n" in capsys.readouterr().out
