"""The one-line API: `detexport.load` on each kind of input, from a folder and from MLflow."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image

import detexport
from detexport.cli.predict import predict
from detexport.errors import ArtifactError, ConfigError, DataError, InputError
from detexport.registry.jobs import register_jobs
from detexport.registry.settings import RegistrySettings
from detexport.registry.store import RegistryError
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.workflows.load_detector import _registered_engine
from tiny_artifacts import KINDS, tiny_contract, tiny_image, write_tiny_onnx

sys.path.insert(0, str(Path(__file__).parent / "registry"))
from toy_project import folder, toy_artifact, toy_job, write_project

SIZE = (60, 90)  # the tiny artifact's rule resizes it to 40 x 60
FIELDS = ("boxes", "scores", "classes", "masks")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """(H, W, 3) RGB."""
    return np.ascontiguousarray(tiny_image(*SIZE).transpose(1, 2, 0))


@pytest.fixture(scope="module")
def photo(pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def detector(tiny_onnx: Path) -> detexport.Detector:
    return detexport.load(tiny_onnx)


def assert_same(one: detexport.Detections, other: detexport.Detections) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.class_names == other.class_names


def test_detections_are_documented_arrays(detector: detexport.Detector, photo: Path) -> None:
    found = detector(photo)
    assert (len(found), found.height, found.width) == (3, *SIZE)
    assert [(getattr(found, name).dtype, getattr(found, name).shape) for name in FIELDS] == [
        (np.float32, (3, 4)),
        (np.float32, (3,)),
        (np.int64, (3,)),
        (bool, (3, *SIZE)),
    ]
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [90, 60, 90, 60]).all()
    assert found.class_names == [detector.contract.class_names[index] for index in found.classes]


@pytest.mark.parametrize("kind", ["str", "pil", "array", "bgr array", "view", "tensor", "bgr tensor"])
def test_each_kind_of_image_gives_the_same_detections(
    kind: str, detector: detexport.Detector, photo: Path, pixels: np.ndarray
) -> None:
    given: dict[str, Any] = {
        "str": str(photo),
        "pil": Image.open(photo),
        "array": pixels,
        "bgr array": pixels[..., ::-1],
        "view": np.asfortranarray(pixels),
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1),
        "bgr tensor": torch.from_numpy(pixels).permute(2, 0, 1).flip(0),
    }
    order: Any = {"channel_order": "BGR"} if "bgr" in kind else {}
    assert_same(detector(given[kind], **order), detector(photo))


def test_a_model_of_bgr_sees_bgr(tmp_path: Path, photo: Path, pixels: np.ndarray) -> None:
    write_tiny_onnx(tmp_path / "bgr", contract=tiny_contract(channel_order="BGR"))
    found = detexport.load(tmp_path / "bgr")(pixels)
    means = pixels[..., ::-1].mean((0, 1))  # the tiny model's class i is as bright as the i-th channel
    assert found.classes.tolist() == np.argsort(-means).tolist()
    assert_same(detexport.load(tmp_path / "bgr")(photo), found)


def test_a_list_of_dicts_gives_the_eager_models_structures(
    detector: detexport.Detector, pixels: np.ndarray, photo: Path
) -> None:
    from detexport.data import resize_image

    resized = torch.from_numpy(resize_image(tiny_image(*SIZE), (40, 60)))
    (outputs,) = detector([{"image": resized, "height": SIZE[0], "width": SIZE[1]}])
    found, instances = detector(photo), outputs["instances"]
    np.testing.assert_array_equal(instances.pred_boxes.tensor.numpy(), found.boxes)
    np.testing.assert_array_equal(instances.scores.numpy(), found.scores)
    np.testing.assert_array_equal(instances.pred_masks.numpy(), found.masks)


def test_a_picture_and_a_file_are_upright(
    detector: detexport.Detector, pixels: np.ndarray, tmp_path: Path
) -> None:
    turned = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer turns it clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    expected = detector(pixels)
    assert_same(detector(tmp_path / "turned.png"), expected)
    assert_same(detector(Image.open(tmp_path / "turned.png")), expected)


def test_the_threshold_drops_lower_scores(detector: detexport.Detector, photo: Path) -> None:
    scores = detector(photo).scores
    found = detector(photo, score_threshold=float(scores[1]))
    np.testing.assert_array_equal(found.scores, scores[:1])
    assert found.masks.shape == (1, *SIZE)
    assert len(detector(np.zeros((*SIZE, 3), np.uint8))) == 0


def test_plain_values_are_those_of_the_command(
    detector: detexport.Detector, tiny_onnx: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"as_json": True, "draw_to": None, "device": "cpu", "target": ""}
    predict(tiny_onnx, [str(photo)], **options, score_threshold=0.0)
    (row,) = json.loads(capsys.readouterr().out)["images"]
    assert row == {"image": str(photo), **json.loads(json.dumps(detector(photo).to_plain()))}


def test_the_detections_are_drawn(detector: detexport.Detector, photo: Path, tmp_path: Path) -> None:
    detector(photo).save_drawing(tmp_path / "drawn.png")
    drawn = np.asarray(Image.open(tmp_path / "drawn.png"))
    assert drawn.shape == (*SIZE, 3)
    assert (drawn != np.asarray(Image.open(photo))).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_has_the_outputs_that_it_predicts(kind: str, photo: Path, tmp_path: Path) -> None:
    write_tiny_onnx(tmp_path / kind, kind)
    found = detexport.load(tmp_path / kind)(photo)
    attributes = {
        "pred_boxes": "boxes",
        "pred_masks": "masks",
        "pred_keypoints": "keypoints",
        "sem_seg": "sem_seg",
        "panoptic_seg": "panoptic_seg",
        "proposal_boxes": "proposal_boxes",
        "objectness_logits": "objectness_logits",
    }
    for field, name in attributes.items():
        assert hasattr(found, name) == (field in found.outputs)
    assert hasattr(found, "segments_info") == hasattr(found, "panoptic_seg") == (kind == "panoptic")
    if kind == "semantic":
        with pytest.raises(AttributeError, match=r"the model predicts no boxes; got: a model of sem_seg"):
            found.boxes  # noqa: B018


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"got: float32 \(4, 4, 3\).*multiply values 0..1 by 255"),
        (np.zeros((3, 4, 4), np.uint8), r"got: uint8 \(3, 4, 4\).*image.transpose\(1, 2, 0\)"),
        (np.zeros((4, 4), np.uint8), r"expected: uint8 \(height, width, 3\).*three colour channels"),
        (np.zeros((0, 4, 3), np.uint8), r"sides of 1 to"),
        (np.zeros((2, 4, 4, 3), np.uint8), "one image a call"),
        (torch.zeros(3, 4, 4), r"got: torch.float32 \(3, 4, 4\).*by 255"),
        (
            torch.zeros(4, 4, 3, dtype=torch.uint8),
            r"uint8 \(3, height, width\).*permute\(2, 0, 1\)",
        ),
        (None, r"got: NoneType; expected: a path"),
        (["a.png", "b.png"], r"got: list; .*one image a call"),
        ([], "at least one image"),
        ([{}], "has no image"),
    ],
)
def test_what_is_not_an_image_is_refused(detector: detexport.Detector, image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        detector(image)


def test_options_are_checked(detector: detexport.Detector, photo: Path, pixels: np.ndarray) -> None:
    wrong: Any = "GBR"
    with pytest.raises(InputError, match="got: 'GBR'; expected: RGB or BGR"):
        detector(pixels, channel_order=wrong)
    with pytest.raises(InputError, match=r"score_threshold is out of range; got: 1.5"):
        detector(photo, score_threshold=1.5)
    batch: Any = [{"image": torch.zeros(3, 8, 8, dtype=torch.uint8)}]
    with pytest.raises(InputError, match="takes no options"):
        detector(batch, score_threshold=0.5)
    with pytest.raises(DataError, match=r"missing.png cannot be read"):
        detector("missing.png")
    with pytest.raises(DataError, match="not an image of 8 bits"):
        detector(Image.new("F", (8, 8)))


def test_what_cannot_be_loaded_is_refused(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact"):
        detexport.load(tmp_path)
    with pytest.raises(ConfigError, match="unknown target"):
        detexport.load(tiny_onnx, target="onx")
    with pytest.raises(ConfigError, match="does not run artifacts of this format"):
        detexport.load(tiny_onnx, target="openvino")


def test_a_console_shows_what_it_is(detector: detexport.Detector, photo: Path) -> None:
    assert repr(detector) == f"Detector(ONNX of instances, on cpu, {detector.artifact.sha256[:12]})"
    found = "Detections(3 in 90 x 60 px: pred_boxes, scores, pred_classes, pred_masks)"
    assert repr(detector(photo)) == found


def test_type_checkers_see_the_types() -> None:
    assert Path(detexport.__file__).with_name("py.typed").is_file()


WITHOUT_TORCH = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "mlflow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
import detexport
found = detexport.load(sys.argv[1])(sys.argv[2])
print(found.boxes.tolist(), "torch" in sys.modules)
"""


