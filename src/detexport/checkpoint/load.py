"""Weights into a model: every name accounted for before a single tensor is copied."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from detexport.checkpoint.convert import convert, dtype_name
from detexport.checkpoint.naming import is_counter, is_training_state, match_names
from detexport.checkpoint.older_names import with_new_names
from detexport.errors import CheckpointError, listed, shortened

Shapes = tuple[list[int], list[int]]


@dataclass(frozen=True)
class LoadReport:
    """What a checkpoint holds of what a model needs.

    Args:
        loaded: names of the model that the checkpoint fills.
        missing_keys: names of the model that the checkpoint lacks.
        unexpected_keys: names of the checkpoint that the model lacks.
        mismatched_keys: names whose shapes differ: checkpoint's, model's.
        unusable_keys: names whose values cannot be the model's, such as NaN: why.
        training_keys: state of the training that the checkpoint holds and inference does not read.
        ignored_keys: entries of the checkpoint that are known not to be a detector's parameters.
        folded_keys: statistics of normalizations that the checkpoint has folded into scale and bias: they
            become mean 0 and variance 1.
        converted_keys: names whose numbers were converted to the model's dtype: the checkpoint's.
        new_keys: names that keep the values that the model was built with, as ``new_parameters`` allows.
        naming: the convention that the checkpoint's names follow.
        note: what the checkpoint demands of the configuration, if anything.
    """

    loaded: tuple[str, ...]
    missing_keys: tuple[str, ...]
    unexpected_keys: tuple[str, ...]
    mismatched_keys: dict[str, Shapes]
    unusable_keys: dict[str, str]
    ignored_keys: tuple[str, ...]
    training_keys: tuple[str, ...]
    folded_keys: tuple[str, ...]
    converted_keys: dict[str, str]
    new_keys: tuple[str, ...]
    naming: str
    note: str

    @property
    def complete(self) -> bool:
        """Every parameter of the model is accounted for and nothing is left over."""
        return not (self.missing_keys or self.unexpected_keys or self.mismatched_keys or self.unusable_keys)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)

    def describe(self, limit: int = 5) -> str:
        """All that is not plainly loaded, in one line; at most ``limit`` names of each kind."""
        kinds: dict[str, list[str]] = {
            "missing": list(self.missing_keys),
            "unexpected": list(self.unexpected_keys),
            "of another shape": [
                f"{_short(name)} {got} instead of {want}"
                for name, (got, want) in self.mismatched_keys.items()
            ],
            "unusable": [f"{_short(name)} {why}" for name, why in self.unusable_keys.items()],
            "new, left at their initial values": list(self.new_keys),
            "folded into scale and bias": list(self.folded_keys),
            "of the training, which inference does not read": list(self.training_keys),
        }
        for name, dtype in self.converted_keys.items():
            kinds.setdefault(f"converted from {dtype}", []).append(name)
        parts = [
            f"{len(names)} {what}: {listed(map(_short, names), limit)}"
            for what, names in kinds.items()
            if names
        ]
        return "; ".join([*parts, *([f"named as {self.naming}: {self.note}"] if self.note else [])])

    def raise_if_incomplete(self, source: str, *, option: str = "new_parameters") -> None:
        """Raise with all that does not fit.

        Args:
            source: names the checkpoint.
            option: by which the caller is given ``new_parameters``.

        Raises:
            CheckpointError: the checkpoint is not the model's.
        """
        if not self.complete:
            raise CheckpointError(
                f"{source} does not belong to this model",
                got=self.describe(),
                expected="every parameter of the model, by name and shape, and nothing else",
                remedy="give the checkpoint that was trained with this configuration, or its configuration; "
                f"name parameters that are meant to be new in {option}",
            )


def _short(text: str) -> str:
    return shortened(text, 200)


def match_weights(
    state_dict: Mapping[str, Tensor],
    shapes: Mapping[str, list[int]],
    new_parameters: Sequence[str] = (),
    *,
    dtypes: Mapping[str, str] = {},
    training_buffers: Collection[str] = (),
    option: str = "new_parameters",
) -> tuple[dict[str, Tensor], LoadReport]:
    """Pick from a checkpoint what a model needs, in the model's dtypes.

    Args:
        state_dict: the checkpoint's tensors by name, also by the names of older files.
        shapes: the model's names and shapes.
        new_parameters: patterns such as ``roi_heads.box_predictor.*`` of names that the checkpoint may lack
            or hold in another shape, a new head's.
        dtypes: the model's dtypes by name, where they are not float32.
        training_buffers: names that the model's modules have for state of their training.
        option: by which the caller is given ``new_parameters``, for errors.

    Returns:
        the tensors that fit, by the model's names, and the account of all names.

    Raises:
        CheckpointError: a name of the checkpoint fits several places, or a pattern no name of the model.
    """
    state_dict = with_new_names(state_dict, shapes)
    _check_patterns(new_parameters, shapes, option)
    training = [
        name
        for name in state_dict
        if name not in shapes and is_training_state(name, state_dict.keys(), training_buffers)
    ]
    names = match_names(state_dict.keys() - set(training), shapes.keys())
    counters = [
        name
        for name in names.unexpected
        if is_counter(name, _is_integer(state_dict[name]), state_dict[name].ndim)
    ]
    fitting: dict[str, Tensor] = {}
    mismatched: dict[str, Shapes] = {}
    unusable: dict[str, str] = {}
    for name, source in names.sources.items():
        got, want = list(state_dict[source].shape), list(shapes[name])
        if got != want:
            mismatched[name] = (got, want)
        else:
            converted, problem = convert(state_dict[source], dtypes.get(name, "float32"))
            if problem:
                unusable[name] = problem
            else:
                fitting[name] = converted
    loaded = tuple(sorted(fitting))
    absent = {name: shape for name, shape in shapes.items() if name not in names.sources}
    folded = _folded_statistics(fitting, absent) if names.convention.folds_statistics else {}
    fitting |= folded
    new = {name for name in shapes if name not in fitting and _matches(name, new_parameters)}
    report = LoadReport(
        loaded=loaded,
        missing_keys=tuple(sorted(absent.keys() - fitting.keys() - new)),
        unexpected_keys=tuple(sorted(set(names.unexpected) - set(counters))),
        mismatched_keys={name: both for name, both in mismatched.items() if name not in new},
        unusable_keys={name: problem for name, problem in unusable.items() if name not in new},
        ignored_keys=names.ignored,
        training_keys=tuple(sorted([*training, *counters])),
        folded_keys=tuple(sorted(folded)),
        converted_keys={
            name: dtype_name(state_dict[names.sources[name]])
            for name in loaded
            if state_dict[names.sources[name]].dtype != fitting[name].dtype
        },
        new_keys=tuple(sorted(new)),
        naming=names.convention.name,
        note=names.convention.note,
    )
    return fitting, report


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())


def _check_patterns(patterns: Sequence[str], shapes: Mapping[str, list[int]], option: str) -> None:
    unknown = [pattern for pattern in patterns if not any(_matches(name, [pattern]) for name in shapes)]
    if unknown:
        raise CheckpointError(
            "new parameters that the model does not have",
            got=listed(unknown),
            expected=f"patterns of names such as {', '.join(sorted(shapes)[-3:])}",
            remedy=f"correct {option}; * stands for any part of a name",
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


def describe_parameters(model: nn.Module) -> dict[str, Any]:
    """What ``match_weights`` needs to know of a model, as plain JSON values.

    A module whose training keeps state that a checkpoint may hold says its names by a class method
    ``training_buffers()``.
    """
    shapes = model_shapes(model)
    dtypes = {name: dtype_name(tensor) for name, tensor in model.state_dict().items() if name in shapes}
    return {
        "shapes": shapes,
        "dtypes": {name: dtype for name, dtype in dtypes.items() if dtype != "float32"},
        "training_buffers": [
            f"{name}.{buffer}" if name else buffer
            for name, module in model.named_modules()
            for buffer in getattr(module, "training_buffers", tuple)()
        ],
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
        CheckpointError: nothing fits, values are unusable, or, if strict, a name is missing, unexpected or of
            another shape; the model is as it was.
    """
    fitting, report = match_weights(state_dict, **describe_parameters(model), new_parameters=new_parameters)
    if strict or not fitting or report.unusable_keys:
        report.raise_if_incomplete(source)
    model.load_state_dict(fitting, strict=False)
    return report
