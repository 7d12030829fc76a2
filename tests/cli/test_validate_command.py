"""``detexport validate``: one artifact against another, and against the stored reference of the pipeline."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import Run

import tiny_artifacts
from detexport.cli import main
from detexport.errors import BROKEN, ConfigError
from detexport.parity.certificate import read_certificate
from detexport.processing.postprocess import postprocess
from detexport.reference.store import SampleMeta, write_reference
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.workflows.validate_against import validate_against
from synthetic_shapes import synthetic_shapes
from tiny_artifacts import tiny_image, write_tiny_onnx


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=3, sizes=[(48, 64), (40, 56)]).write(folder)
    for kind in ("instances", "keypoints"):  # the tiny artifacts' classes
        file = folder / "annotations" / f"{kind}_val.json"
        file.write_text(file.read_text().replace('"rectangle"', '"square"'))
    return folder


Said = tuple[int, str, str]


@pytest.fixture
def run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """``detexport`` in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> Said:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        monkeypatch.setattr(sys, "argv", ["detexport", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def without_annotations(data: Path, folder: Path, kind: str) -> Path:
    """A copy of a data set that lacks the annotations that a kind of model is evaluated by."""
    shutil.copytree(data, folder)
    annotations = folder / "annotations"
    if kind == "keypoints":
        (annotations / "keypoints_val.json").unlink()
    elif kind == "panoptic":
        (annotations / "panoptic_val.json").unlink()
    elif kind == "semantic":
        shutil.rmtree(folder / "semantic_val")
    else:
        value = json.loads((annotations / "instances_val.json").read_text())
        for one in value["annotations"]:
            del one["segmentation"]
        (annotations / "instances_val.json").write_text(json.dumps(value))
    return folder


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "onnx"
    write_tiny_onnx(folder)
    return folder


def test_an_artifact_is_what_it_is(run: Run, artifact: Path, data: Path, tmp_path: Path) -> None:
    done = run(
        "validate", artifact, "--against", artifact, "--data", data, "--images", 2, "--save-dir", tmp_path
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith("passed")
    assert [line.split()[0] for line in lines[1:5]] == ["contract", "numerics", "matching", "accuracy"]
    report = json.loads((tmp_path / "parity.json").read_text())
    assert report["max"]["box_error_px"] == 0
    assert report["detections"]["paired"] > 0
    assert {"odd size", "wide", "black", "noise"} <= report["input_coverage"]["kinds"].keys()
    certificate = read_certificate(tmp_path / "certificate.json")
    assert certificate["artifact"]["sha256"] == report["artifact_sha256"]


def test_what_differs_is_told_and_ends_with_1(
    run: Run, artifact: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_artifacts, "FRACTIONS", tiny_artifacts.FRACTIONS * 0.99)
    write_tiny_onnx(tmp_path / "other")
    done = run("validate", tmp_path / "other", "--against", artifact, "--data", data, "--images", 2, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert not report["verdicts"]["numerics"]["passed"]
    assert report["verdicts"]["contract"]["passed"]


def as_people_have_it(data: Path, folder: Path, change: str) -> Path:
    """A copy of a data set in another of the forms that COCO allows."""
    shutil.copytree(data, folder)
    path = folder / "annotations/instances_val.json"
    value = json.loads(path.read_text())
    if change == "ids that are texts":
        for entry, key in [(i, "id") for i in value["images"]] + [
            (a, "image_id") for a in value["annotations"]
        ]:
            entry[key] = {1: "a/../b", 2: "é" * 300}.get(entry[key], entry[key])
    elif change == "one file twice":
        value["images"].append({**value["images"][0], "id": -1})
        value["annotations"] += [
            {**one, "id": f"again {one['id']}", "image_id": -1}
            for one in value["annotations"]
            if one["image_id"] == 1
        ]
    elif change == "absolute paths":
        for image in value["images"]:
            image["file_name"] = str(data / "images/val" / image["file_name"])
        shutil.rmtree(folder / "images")
    elif change == "COCO's layout":
        (folder / "images/val").rename(folder / "val2017")
        (folder / "annotations/keypoints_val.json").rename(
            folder / "annotations/person_keypoints_val2017.json"
        )
        (folder / "dataset.json").unlink()
        path.unlink()
        path = folder / "annotations/instances_val2017.json"
    else:
        value["categories"].reverse()
    path.write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("ids that are texts", "instances"),
        ("one file twice", "instances"),
        ("absolute paths", "instances"),
        ("categories in another order", "instances"),
        ("COCO's layout", "keypoints"),
        ("COCO's layout", "instances"),
    ],
)
def test_data_as_people_have_it(
    run_here: Callable[..., Said], data: Path, tmp_path: Path, change: str, kind: str
) -> None:
    write_tiny_onnx(tmp_path / "artifact", kind)
    folder = as_people_have_it(data, tmp_path / "data", change)
    # The tiny keypoints are not as many as the data's: of these the images alone are looked at.
    number = 0 if kind == "keypoints" else 100
    command = ("validate", "artifact", "--against", "artifact", "--data", folder, "--images", 2)
    code, found, told = run_here(*command, "--accuracy-images", number)
    assert code == 0, told
    assert f"accuracy  {'passed' if number else 'not evaluated'}" in found


@pytest.mark.parametrize("kind", ["keypoints", "instances", "semantic", "panoptic"])
def test_data_without_what_the_metric_needs_says_how_to_go_without(
    run_here: Callable[..., Said], data: Path, tmp_path: Path, kind: str
) -> None:
    write_tiny_onnx(tmp_path / "artifact", kind)
    bare = without_annotations(data, tmp_path / "bare", kind)
    command = ("validate", "artifact", "--against", "artifact", "--data", bare, "--images", 1)
    code, _, told = run_here(*command, "--save-dir", "saved")
    assert code == 2
    (error,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert all(word in error for word in ("; got: ", "; expected: ", "; remedy: "))
    assert error.endswith(", or leave the task metric out: --accuracy-images 0")
    assert "Traceback" not in told
    assert not any((tmp_path / "saved").iterdir())
    code, found, told = run_here(*command, "--accuracy-images", 0)
    assert code == 0, told
    assert (
        "not evaluated Does it reach the eager model's accuracy against ground truth? not measured" in found
    )


def test_a_projects_limits_hold_in_place_of_the_table(
    run: Run, artifact: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_artifacts, "FRACTIONS", tiny_artifacts.FRACTIONS * 0.99)
    write_tiny_onnx(tmp_path / "other")
    params = tmp_path / "params.yaml"
    params.write_text("parity: {tolerance: {box_px: 5, box_floor_px: 5, mask_px: 5000}, scales: [1.0]}")
    asked = ("validate", tmp_path / "other", "--against", artifact, "--data", data, "--images", 1)
    done = run(*asked, "--accuracy-images", 0, "--params", params, "--json")
    report = json.loads(done.stdout)
    assert report["tolerance"]["box_px"] == 5
    assert report["verdicts"]["numerics"]["passed"], report["reasons"]
    params.write_text("parity: {tolerance: {box: 5}}")
    done = run(*asked, "--params", params)
    assert done.returncode == 2
    assert "tolerance.box: no such key" in done.stderr


def test_the_images_of_a_project_are_used(run: Run, artifact: Path, data: Path, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("parity: {images: 1, accuracy_images: 0, scales: [1.0]}")
    asked = ("validate", artifact, "--against", artifact, "--data", data, "--params", params, "--json")
    report, more = (json.loads(run(*asked, *given).stdout) for given in ((), ("--images", 2)))
    assert not report["verdicts"]["accuracy"]["evaluated"]
    assert len(more["samples"]) > len(report["samples"])


KILLED = """
import os, signal, sys
from detexport.runtime.onnxruntime import OnnxSession

killed_at, calls, run = int(sys.argv.pop(1)), 0, OnnxSession.__call__

def mortal(self, image, output_size=None):
    global calls
    if calls == killed_at:
        os.kill(os.getpid(), signal.SIGKILL)
    calls += 1
    return run(self, image, output_size)

OnnxSession.__call__ = mortal
from detexport.cli import main
try:
    main()
finally:
    print(calls, file=sys.stderr)
"""


def test_a_killed_run_goes_on_where_it_stopped(artifact: Path, data: Path, tmp_path: Path) -> None:
    def run_until(killed_at: int, folder: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(killed_at), "validate", artifact, "--against", artifact]
        options = ["--data", data, "--images", 2, "--save-dir", folder]
        return subprocess.run(
            [str(part) for part in (*command, *options)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    whole = run_until(-1, "whole")
    assert whole.returncode == 0, whole.stderr
    total = int(whole.stderr.splitlines()[-1])
    first, second = total // 4, total // 2
    # The command itself is killed, or the process in which it runs the artifact.
    assert run_until(first, "saved").returncode in (-signal.SIGKILL, BROKEN)
    assert run_until(second, "saved").returncode in (-signal.SIGKILL, BROKEN)
    assert all(path.name.endswith(".partial") for path in (tmp_path / "saved").iterdir())
    rest = run_until(-1, "saved")
    assert rest.returncode == 0, rest.stderr
    assert int(rest.stderr.splitlines()[-1]) == total - first - second
    assert contents(tmp_path / "saved") == contents(tmp_path / "whole")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_changed_or_no_artifact_is_one_line(
    run_here: Callable[..., Said], artifact: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(artifact, tmp_path / "changed")
    with (tmp_path / "changed" / "model.onnx").open("ab") as file:
        file.write(b"x")
    (tmp_path / "empty" / "images").mkdir(parents=True)
    asked = ("--against", artifact, "--data", data)
    for arguments, code, said in (
        (("changed", *asked), 2, "is not the file that was exported"),
        ((artifact, "--against", "changed", "--data", data), 2, "is not the file that was exported"),
        (("nowhere", *asked), 2, "nowhere is not an artifact"),
        ((data, *asked), 2, "is not an artifact"),
        ((artifact, "--against", artifact, "--data", "nowhere"), 2, "nowhere is not a data set; got: no"),
        ((artifact, "--against", artifact, "--data", "empty"), 2, "got: no folder annotations"),
        ((artifact, *asked, "--target", "hologram"), 2, "hologram"),
        ((artifact, *asked, "--target", "tracing"), 2, "tracing does not run artifacts of this format"),
        (
            (artifact, *asked, "--target", "onnx_int8", "--accuracy-images", 0),
            2,
            "evaluated by the task metric",
        ),
        ((artifact, *asked, "--device", "cuda:99"), 3, "cuda"),
    ):
        ended, _, told = run_here("validate", *arguments, "--save-dir", "saved")
        assert ended == code, (arguments, told)
        assert said in told
        assert told.startswith("error: ")
        assert told.count("\n") == 1
        assert not (tmp_path / "saved").exists()


def test_artifacts_of_other_models_are_refused(run: Run, artifact: Path, data: Path, tmp_path: Path) -> None:
    write_tiny_onnx(tmp_path / "other", "keypoints")
    done = run("validate", artifact, "--against", tmp_path / "other", "--data", data)
    assert done.returncode == 2
    assert "is not an artifact of the same model" in done.stderr


@pytest.mark.parametrize(("other", "reason"), [(None, "no model, no other artifact"), (Path(), "no --data")])
def test_nothing_to_compare_with_is_refused(artifact: Path, other: Path | None, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"nothing to compare the artifact with; got: {reason}"):
        validate_against(artifact, other)


def test_the_pipelines_reference_is_found_beside_the_artifact(
    run: Run, artifact: Path, tmp_path: Path
) -> None:
    placed = tmp_path / "model" / "artifacts" / "onnx"
    shutil.copytree(artifact, placed)
    session, image, size = OnnxRuntime(threads=1).open(placed), tiny_image(), (30, 50)
    contract = session.artifact.contract
    expected = postprocess(session(image), size, size, contract)
    meta = SampleMeta("0001-1x", 1, "000001.png", size, size, 1.0)
    write_reference(
        tmp_path / "model/reference", [(meta, image, expected)], contract=contract, environment={}
    )
    done = run("validate", placed)
    assert done.returncode == 0, done.stderr
    assert "accuracy  not evaluated" in done.stdout
    expected["pred_boxes"] += 1
    write_reference(
        tmp_path / "model/reference", [(meta, image, expected)], contract=contract, environment={}
    )
    assert run("validate", placed).returncode == 1
