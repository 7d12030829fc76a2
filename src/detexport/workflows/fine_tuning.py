"""Fine-tune: a configuration with the classes of a data set, and a checkpoint of other classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detexport.checkpoint import LoadReport, fetch, load_weights, read_state_dict
from detexport.checkpoint.load import model_shapes
from detexport.config import CfgNode
from detexport.config.meta_architectures import TORCHVISION
from detexport.errors import listed
from detexport.modeling import build_model
from detexport.modeling.class_names import count_classes
from detexport.modeling.meta_arch.instances_model import exportable
from detexport.system.files import is_url
from detexport.system.redaction import public_uri

THINGS = (
    "MODEL.POINT_HEAD.NUM_CLASSES",
    "MODEL.RETINANET.NUM_CLASSES",
    "MODEL.ROI_HEADS.NUM_CLASSES",
)
"""Keys of the number of classes of instances."""


def fit_classes(cfg: CfgNode, dataset: Mapping[str, Any], categories: Sequence[str] | None = None) -> None:
    """Set the numbers of classes and keypoints of a configuration to those of a data set, in place.

    Args:
        cfg: the configuration.
        dataset: the data set's ``dataset.json``.
        categories: names of the classes to keep; none keeps all.
    """
    things, stuff = len(categories or dataset["things"]), len(dataset.get("stuff", ()))
    keypoints = len(dataset.get("keypoints", ()))
    _set_numbers(cfg, things, 1 + stuff if stuff else None, keypoints or None)


def _set_numbers(cfg: CfgNode, things: int, stuff: int | None, keypoints: int | None) -> None:
    if cfg.MODEL.META_ARCHITECTURE == TORCHVISION:
        with_keypoints = "keypoint" in cfg.MODEL.TORCHVISION.NAME or cfg.MODEL.TORCHVISION.NUM_KEYPOINTS
        values = {
            "MODEL.TORCHVISION.NUM_CLASSES": things,
            "MODEL.TORCHVISION.NUM_KEYPOINTS": keypoints if with_keypoints else None,
        }
    else:
        values = {
            **dict.fromkeys(THINGS, things),
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES": stuff,
            "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": keypoints,
        }
    cfg.merge_from_list([part for item in values.items() if item[1] is not None for part in item])


def predictor_parameters(cfg: CfgNode, net: Any) -> list[str]:
    """Return the names of the parameters whose shape depends on the numbers of classes and keypoints.

    Args:
        cfg: the configuration.
        net: its model.
    """
    more, counts = cfg.clone(), count_classes(exportable(net, cfg))
    # A number that the model does not have may be anything.
    _set_numbers(more, *((counts.get(kind) or 0) + 1 for kind in ("things", "stuff", "keypoints")))
    shapes, others = model_shapes(net), model_shapes(build_model(more))
    return sorted(name for name in shapes if shapes[name] != others[name])


def load_start(net: Any, cfg: CfgNode, checkpoint: str, new_parameters: Sequence[str] = ()) -> LoadReport:
    """Load the checkpoint that a training starts from.

    Parameters whose shape depends on the number of classes or keypoints keep their initial values if the
    checkpoint lacks them or has them in another shape. All others must match.

    Args:
        net: the model.
        cfg: its configuration.
        checkpoint: a path or a URL.
        new_parameters: patterns of further parameters that may be new.

    Raises:
        CheckpointError: the file cannot be downloaded or read, or does not fit the model.
    """
    source = public_uri(checkpoint) if is_url(checkpoint) else checkpoint
    file = fetch(checkpoint) if is_url(checkpoint) else Path(checkpoint)
    allowed = [*predictor_parameters(cfg, net), *new_parameters]
    return load_weights(net, read_state_dict(file), source, new_parameters=allowed)


def describe_start(report: LoadReport) -> str:
    """Return a line about the loaded and the new parameters of a training."""
    new = f"new: {listed(report.new_keys, len(report.new_keys))}" if report.new_keys else "none is new"
    return f"{len(report.loaded)} parameters are loaded, {new}"
