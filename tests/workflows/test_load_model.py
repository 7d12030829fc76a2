"""A model is the same, digests included, whether the pipeline loads it or a command does."""

import json
from pathlib import Path

import pytest
import torch

from detexport.errors import ConfigError
from detexport.workflows.build import build
from detexport.workflows.load_checkpoint import load_checkpoint
from detexport.workflows.load_model import load_model
from detexport.workflows.loaded_model import LoadedModel, load_built_model
from detexport.workflows.model_source import ModelSource

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "conf/detectron2/faster_rcnn.yaml"
WEIGHTS = ROOT / "checkpoints/faster_rcnn.safetensors"
NAMES = ("circle", "rectangle", "triangle", "star", "ring")
KEY = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.3")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "m"
    tree = {"MODEL": {"ROI_HEADS": {"SCORE_THRESH_TEST": 0.3}}}
    dataset = {"things": list(NAMES)}
    build("m", CONFIG, folder / "build", overrides=tree, class_names=None, dataset=dataset)
    load_checkpoint(WEIGHTS, folder / "build", folder / "weights", source=WEIGHTS.name)
    return folder


@pytest.fixture(scope="module")
def given() -> LoadedModel:
    return load_model(ModelSource(str(CONFIG), str(WEIGHTS), overrides=KEY))


def test_the_pipeline_and_a_command_load_the_same_model(model_dir: Path, given: LoadedModel) -> None:
    built = load_built_model(model_dir / "build", model_dir / "weights")
    assert built.provenance == given.provenance
    assert built.contract == given.with_class_names(NAMES).contract
    assert built.load_report.complete
    assert not built.net.training
    for name, tensor in built.net.state_dict().items():
        assert torch.equal(tensor, given.net.state_dict()[name]), name
    recorded = json.loads((model_dir / "weights" / "load.json").read_text())
    assert recorded["source"]["file"] == WEIGHTS.name


def test_names_are_one_for_each_class(given: LoadedModel) -> None:
    assert given.contract.class_names == ("0", "1", "2", "3", "4")
    with pytest.raises(ConfigError, match="2 names: a, b; expected: 5 things"):
        given.with_class_names(("a", "b"))
    assert given.contract.class_names == ("0", "1", "2", "3", "4")
