"""Load a model: configuration and weights -> a network in evaluation mode, its contract, its origin."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from detexport import model_zoo
from detexport.artifact import Provenance
from detexport.checkpoint import digest_state_dict, fetch, load_weights, match_weights, read_state_dict
from detexport.checkpoint.load import describe_parameters
from detexport.config.cfg import CfgNode
from detexport.data import MetadataCatalog
from detexport.modeling import build_model
from detexport.modeling.class_names import count_classes
from detexport.modeling.meta_arch.instances_model import exportable
from detexport.system.files import is_url
from detexport.system.redaction import public_uri
from detexport.workflows.loaded_model import SEED, LoadedModel, name_contract, number_classes
from detexport.workflows.model_source import ModelSource, check_weights


def load_model(source: ModelSource) -> LoadedModel:
    """Build a model on the CPU, and load a checkpoint that must hold every parameter.

    Its digests equal the pipeline's for the same configuration and weights. Its class names are those of the
    data set in ``DATASETS.TEST``, or numbers: see ``LoadedModel.with_class_names``.

    Raises:
        CheckpointError: there are no such weights, or they are not the model's.
        ConfigError: there is no such configuration, or a key or a value does not fit.
    """
    cfg = source.read_config()
    weights = cfg.MODEL.WEIGHTS
    check_weights(weights)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    torch.manual_seed(SEED)
    net = build_model(cfg).eval()
    shown = public_uri(weights) if is_url(weights) else weights
    state_dict = read_state_dict(fetch(weights) if is_url(weights) else Path(weights))
    fitting, report = match_weights(
        state_dict, **describe_parameters(net), new_parameters=source.allow_new, option="--allow-new"
    )
    report.raise_if_incomplete(shown, option="--allow-new")
    fitting |= {name: net.state_dict()[name] for name in report.new_keys}
    load_weights(net, fitting, shown)
    provenance = Provenance(
        weights_sha256=digest_state_dict(fitting), config_sha256=sha256(cfg.dump().encode()).hexdigest()
    )
    net = exportable(net, cfg)
    names = _default_names(net, cfg)
    contract = name_contract(net, names, tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS), source.config_file)
    return LoadedModel(net, contract, provenance, report, source.config_file, shown)


def _default_names(net: Any, cfg: CfgNode) -> dict[str, Sequence[str]]:
    """Return the names of the data set that the model is tested on, or numbers, by kind."""
    names, counts, known = number_classes(net), count_classes(net), _names_of_dataset(cfg)
    # If the number of classes differs, the configuration still names the data set of the base model.
    return names | {
        kind: known[kind] for kind in names if kind in known and counts[kind] in (None, len(known[kind]))
    }


def _names_of_dataset(cfg: CfgNode) -> dict[str, Sequence[str]]:
    """Return the class names of ``DATASETS.TEST``, from the MetadataCatalog or the model zoo, by kind."""
    if not cfg.DATASETS.TEST:
        return {}
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    registered = {"things": metadata.get("thing_classes"), "stuff": metadata.get("stuff_classes")}
    zoo = model_zoo.get_class_names(cfg.DATASETS.TEST[0])
    return {**zoo, **{kind: names for kind, names in registered.items() if names}}