@pytest.mark.parametrize("fixture", ["tiny_onnx", "tiny_openvino"])
def test_detections_need_no_torch(fixture: str, photo: Path, request: pytest.FixtureRequest) -> None:
    artifact_dir = request.getfixturevalue(fixture)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(artifact_dir), str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{detexport.load(artifact_dir)(photo).boxes.tolist()} False"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one registered model in an SQLite store."""
    root = tmp_path_factory.mktemp("registry")
    write_project(root)
    job = toy_job(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        register_jobs([job], workspace=root, checkout=root, settings=RegistrySettings())
    return root


@pytest.fixture
def client(registry: Path) -> mlflow.MlflowClient:
    mlflow.set_tracking_uri(f"sqlite:///{registry}/mlflow.db")
    return mlflow.MlflowClient()


def test_a_registered_model_is_loaded_by_version_and_alias(
    client: mlflow.MlflowClient, registry: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[OnnxRuntime] = []
    open_ = OnnxRuntime.open
    monkeypatch.setattr(OnnxRuntime, "open", lambda self, *a: (opened.append(self), open_(self, *a))[1])
    expected = detexport.load(folder(registry) / "artifacts" / "onnx")(photo)
    client.set_registered_model_alias("toy-onnx", "champion", "1")
    for uri in ("models:/toy-onnx/1", "models:/toy-onnx@champion"):
        detector = detexport.load(uri)
        assert detector.artifact.sha256 == toy_artifact(registry).sha256
        assert_same(detector(photo), expected)
        assert opened[-1] == OnnxRuntime(threads=1)  # as it was registered
    detexport.load("models:/toy-onnx/1", target="onnx")
    assert opened[-1] == OnnxRuntime()


def test_a_folder_of_a_run_is_loaded(client: mlflow.MlflowClient, registry: Path, photo: Path) -> None:
    artifact_dir = folder(registry) / "artifacts" / "onnx"
    (run,) = client.search_runs([client.get_experiment_by_name("detexport").experiment_id])
    client.log_artifacts(run.info.run_id, str(artifact_dir), "mine")
    expected = detexport.load(artifact_dir)(photo)
    assert_same(detexport.load(f"runs:/{run.info.run_id}/mine")(photo), expected)
    assert_same(detexport.load(f"runs:/{run.info.run_id}/detector")(photo), expected)
    with pytest.raises(ArtifactError, match=r"holds no artifact of detexport"):
        detexport.load(f"runs:/{run.info.run_id}/certificate.json")


def test_a_model_that_is_not_registered_is_refused(client: mlflow.MlflowClient) -> None:
    with pytest.raises(RegistryError, match=r"the registry sqlite:.* cannot be used; got: .*toy-onnx"):
        detexport.load("models:/toy-onnx/7")


def test_a_registered_model_cannot_name_another_class(registry: Path) -> None:
    artifact = toy_artifact(registry)
    engine = "detexport.runtime.onnxruntime.OnnxRuntime"
    for runtime in ({"_target_": "os.system"}, {"_target_": engine, "unknown": 1}):
        with pytest.raises(ArtifactError, match="does not have; got: "):
            _registered_engine(artifact, runtime)
