"""`detexport.export` and `detexport.validate`: the workflows of the command line, called from Python."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import detexport
from detexport import export
from detexport.artifact import Artifact, read_artifact
from detexport.checkpoint import DetectionCheckpointer, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.data import read_image
from detexport.data.image_samples import BUNDLED_SAMPLE
from detexport.errors import CheckpointError, ConfigError, DataError, ExportError
from detexport.modeling import build_model
from detexport.modeling.meta_arch.torchvision_small import faster_rcnn
from small_architectures import small_model
from synthetic_shapes import synthetic_shapes
from tiny_artifacts import write_tiny_onnx

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "conf/detectron2/faster_rcnn.yaml"
WEIGHTS = ROOT / "checkpoints/faster_rcnn.safetensors"
NAMES = ("circle", "rectangle", "triangle", "star", "ring")


@pytest.fixture(scope="module")
def model() -> Any:
    cfg = load_cfg(CONFIG)
    cfg.MODEL.DEVICE = "cpu"
    net = build_model(cfg).eval()
    DetectionCheckpointer(net).load(str(WEIGHTS), strict=True)
    return net


@pytest.fixture(scope="module")
def artifact_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "artifact"
    written = detexport.export(CONFIG, WEIGHTS, target="tracing", output=folder, class_names=NAMES)
    assert isinstance(written, Artifact)
    assert written == read_artifact(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=2, sizes=[(48, 64)]).write(folder)
    return folder


def test_the_artifact_runs(artifact_dir: Path) -> None:
    found = detexport.load(artifact_dir)(BUNDLED_SAMPLE)
    assert len(found) > 0
    assert set(found.class_names) <= {*NAMES}


def test_a_built_model_is_exported_as_its_configuration_is(
    model: Any, artifact_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        written = detexport.export(model, target="tracing", output=tmp_path / "built", class_names=NAMES)
    assert not [one for one in caught if "has no names" in str(one.message)]
    assert capsys.readouterr().err == "", "the standard error is not a terminal"
    expected = read_artifact(artifact_dir)
    assert written.files == expected.files  # to the byte
    assert written.contract == expected.contract
    assert written.weights_sha256 == expected.weights_sha256
    assert written.config_sha256 == "built in Python"


def test_a_detector_of_torchvision_is_exported(tmp_path: Path) -> None:
    net = faster_rcnn(num_classes=6).eval()
    net.load_state_dict(read_state_dict(ROOT / "checkpoints/torchvision_faster_rcnn.safetensors"))
    image = torch.from_numpy(read_image(BUNDLED_SAMPLE))
    net.transform.min_size, net.transform.max_size = (min(image.shape[1:]),), 1000  # as they are
    detexport.export(net, target="tracing", output=tmp_path / "a", class_names=NAMES)
    found = detexport.load(tmp_path / "a")(image)
    with torch.no_grad():
        (expected,) = net([image / 255])
    assert len(found) == len(expected["scores"]) > 0
    np.testing.assert_allclose(found.boxes, expected["boxes"].numpy(), atol=1e-2)
    np.testing.assert_allclose(found.scores, expected["scores"].numpy(), atol=2e-4)
    assert found.classes.tolist() == (expected["labels"] - 1).tolist()


def test_options_and_samples_reach_the_export_method(model: Any, tmp_path: Path) -> None:
    written = detexport.export(
        model, target="tracing", output=tmp_path / "a", options={"graph_end": "pasted"}, sample=BUNDLED_SAMPLE
    )
    assert written.contract.graph_end == "pasted"
    assert written.contract.class_names == ("0", "1", "2", "3", "4")
    with pytest.raises(ConfigError, match="no such option; got: opset_version=20"):
        detexport.export(model, target="tracing", output=tmp_path / "b", options={"opset_version": 20})


@pytest.mark.parametrize("other", ["configuration", "module"])
def test_an_artifact_is_validated_against_its_model(other: str, model: Any, artifact_dir: Path) -> None:
    given = (CONFIG, WEIGHTS) if other == "configuration" else (model,)
    report = detexport.validate(artifact_dir, *given)
    assert report.passed, report.reasons
    assert report.to_json()["detections"]["paired"] > 0


def test_an_artifact_of_other_weights_does_not_pass(artifact_dir: Path) -> None:
    other = small_model("faster_rcnn").eval()
    assert not detexport.validate(artifact_dir, other).passed


def test_classes_without_names_are_warned_of_and_steps_are_printed_on_request(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match="has no names for its 5 things.*class_names=") as caught:
        detexport.export(model, target="tracing", output=tmp_path / "a", check=False, progress=True)
    (warning,) = [one for one in caught if "has no names" in str(one.message)]
    assert warning.filename == __file__
    steps = [line for line in capsys.readouterr().err.splitlines() if line.endswith(" ...")]
    assert steps == ["build the model and load its weights ...", "tracing (1 of 1) ..."]


def test_a_check_without_detections_warns(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "black.png")
    options: dict[str, Any] = {
        "overrides": ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.99"),
        "sample": tmp_path / "black.png",
    }
    output = tmp_path / "a"
    with pytest.warns(UserWarning, match="no detection was compared; give sample"):
        detexport.export(CONFIG, WEIGHTS, target="scripting", output=output, **options)
    with pytest.warns(UserWarning, match="no detection was compared; give sample"):
        assert detexport.validate(output, CONFIG, WEIGHTS, **options).passed


def test_reduced_precision_needs_annotations(model: Any, tmp_path: Path) -> None:
    write_tiny_onnx(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"int8 is evaluated by the task metric alone.*got: no data"):
        detexport.validate(tmp_path / "a", model, target="onnx_int8")


SCRIPT = """
import sys
import detexport
report = detexport.validate(*sys.argv[1:4], data=sys.argv[4], images=1, accuracy_images=2)
print(report.passed, len(report.to_json()["samples"]))
"""


@pytest.mark.slow
def test_a_script_validates_on_a_data_set(artifact_dir: Path, data: Path, tmp_path: Path) -> None:
    """The process that validates does not run the script again, which has no ``if __name__``."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-W", "ignore", "script.py", *map(str, (artifact_dir, CONFIG, WEIGHTS, data))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    passed, samples = done.stdout.split()
    assert passed == "True"
    assert int(samples) > 10


