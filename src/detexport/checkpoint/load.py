"""Loading of weights into a model: all names are checked before any tensor is copied."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from detexport.checkpoint.cast import convert, dtype_name
from detexport.checkpoint.naming import is_counter, is_training_state, match_names
from detexport.checkpoint.older_names import with_new_names
from detexport.errors import CheckpointError, listed, shortened

Shapes = tuple[list[int], list[int]]


@dataclass(frozen=True)
class LoadReport:
    """Match of a checkpoint with a model.

    Args:
        loaded: names of the model that are loaded.
        missing_keys: names of the model that the checkpoint lacks.
        unexpected_keys: names of the checkpoint that the model lacks.
        mismatched_keys: names with different shapes: the checkpoint's and the model's shape.
        unusable_keys: names with unusable values, such as NaN: the reason.
        training_keys: training state in the checkpoint, which inference does not read.
        ignored_keys: entries of the checkpoint that are known not to be parameters of a detector.
        folded_keys: statistics of normalizations that the checkpoint has folded into scale and bias; they
            are set to mean 0 and variance 1.
        converted_keys: names whose values were converted to the model's dtype: the checkpoint's dtype.
        new_keys: names that keep their initial values, as ``new_parameters`` allows.
        naming: the convention of the checkpoint's names.
        note: requirements of the checkpoint on the configuration, if any.
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
        """Whether the names, shapes and values of checkpoint and model match completely."""
        return not (self.missing_keys or self.unexpected_keys or self.mismatched_keys or self.unusable_keys)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)

    def describe(self, limit: int = 5) -> str:
        """Describe in one line what was not loaded unchanged; at most ``limit`` names of each kind."""
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
            "of training state, which inference does not read": list(self.training_keys),
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
        """Raise CheckpointError unless checkpoint and model match completely.

        Args:
            source: name of the checkpoint in errors.
            option: name of the caller's option for ``new_parameters``, for errors.

        Raises:
            CheckpointError: names, shapes or values do not match; the error lists all.
        """
        if not self.complete:
            raise CheckpointError(
                f"{source} does not belong to this model",
                got=self.describe(),
                expected="all parameters of the model, by name and shape, and no others",
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
    """Select the tensors of a model from a checkpoint, converted to the model's dtypes.

    Args:
        state_dict: the checkpoint's tensors by name; names of older files are translated.
        shapes: the model's names and shapes.
        new_parameters: patterns such as ``roi_heads.box_predictor.*`` of names, for example of a new head,
            that the checkpoint may lack or have in another shape.
        dtypes: the model's dtypes by name, as far as they are not float32.
        training_buffers: names of training state that the model's modules declare.
        option: name of the caller's option for ``new_parameters``, for errors.

    Returns:
        the matching tensors, by the model's names, and the report on all names.

    Raises:
        CheckpointError: a name of the checkpoint matches several of the model, or a pattern matches none.
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
            "a pattern of new parameters matches no parameter of the model",
            got=listed(unknown),
            expected=f"patterns of names such as {', '.join(sorted(shapes)[-3:])}",
            remedy=f"correct {option}; * matches any part of a name",
        )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _folded_statistics(fitting: Mapping[str, Tensor], absent: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Return mean 0 and variance 1, not the initial 1 - eps, for normalizations without statistics."""
    return {
        name: torch.full(shape, value)
        for name, shape in absent.items()
        for kind, value in ((".running_mean", 0.0), (".running_var", 1.0))
        if name.endswith(kind) and f"{name.removesuffix(kind)}.weight" in fitting
    }


def model_shapes(model: nn.Module) -> dict[str, list[int]]:
    """Return names and shapes of a model's parameters and buffers, without ``num_batches_tracked``."""
    return {
        name: list(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def describe_parameters(model: nn.Module) -> dict[str, Any]:
    """Return the arguments of ``match_weights`` for a model, as plain JSON values.

    A module declares the names of its training state in a class method ``training_buffers()``.
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
    """Load parameters and buffers into ``model``.

    Args:
        model: the model.
        state_dict: the checkpoint's tensors by name.
        source: name of the checkpoint in errors.
        strict: whether all must match; else the matching tensors are loaded, and the report lists the rest.
        new_parameters: see ``match_weights``.

    Raises:
        CheckpointError: no tensor matches, values are unusable, or, if strict, a name is missing, unexpected
            or has another shape; the model is unchanged.
    """
    fitting, report = match_weights(state_dict, **describe_parameters(model), new_parameters=new_parameters)
    if strict or not fitting or report.unusable_keys:
        report.raise_if_incomplete(source)
    model.load_state_dict(fitting, strict=False)
    return report
