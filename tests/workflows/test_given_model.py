"""A model that was built in Python: accepted as it is, or refused with what to do."""

from typing import Any

import pytest
import torch
from torch import nn

from detexport.errors import CheckpointError, ConfigError, ExportError
from detexport.modeling.meta_arch.torchvision_small import faster_rcnn
from detexport.workflows.given_model import BUILT, given_model
from small_architectures import small_model


@pytest.fixture(scope="module")
def net() -> Any:
    return small_model("retinanet").eval()


def test_a_module_is_the_model_itself_with_numbered_classes(net: Any) -> None:
    given = given_model(net)
    assert given.net is net
    assert given.contract.class_names == ("0", "1", "2", "3", "4")
    assert (given.provenance.config_sha256, given.weights) == (BUILT, BUILT)
    assert given.name == "the RetinaNet"
    assert given.load_report.complete


def test_the_digest_of_the_weights_is_of_their_values(net: Any) -> None:
    digest = given_model(net).provenance.weights_sha256
    same, other = small_model("retinanet").eval(), small_model("retinanet").eval()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    assert given_model(same).provenance.weights_sha256 == digest
    assert given_model(other).provenance.weights_sha256 != digest


def test_a_detector_of_torchvision_is_wrapped_and_stays_as_it_is() -> None:
    net = faster_rcnn(num_classes=6).eval()
    given = given_model(net)
    assert given.net is not net
    assert not given.net.training
    assert len(given.contract.class_names) == 5
    assert given.name == f"the {type(net).__name__}"


@pytest.mark.parametrize("options", [{"weights": "a.pth"}, {"overrides": ["A", "1"]}, {"allow_new": ["x"]}])
def test_options_of_a_configuration_are_refused(net: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="are for a configuration, not for a built model; got: a RetinaNet"):
        given_model(net, **options)


@pytest.mark.parametrize("model", [nn.Linear(1, 1), None, 5, ["model.yaml"]])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match=rf"got: {type(model).__name__}; expected: a model of detexport"):
        given_model(model)


def test_a_model_in_training_mode_or_elsewhere_is_refused() -> None:
    with pytest.raises(ExportError, match=r"the RetinaNet is in training mode; .*model\.eval\(\)"):
        given_model(small_model("retinanet").train())
    with pytest.raises(ExportError, match=r"is not on the CPU; got: meta; .*model\.cpu\(\)"):
        given_model(small_model("retinanet").eval().to("meta"))


def test_a_parameter_that_is_not_finite_is_named() -> None:
    net = small_model("retinanet").eval()
    name, parameter = next(iter(net.named_parameters()))
    with torch.no_grad():
        parameter.view(-1)[0] = torch.nan
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        given_model(net)
