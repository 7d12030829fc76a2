"""Where a model comes from: a file or the zoo, with overrides and weights, or beside its artifact."""

from pathlib import Path

import pytest

from detexport.errors import CheckpointError, ConfigError
from detexport.workflows.model_source import ModelSource, check_weights, find_source

CONFIG = Path(__file__).parents[2] / "conf/detectron2/faster_rcnn.yaml"
ZOO = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
KEY = "MODEL.ROI_HEADS.SCORE_THRESH_TEST"


def test_overrides_and_weights_replace_those_of_the_file() -> None:
    cfg = ModelSource(str(CONFIG), "w.pth", (KEY, "0.3", "MODEL.WEIGHTS", "other.pth")).read_config()
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.3
    assert cfg.MODEL.WEIGHTS == "w.pth"
    assert (
        ModelSource(str(CONFIG), "", ("MODEL.WEIGHTS", "other.pth")).read_config().MODEL.WEIGHTS
        == "other.pth"
    )


def test_a_model_of_the_zoo_has_its_trained_weights_unless_others_are_given() -> None:
    assert ModelSource(ZOO).read_config().MODEL.WEIGHTS.endswith(".pkl")
    assert ModelSource(ZOO, "w.pth").read_config().MODEL.WEIGHTS == "w.pth"
    assert ModelSource(ZOO, "", ("MODEL.WEIGHTS", "")).read_config().MODEL.WEIGHTS == ""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ModelSource("no.yaml"), r"there is no file no\.yaml, and the model zoo has no"),
        (ModelSource(ZOO.replace("3x", "3")), f"did you mean '{ZOO}'"),
        (ModelSource(str(CONFIG), "", ("MODEL.ROI_HEADZ.X", "1")), r"MODEL\.ROI_HEADS"),
        (ModelSource(str(CONFIG), "", (KEY,)), "come in pairs of a key and a value"),
        (ModelSource(str(CONFIG), "", (KEY, "much")), "SCORE_THRESH_TEST"),
    ],
)
def test_a_mistake_is_named(source: ModelSource, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source.read_config()


def test_a_source_is_found_beside_the_artifact_as_far_as_it_is_not_given(tmp_path: Path) -> None:
    for name in ("build/config.yaml", "weights/model.safetensors"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    artifact = tmp_path / "artifacts/onnx"
    found = find_source(artifact, ModelSource("", "", (KEY, "0.3")))
    assert found.config_file == str((tmp_path / "build/config.yaml").resolve())
    assert found.weights == str((tmp_path / "weights/model.safetensors").resolve())
    assert found.overrides == (KEY, "0.3")
    assert find_source(artifact, ModelSource("a.yaml", "b.pth")) == ModelSource("a.yaml", "b.pth")


@pytest.mark.parametrize(
    ("given", "option"), [(ModelSource(""), "config-file"), (ModelSource("a"), "weights")]
)
def test_a_source_that_is_neither_given_nor_found_is_named(
    given: ModelSource, option: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"no --{option} is given; got: no file .*remedy: give --{option}"):
        find_source(tmp_path / "artifacts/onnx", given)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("", r"got: neither --weights nor MODEL\.WEIGHTS"),
        ("folder", "no checkpoint at folder; got: a folder"),
        ("no.pth", r"no checkpoint at no\.pth; got: no such file"),
        ("detecton2://a.pkl", "did you mean 'detectron2://'"),
        ("ftp://a/b.pth", "got: ftp://; .*expected: one of https://"),
    ],
)
def test_weights_that_cannot_be_had_are_refused(
    weights: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=message):
        check_weights(weights)


def test_a_file_and_an_address_may_be_weights_and_a_signature_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    for weights in (str(tmp_path / "w.pth"), "https://example.org/w.pth", "detectron2://a.pkl"):
        check_weights(weights)
    with pytest.raises(CheckpointError) as refused:
        check_weights("s3://bucket/w.pth?signature=secret")
    assert "secret" not in str(refused.value)