def test_two_artifacts_are_compared_on_a_data_set(artifact_dir: Path, data: Path) -> None:
    report = detexport.validate(artifact_dir, artifact_dir, data=data, images=1, accuracy_images=0)
    assert report.passed
    with pytest.raises(ConfigError, match="nothing to compare the artifact with"):
        detexport.validate(artifact_dir, artifact_dir)


def test_wrong_models_are_refused(model: Any, artifact_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "a"
    with pytest.raises(ConfigError, match=r"got: Linear; expected: a model of detexport.modeling"):
        detexport.export(nn.Linear(1, 1).eval(), output=output)
    with pytest.raises(ExportError, match=r"the FasterRCNN is in training mode.*model.eval\(\)"):
        detexport.export(faster_rcnn(num_classes=3), output=output)
    with pytest.raises(ConfigError, match="weights and options are for a configuration"):
        detexport.export(model, WEIGHTS, output=output)
    with pytest.raises(ConfigError, match=r"there is no file nothing\.yaml"):
        detexport.export("nothing.yaml", WEIGHTS, output=output)
    with pytest.raises(CheckpointError, match="does not belong to this model"):
        detexport.export(CONFIG, ROOT / "checkpoints/retinanet.safetensors", output=output)
    with pytest.raises(ConfigError, match="data and sample"):
        detexport.validate(artifact_dir, model, data=tmp_path, sample=BUNDLED_SAMPLE)
    broken = small_model("faster_rcnn").eval()
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(CheckpointError, match="NaN"):
        detexport.export(broken, output=output)
    assert not output.exists()


def test_wrong_arguments_are_refused_before_any_work(model: Any, tmp_path: Path) -> None:
    output = tmp_path / "mine"
    with pytest.raises(ConfigError, match="unknown target"):
        detexport.export(model, target="onx", output=output)
    with pytest.raises(ConfigError, match="is checked by its task metrics"):
        detexport.export(model, target="onnx_int8", output=output)
    with pytest.raises(ConfigError, match="needs calibration images"):
        detexport.export(model, target="onnx_int8", output=output, check=False)
    with pytest.raises(DataError, match="no such image"):
        detexport.export(model, output=output, sample="missing/*.jpg")
    output.mkdir()
    (output / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"is not an artifact; got: a folder with thesis\.tex"):
        detexport.export(model, output=output)
    assert (output / "thesis.tex").exists()


def test_the_package_of_export_methods_is_the_function_too() -> None:
    code = """
import detexport
from detexport.export import TracingAdapter
import detexport.export as package
assert callable(detexport.export) and package is detexport.export
assert detexport.export.TracingAdapter is TracingAdapter
"""
    for first in ("", "import detexport.export\n", "from detexport import export\n"):
        subprocess.run([sys.executable, "-c", first + code], check=True)
    assert callable(export)
