"""Weights into a model: every name accounted for before a single tensor is copied."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detexport.checkpoint.torchvision_names import with_new_names
from detexport.errors import CheckpointError

LEGACY_KEYS = ("pixel_mean", "pixel_std")
"""Entries of model zoo files that are configuration, not parameters."""


@dataclass(frozen=True)
class LoadReport:
    """What a checkpoint holds of what a model needs.

    Args:
        loaded: names that fit.
        missing_keys: names of the model that the checkpoint lacks.
        unexpected_keys: names of the checkpoint that the model lacks.
        mismatched_keys: names whose shapes differ: checkpoint's, model's.
        ignored_keys: entries that are known not to be parameters.
    """

    loaded: tuple[str, ...]
    missing_keys: tuple[str, ...]
    unexpected_keys: tuple[str, ...]
    mismatched_keys: dict[str, tuple[list[int], list[int]]]
    ignored_keys: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Every parameter of the model is filled and nothing is left over."""
        return not (self.missing_keys or self.unexpected_keys or self.mismatched_keys)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)

    def raise_if_incomplete(self, source: str) -> None:
        """Raise with all that does not fit.

        Raises:
            CheckpointError: the checkpoint is not the model's.
        """
        if self.complete:
            return
        mismatched = [f"{name} {got} instead of {want}" for name, (got, want) in self.mismatched_keys.items()]
        raise CheckpointError(
            f"{source} does not belong to this model",
            got="; ".join(
                f"{len(names)} {what}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
                for what, names in (
                    ("missing", list(self.missing_keys)),
                    ("unexpected", list(self.unexpected_keys)),
                    ("of another shape", mismatched),
                )
                if names
            ),
            expected="every parameter of the model, by name and shape, and nothing else",
            remedy="give the checkpoint that was trained with this configuration, or its configuration",
        )


def match_weights(
    state_dict: Mapping[str, Tensor], shapes: Mapping[str, list[int]]
) -> tuple[dict[str, Tensor], LoadReport]:
    """Pick from a checkpoint what a model needs.

    Args:
        state_dict: the checkpoint's tensors by name, also by the names of torchvision's older files.
        shapes: the model's names and shapes.

    Returns:
        the tensors that fit, and the account of all names.
    """
    state_dict = with_new_names(state_dict, shapes)
    ignored = tuple(sorted(name for name in state_dict if _is_legacy(name) and name not in shapes))
    fitting: dict[str, Tensor] = {}
    mismatched: dict[str, tuple[list[int], list[int]]] = {}
    for name, shape in shapes.items():
        if name in state_dict:
            if list(state_dict[name].shape) == list(shape):
                fitting[name] = state_dict[name]
            else:
                mismatched[name] = (list(state_dict[name].shape), list(shape))
    report = LoadReport(
        loaded=tuple(sorted(fitting)),
        missing_keys=tuple(sorted(name for name in shapes if name not in state_dict)),
        unexpected_keys=tuple(sorted(n for n in state_dict if n not in shapes and n not in ignored)),
        mismatched_keys=mismatched,
        ignored_keys=ignored,
    )
    return fitting, report


def _is_legacy(name: str) -> bool:
    return name in LEGACY_KEYS or ".cell_anchors." in name or name.endswith(".num_batches_tracked")


def model_shapes(model: nn.Module) -> dict[str, list[int]]:
    """Names and shapes of a model's parameters and buffers; counters of batch normalization aside."""
    return {
        name: list(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith(".num_batches_tracked")
    }


@torch.no_grad()
def load_weights(
    model: nn.Module, state_dict: Mapping[str, Tensor], source: str = "the checkpoint"
) -> LoadReport:
    """Fill every parameter and buffer of ``model``.

    Raises:
        CheckpointError: a name is missing, unexpected or of another shape; the model is as it was.
    """
    fitting, report = match_weights(state_dict, model_shapes(model))
    report.raise_if_incomplete(source)
    model.load_state_dict(fitting, strict=False)
    return report
