"""A loaded model; the stages of the pipeline load theirs from the folders of earlier stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detexport.artifact import Provenance
from detexport.checkpoint import LoadReport, load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.contract import Contract
from detexport.modeling import build_model
from detexport.modeling.class_names import count_classes, named_contract
from detexport.modeling.meta_arch.instances_model import exportable
from detexport.system.digests import sha256_file
from detexport.system.files import read_json
from detexport.workflows.model_folder import CONFIG, CONTRACT, WEIGHTS

SEED = 0
"""Seed of the initial values of parameters that a checkpoint lacks."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that can be exported and compared with.

    Args:
        net: the network, in evaluation mode.
        contract: its inputs and outputs, with class names.
        provenance: digests of its weights and of its resolved configuration.
        load_report: loaded, missing and converted parameters.
        name: the configuration, for messages.
        weights: the checkpoint, for messages; an address without its query, which may hold a signature.
    """

    net: Any
    contract: Contract
    provenance: Provenance
    load_report: LoadReport
    name: str = "the model"
    weights: str = "the checkpoint"

    def with_class_names(self, class_names: Sequence[str]) -> "LoadedModel":
        """Return the model with these names: of its things, or of its stuff where it has no things.

        Raises:
            ConfigError: there are more or fewer than the model has classes.
        """
        names: dict[str, Sequence[str]] = {
            "things": self.contract.class_names,
            "stuff": self.contract.stuff_class_names,
            "keypoints": self.contract.keypoint_names,
        }
        names[next(iter(count_classes(self.net)), "things")] = class_names
        return replace(
            self, contract=name_contract(self.net, names, self.contract.keypoint_sigmas, self.name)
        )

    @property
    def numbered(self) -> dict[str, int]:
        """The kinds of classes that have numbers for names, with the number of classes."""
        names = {"things": self.contract.class_names, "stuff": self.contract.stuff_class_names}
        numbers = number_classes(self.net)
        return {kind: len(own) for kind, own in numbers.items() if list(names[kind]) == list(own)}


def load_built_model(build: Path, weights: Path, device: str = "cpu") -> LoadedModel:
    """Load a model from the folders that the stages `build` and `load_checkpoint` write.

    Args:
        build: folder of the resolved configuration and the contract.
        weights: folder of the weights.
        device: where the model runs.

    Raises:
        CheckpointError: the weights are not the model's.
    """
    cfg = load_cfg(build / CONFIG)
    cfg.MODEL.DEVICE = device
    torch.manual_seed(SEED)
    net = build_model(cfg).eval()
    file = weights / WEIGHTS
    report = load_weights(net, read_state_dict(file), str(file))
    return LoadedModel(
        exportable(net, cfg),
        Contract.from_json(read_json(build / CONTRACT)),
        Provenance(weights_sha256=sha256_file(file), config_sha256=sha256_file(build / CONFIG)),
        report,
        str(build),
        str(file),
    )


def number_classes(net: Any) -> dict[str, Sequence[str]]:
    """Return the index of each class as its name, by kind; keypoints and an unknown number have none."""
    return {
        kind: [str(index) for index in range(count or 0)]
        for kind, count in count_classes(net).items()
        if kind != "keypoints"
    }


def name_contract(
    net: Any, names: Mapping[str, Sequence[str]], sigmas: Sequence[float], what: str
) -> Contract:
    """Return the contract of a model with names by kind: see ``named_contract``.

    Raises:
        ConfigError: the names do not fit the model.
    """
    remedy = "name as many as the model has: --class-names (in Python: class_names=...)"
    return named_contract(net, names, keypoint_sigmas=sigmas, what=what, remedy=remedy)
