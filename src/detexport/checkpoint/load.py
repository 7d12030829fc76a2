"""Weights into a model: every name accounted for before a single tensor is copied."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from detexport.checkpoint.naming import match_names
from detexport.checkpoint.older_names import with_new_names
from detexport.errors import CheckpointError

Shapes = tuple[list[int], list[int]]


@dataclass(frozen=True)
class LoadReport:
    """What a checkpoint holds of what a model needs.

    Args:
        loaded: names of the model that the checkpoint fills.
        missing_keys: names of the model that the checkpoint lacks.
        unexpected_keys: names of the checkpoint that the model lacks.
        mismatched_keys: names whose shapes differ: checkpoint's, model's.
        ignored_keys: entries of the checkpoint that are known not to be a detector's parameters.
        folded_keys: statistics of normalizations that the checkpoint has folded into scale and bias: they
            become mean 0 and variance 1.
        new_keys: names that keep the values that the model was built with, as ``new_parameters`` allows.
        naming: the convention that the checkpoint's names follow.
        note: what the checkpoint demands of the configuration, if anything.
    """

    loaded: tuple[str, ...]
    missing_keys: tuple[str, ...]
    unexpected_keys: tuple[str, ...]
    mismatched_keys: dict[str, Shapes]
    ignored_keys: tuple[str, ...]
    folded_keys: tuple[str, ...]
    new_keys: tuple[str, ...]
    naming: str
    note: str

    @property
    def complete(self) -> bool:
        """Every parameter of the model is accounted for and nothing is left over."""
        return not (self.missing_keys or self.unexpected_keys or self.mismatched_keys)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)

    def describe(self, limit: int | None = None) -> str:
        """All that is not plainly loaded, in one line; at most ``limit`` names of each kind."""
        mismatched = [f"{name} {got} instead of {want}" for name, (got, want) in self.mismatched_keys.items()]
        kinds = {
            "missing": list(self.missing_keys),
            "unexpected": list(self.unexpected_keys),
            "of another shape": mismatched,
            "new, left at their initial values": list(self.new_keys),
            "folded into scale and bias": list(self.folded_keys),
        }
        parts = [f"{len(names)} {what}: {_listed(names, limit)}" for what, names in kinds.items() if names]
        return "; ".join([*parts, *([f"named as {self.naming}: {self.note}"] if self.note else [])])

    def raise_if_incomplete(self, source: str) -> None:
        """Raise with all that does not fit.

        Raises:
            CheckpointError: the checkpoint is not the model's.
        """
        if not self.complete:
            raise CheckpointError(
                f"{source} does not belong to this model",
                got=self.describe(limit=5),
                expected="every parameter of the model, by name and shape, and nothing else",
                remedy="give the checkpoint that was trained with this configuration, or its configuration; "
                "parameters that are meant to be new are named in new_parameters",
            )


def _listed(names: list[str], limit: int | None) -> str:
    return ", ".join([*names[:limit], *(["..."] if len(names[:limit]) < len(names) else [])])


def match_weights(
    state_dict: Mapping[str, Tensor], shapes: Mapping[str, list[int]], new_parameters: Sequence[str] = ()
) -> tuple[dict[str, Tensor], LoadReport]:
    """Pick from a checkpoint what a model needs.

    Args:
        state_dict: the checkpoint's tensors by name, also by the names of older files.
        shapes: the model's names and shapes.
        new_parameters: patterns such as ``roi_heads.box_predictor.*`` of names that the checkpoint may lack
            or hold in another shape, a new head's.

    Returns:
        the tensors that fit, by the model's names, and the account of all names.

    Raises:
        CheckpointError: a name of the checkpoint fits several places, or a pattern no name of the model.
    """
    state_dict = with_new_names(state_dict, shapes)
    _check_patterns(new_parameters, shapes)
    names = match_names(state_dict.keys(), shapes.keys())
    fitting: dict[str, Tensor] = {}
    mismatched: dict[str, Shapes] = {}
    for name, source in names.sources.items():
        got, want = list(state_dict[source].shape), list(shapes[name])
        if got == want:
            fitting[name] = state_dict[source]
        else:
            mismatched[name] = (got, want)
    loaded = tuple(sorted(fitting))
    absent = {name: shape for name, shape in shapes.items() if name not in names.sources}
    folded = _folded_statistics(fitting, absent) if names.convention.folds_statistics else {}
    fitting |= folded
    new = [name for name in shapes if name not in fitting and _matches(name, new_parameters)]
    report = LoadReport(
        loaded=loaded,
        missing_keys=tuple(sorted(shapes.keys() - fitting.keys() - mismatched.keys() - set(new))),
        unexpected_keys=names.unexpected,
        mismatched_keys={name: both for name, both in mismatched.items() if name not in new},
        ignored_keys=names.ignored,
        folded_keys=tuple(sorted(folded)),
        new_keys=tuple(sorted(new)),
        naming=names.convention.name,
        note=names.convention.note,
    )
    return fitting, report


def _check_patterns(patterns: Sequence[str], shapes: Mapping[str, list[int]]) -> None:
    unknown = [pattern for pattern in patterns if not any(_matches(name, [pattern]) for name in shapes)]
    if unknown:
        raise CheckpointError(
            "new parameters that the model does not have",
            got=", ".join(unknown),
            expected=f"patterns of names such as {', '.join(sorted(shapes)[-3:])}",
            remedy="correct new_parameters; * stands for any part of a name",
        )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _folded_statistics(fitting: Mapping[str, Tensor], absent: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Mean 0 and variance 1, not the 1 - eps of an unfilled layer, where a scale comes without statistics."""
    return {
        name: torch.full(shape, value)
        for name, shape in absent.items()
        for kind, value in ((".running_mean", 0.0), (".running_var", 1.0))
        if name.endswith(kind) and f"{name.removesuffix(kind)}.weight" in fitting
    }


def model_shapes(model: nn.Module) -> dict[str, list[int]]:
    """Names and shapes of a model's parameters and buffers; counters of batch normalization aside."""
    return {
        name: list(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


@torch.no_grad()
def load_weights(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    source: str = "the checkpoint",
    *,
    strict: bool = True,
    new_parameters: Sequence[str] = (),
) -> LoadReport:
    """Fill the parameters and buffers of ``model``.

    Args:
        model: the model.
        state_dict: the checkpoint's tensors by name.
        source: names the checkpoint in errors.
        strict: whether all must fit; else what fits is loaded, and the report tells the rest.
        new_parameters: see ``match_weights``.

    Raises:
        CheckpointError: nothing fits, or, if strict, a name is missing, unexpected or of another shape; the
            model is as it was.
    """
    fitting, report = match_weights(state_dict, model_shapes(model), new_parameters)
    if strict or not fitting:
        report.raise_if_incomplete(source)
    model.load_state_dict(fitting, strict=False)
    return report
