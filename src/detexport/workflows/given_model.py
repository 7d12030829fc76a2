"""The model of a user: a module that was built in Python, or a configuration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from detexport.artifact import Provenance
from detexport.checkpoint import digest_state_dict, match_weights
from detexport.checkpoint.load import describe_parameters
from detexport.errors import ConfigError, ExportError
from detexport.modeling.meta_arch.image_model import ImageModel
from detexport.modeling.meta_arch.instances_model import exportable, is_of_a_project
from detexport.modeling.torchvision import is_torchvision, wrap_torchvision
from detexport.workflows.load_model import load_model
from detexport.workflows.loaded_model import LoadedModel, name_contract, number_classes
from detexport.workflows.model_source import ModelSource

BUILT = "built in Python"
"""Entry of the manifest instead of a configuration's digest."""


def given_model(
    model: Any, weights: str | Path = "", *, overrides: Sequence[str] = (), allow_new: Sequence[str] = ()
) -> LoadedModel:
    """Return the model that a user gave to ``detexport.export`` or ``detexport.validate``.

    Args:
        model: a module in evaluation mode on the CPU, of ``detexport.modeling`` or one of torchvision's
            detectors; or detectron2 YAML by path or by its name in the model zoo.
        weights: of a configuration: see ``ModelSource``.
        overrides: of a configuration: see ``ModelSource``.
        allow_new: of a configuration: see ``ModelSource``.

    Raises:
        CheckpointError: there are no such weights, they are not the model's, or a parameter is not finite.
        ConfigError: it is not a model, or there is no such configuration.
        ExportError: the module is in training mode, or not on the CPU.
    """
    if isinstance(model, str | Path):
        return load_model(ModelSource(str(model), str(weights), tuple(overrides), tuple(allow_new)))
    if weights or overrides or allow_new:
        raise ConfigError(
            "weights and options are for a configuration, not for a built model",
            got=f"a {type(model).__name__} with weights, overrides or allow_new",
            expected="the model alone",
            remedy="load the weights into the model, or give its configuration by path or name",
        )
    if is_torchvision(model):
        net: Any = wrap_torchvision(model).train(model.training)
    elif isinstance(model, ImageModel) or is_of_a_project(model):
        net = exportable(model)
    else:
        raise ConfigError(
            "this is not a model that can be exported",
            got=type(model).__name__,
            expected="a model of detexport.modeling or of a project for detectron2, a FasterRCNN, MaskRCNN, "
            "KeypointRCNN, RetinaNet, FCOS or SSD of torchvision, or a configuration by its path or its name "
            "in the model zoo",
            remedy="extend ImageModel: docs/custom_models.md describes it",
        )
    _check_state(model, net)
    state_dict, report = match_weights(net.state_dict(), **describe_parameters(net))
    report.raise_if_incomplete(f"the {type(model).__name__}")
    return LoadedModel(
        net,
        name_contract(net, number_classes(net), (), type(model).__name__),
        Provenance(weights_sha256=digest_state_dict(state_dict), config_sha256=BUILT),
        report,
        f"the {type(model).__name__}",
        BUILT,
    )


def _check_state(model: nn.Module, net: ImageModel) -> None:
    """Raise ExportError unless a module is in evaluation mode and on the CPU."""
    name = type(model).__name__
    if model.training:
        raise ExportError(
            f"the {name} is in training mode",
            got="training=True",
            expected="evaluation mode",
            remedy="call model.eval()",
        )
    if net.device.type != "cpu":
        raise ExportError(
            f"the {name} is not on the CPU",
            got=str(net.device),
            expected="a model on the CPU, from which every artifact is exported",
            remedy="call model.cpu()",
        )
