"""`detexport export`: an artifact that was checked, or nothing."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import Run

from detexport.artifact import MANIFEST, read_artifact, verify_files
from detexport.checkpoint import read_state_dict, write_state_dict
from detexport.cli.checks import Request, check_request, take_images
from detexport.cli.export import export
from detexport.data import MetadataCatalog
from detexport.data.image_samples import BUNDLED_SAMPLE
from detexport.errors import CheckpointError, ConfigError, DataError, ExportError, OutputError
from detexport.runtime import load
from detexport.workflows.load_model import load_model
from small_disk import small_disk
from synthetic_shapes import synthetic_shapes

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "conf/detectron2/faster_rcnn.yaml"
WEIGHTS = ROOT / "checkpoints/faster_rcnn.safetensors"
NAMES = ("circle", "rectangle", "triangle", "star", "ring")


def request_to(output: Path) -> Request:
    return Request(config_file=str(CONFIG), weights=str(WEIGHTS), target="tracing", output=output)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "artifact"
    export(replace(request_to(folder), class_names=NAMES))
    return folder


def test_the_output_folder_is_the_artifact_and_nothing_is_left_beside_it(exported: Path) -> None:
    artifact = read_artifact(exported)
    verify_files(artifact, exported)
    assert sorted(path.name for path in exported.iterdir()) == ["artifact.json", "model.pt"]
    assert [path.name for path in exported.parent.iterdir()] == ["artifact"]
    assert artifact.contract.class_names == NAMES
    assert artifact.method == "tracing"


def test_the_artifact_finds_the_shapes_of_the_bundled_picture(exported: Path) -> None:
    import torch

    image = torch.from_numpy(np.asarray(Image.open(BUNDLED_SAMPLE)).transpose(2, 0, 1).copy())
    (found,) = load(exported)([{"image": image}])
    assert int((found["instances"].scores > 0.9).sum()) >= 3


def test_the_bundled_picture_is_a_scene_of_ours(tmp_path: Path) -> None:
    scene = synthetic_shapes(
        name="sample", seed=1, train_images=0, val_images=2, sizes=((192, 256),), object_px=(30, 90)
    )
    scene.write(tmp_path / "scene")
    drawn = np.asarray(Image.open(tmp_path / "scene/images/val/000002.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(BUNDLED_SAMPLE)), drawn)
    assert BUNDLED_SAMPLE.stat().st_size < 60_000


def test_overrides_options_and_samples_reach_the_artifact_and_data_names_and_evaluates_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic_shapes(train_images=0, val_images=4).write(tmp_path / "data")
    export(
        replace(
            request_to(tmp_path / "artifact"),
            samples=(str(tmp_path / "data/images/val/00000[12].png"),),
            data=tmp_path / "data",
            run_eval=True,
            overrides=("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.4"),
        )
    )
    artifact = read_artifact(tmp_path / "artifact")
    assert artifact.contract.score_threshold == 0.4
    assert artifact.contract.class_names == NAMES
    told = capsys.readouterr().err
    assert "tracing compared with the model on 8 inputs: passed" in told, "two at three sizes, odd, one color"
    row, limited = [line.split() for line in told.splitlines() if " bbox/AP " in line]
    assert limited[-2:] == ["(limit", "0.001)"], "the task metric is a verdict"
    _, eager, found, difference = row
    assert eager == found
    assert float(eager) > 0.4
    assert float(difference) == 0


@pytest.mark.parametrize("option", ["samples", "calibration"])
def test_the_images_that_a_shell_makes_of_a_pattern_are_all_the_options(option: str) -> None:
    given = replace(request_to(Path("artifact")), overrides=("b.JPG", "MODEL.WEIGHTS", "c.png", "d.png"))
    taken = take_images(replace(given, **{option: ("a.jpg",)}))
    assert getattr(taken, option) == ("a.jpg", "b.JPG", "d.png")
    assert taken.overrides == ("MODEL.WEIGHTS", "c.png")


@pytest.mark.parametrize("images", [{}, {"samples": ("a.jpg",), "calibration": ("b.jpg",)}])
def test_images_of_which_nobody_knows_whose_they_are_are_refused(images: dict) -> None:
    with pytest.raises(ConfigError, match=r"got: c\.jpg; .*remedy: put a pattern into quotes"):
        take_images(replace(request_to(Path("artifact")), overrides=("c.jpg",), **images))


def test_a_trace_that_lost_a_branch_is_refused_and_the_older_artifact_stays(exported: Path) -> None:
    before = read_artifact(exported)
    request = replace(request_to(exported), overrides=("MODEL.META_ARCHITECTURE", "branching.BranchingRCNN"))
    with pytest.raises(ExportError, match="differs from the model; got: odd-size: "):
        export(request)
    assert read_artifact(exported) == before
    assert [path.name for path in exported.parent.iterdir()] == ["artifact"]


def test_what_is_not_proved_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("MODEL.META_ARCHITECTURE", "branching.BranchingRCNN")
    export(replace(request_to(tmp_path / "artifact"), check=False, overrides=overrides))
    assert read_artifact(tmp_path / "artifact").method == "tracing"
    assert "not checked (--no-check)" in capsys.readouterr().err


def test_a_model_that_detects_nothing_is_exported_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.99999999")
    export(replace(request_to(tmp_path / "artifact"), overrides=overrides))
    assert read_artifact(tmp_path / "artifact").contract.score_threshold == 0.99999999
    printed = capsys.readouterr().err
    assert "0 of 0 detections paired" in printed
    assert "warning: the model detects nothing on these inputs, so no detection was compared" in printed


@pytest.mark.parametrize(
    ("registered", "expected"), [(NAMES, NAMES), (("one", "two"), ("0", "1", "2", "3", "4"))]
)
def test_classes_are_called_as_the_data_set_that_the_model_is_tested_on_says_if_it_fits(
    tmp_path: Path,
    registered: tuple[str, ...],
    expected: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    MetadataCatalog.get("named").set(thing_classes=list(registered))
    try:
        overrides = ("DATASETS.TEST", "['named']")
        export(replace(request_to(tmp_path / "artifact"), overrides=overrides, check=False))
    finally:
        MetadataCatalog.remove("named")
    assert read_artifact(tmp_path / "artifact").contract.class_names == expected
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    numbered = (
        f"warning: {CONFIG} has no names for its 5 things, so results call them 0 to 4; "
        "give their names by --class-names NAME,NAME,... (in Python: class_names=[...])"
    )
    assert warnings == ([] if expected == NAMES else [numbered])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"target": "tensorrt"}, ConfigError, "unknown target; got: 'tensorrt'; expected: one of .*onnx"),
        ({"config_file": "COCO-Detection/none.yaml"}, ConfigError, "no file COCO-Detection/none.yaml, and"),
        ({"overrides": ("MODEL.NOPE", "1")}, ConfigError, "unknown key MODEL.NOPE"),
        ({"overrides": ("MODEL.MASK_ON",)}, ConfigError, "in pairs of a key and a value"),
        ({"options": ("opset_version=18",)}, ConfigError, "no such option"),
        ({"class_names": ("one",)}, ConfigError, "1 names: one; expected: 5 things"),
        ({"run_eval": True}, ConfigError, "--run-eval needs data"),
        ({"samples": ("nothing.png",)}, DataError, "there is no such image"),
        ({"weights": "nothing.pth"}, CheckpointError, "nothing.pth"),
        ({"weights": ""}, CheckpointError, "there are no weights"),
        ({"overrides": ("MODEL.RPN.CONV_DIMS", "[8]")}, CheckpointError, "does not belong to this model"),
    ],
)
def test_a_wrong_request_is_refused_and_leaves_nothing(
    tmp_path: Path, changes: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export(replace(request_to(tmp_path / "artifact"), **changes))
    assert list(tmp_path.iterdir()) == []


def test_names_of_a_checkpoint_that_the_model_lacks_are_listed(tmp_path: Path) -> None:
    state = read_state_dict(WEIGHTS)
    extra = next(iter(state.values()))
    write_state_dict({**state, "roi_heads.new_head.weight": extra}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 unexpected: roi_heads\.new_head\.weight"):
        export(replace(request_to(tmp_path / "artifact"), weights=str(tmp_path / "model.safetensors")))


def test_parameters_that_are_said_to_be_new_keep_their_initial_values(tmp_path: Path) -> None:
    head = "roi_heads.box_predictor.cls_score"
    state = {name: t.half() for name, t in read_state_dict(WEIGHTS).items() if not name.startswith(head)}
    write_state_dict(state, tmp_path / "model.safetensors")
    request = replace(request_to(tmp_path / "artifact"), weights=str(tmp_path / "model.safetensors"))
    with pytest.raises(CheckpointError, match=rf"2 missing: {head}.* are meant to be new in --allow-new"):
        load_model(request.model)
    with pytest.raises(CheckpointError, match=r"remedy: correct --allow-new"):
        load_model(replace(request.model, allow_new=("no_such_head.*",)))
    digests = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = load_model(replace(request.model, allow_new=(f"{head}.*",)))
        digests.append(model.provenance.weights_sha256)
    assert digests[0] == digests[1]
    assert model.net.state_dict()[f"{head}.weight"].std() > 0
    told = model.load_report.describe()
    assert f"2 new, left at their initial values: {head}.bias, {head}.weight" in told
    assert f"{len(state)} converted from float16" in told


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_not_an_artifact_is_never_replaced(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos/one.jpg").touch()
    else:
        (tmp_path / "photos").touch()
    with pytest.raises(ConfigError, match="exists and is not an artifact"):
        export(request_to(tmp_path / "photos"))
    assert (tmp_path / "photos").exists()
    assert kind == "file" or (tmp_path / "photos/one.jpg").exists()


@pytest.mark.parametrize("name", [".", "../artifact", ".."])
def test_the_folder_that_one_works_in_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    for there in (tmp_path / MANIFEST, folder / MANIFEST):
        there.touch()
    monkeypatch.chdir(folder)
    with pytest.raises(OutputError, match=f"{re.escape(name)} cannot be replaced; got: {tmp_path}"):
        check_request(request_to(Path(name)))


def test_a_full_disk_is_told_and_left_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(OutputError, match="No space left on device"):
            export(request_to(disk / "artifact"))
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_export_that_is_ended_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    options = ["--config-file", CONFIG, "--weights", WEIGHTS, "--target", "tracing", "--output", "artifact"]
    process = subprocess.Popen(
        [sys.executable, "-m", "detexport.cli", "export", *map(str, options)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("tracing"):
            break
    assert any(tmp_path.iterdir()), "it is at work in a folder of its own"
    process.send_signal(number)
    told = process.stderr.read()
    assert process.wait(timeout=120) != 0
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_the_command_makes_what_the_library_makes(exported: Path, run: Run, tmp_path: Path) -> None:
    done = run(
        *("export", "--config-file", CONFIG, "--weights", WEIGHTS, "--target", "tracing"),
        *("--output", "artifact", "--class-names", ",".join(NAMES)),
        PYTHONHASHSEED="random",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "artifact/artifact.json").read_bytes() == (exported / "artifact.json").read_bytes()
    shown = run("inspect", "artifact", "--json")
    assert json.loads(shown.stdout)["sha256"] == read_artifact(exported).sha256


@pytest.mark.parametrize(
    ("precision", "changes", "message"),
    [
        ("bf16", {}, "is checked by its task metrics on annotated images; got: no --data"),
        ("int8", {}, "is checked by its task metrics on annotated images; got: no --data"),
        ("int8", {"check": False}, "needs calibration images"),
    ],
)
def test_reduced_precision_needs_its_data_before_any_work(
    tmp_path: Path, precision: str, changes: dict, message: str
) -> None:
    target = {"bf16": "openvino_bf16", "int8": "onnx_int8"}[precision]
    with pytest.raises(ConfigError, match=message):
        check_request(replace(request_to(tmp_path / "artifact"), target=target, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"data": Path("data")},
        {"check": False, "calibration": ("images",)},
        {"samples": ("a",), "check": False},
    ],
)
def test_less_precision_takes_what_it_needs(tmp_path: Path, changes: dict) -> None:
    check_request(replace(request_to(tmp_path / "artifact"), target="onnx_int8", **changes))
