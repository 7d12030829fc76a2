"""Matching of the names in a checkpoint file with the names of a model.

If a file shares names with the model, names are matched exactly. Any other file is taken for a part of the
model, such as a backbone: its names, translated from other conventions, are matched as suffixes of the
model's.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from detexport.errors import CheckpointError


@dataclass(frozen=True)
class Convention:
    """A convention for the parameter names of a residual network.

    Args:
        name: for reports.
        translate: translates a name of the file into the name of the layer here, without the path to the
            backbone.
        unused: pattern of names that a detector does not have: the classifier, the optimizer's state.
        note: requirements on the configuration, and parts that such a file lacks.
        folds_statistics: whether statistics of normalizations may be folded into scale and bias.
    """

    name: str
    translate: Callable[[str], str] = str
    unused: str = r"$^"
    note: str = ""
    folds_statistics: bool = False


@dataclass(frozen=True)
class NameMatch:
    """Names of the model with their sources in the file.

    Args:
        sources: name in the file by name of the model.
        unexpected: names of the file that match no name of the model.
        ignored: names of the file that are known not to be parameters of a detector.
        convention: of the names in the file.
    """

    sources: dict[str, str]
    unexpected: tuple[str, ...]
    ignored: tuple[str, ...]
    convention: Convention


# Caffe2's residual blocks: branch1 is the projection, branch2a to 2c the convolutions, each with an affine
# or group normalization; `riv` holds variances, despite its name (inverse variance).
_CAFFE2_LAYER = re.compile(
    r"(?:(?P<stem>(?:res_)?conv1)|res(?P<stage>\d)_(?P<block>\d+)_branch(?P<branch>1|2[abc]))"
    r"(?P<norm>_bn|_gn)?_(?P<kind>w|b|s|rm|riv)"
)
_CAFFE2_KINDS = {"w": "weight", "s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
_BRANCHES = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}

_TORCHVISION_LAYER = re.compile(
    r"(?:layer(?P<layer>\d)\.(?P<block>\d+)\.)?(?P<part>conv|bn|downsample\.)(?P<number>\d)\.(?P<kind>\w+)"
)


def _from_caffe2(name: str) -> str:
    match = _CAFFE2_LAYER.fullmatch(name)
    if match is None:
        return name
    layer = (
        "stem.conv1"
        if match["stem"]
        else f"res{match['stage']}.{match['block']}.{_BRANCHES[match['branch']]}"
    )
    return f"{layer}{'.norm' if match['norm'] else ''}.{_CAFFE2_KINDS[match['kind']]}"


def _from_torchvision(name: str) -> str:
    match = _TORCHVISION_LAYER.fullmatch(name)
    if match is None:
        return name
    stage = f"res{int(match['layer']) + 1}.{match['block']}" if match["layer"] else "stem"
    if match["part"] == "downsample.":
        layer, is_norm = "shortcut", match["number"] == "1"
    else:
        layer, is_norm = f"conv{match['number']}", match["part"] == "bn"
    return f"{stage}.{layer}{'.norm' if is_norm else ''}.{match['kind']}"


OWN = Convention("the model's own names")
PART = Convention(
    "a part of the model",
    unused=r"stem\.fc\.(weight|bias)",
    note="it fills only the part of the model that it names",
)
CAFFE2 = Convention(
    "Caffe2's residual networks",
    translate=_from_caffe2,
    # A convolution before a normalization needs no bias, but MSRA's stem has one.
    unused=r"fc1000_[wb]|.*_momentum|conv1_b",
    note="it fills the backbone only, and may have folded the statistics of normalizations into "
    "scale and bias; INPUT.FORMAT, MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and "
    "MODEL.RESNETS.STRIDE_IN_1X1 must be those that the file was trained with (MSRA's: BGR, "
    "[103.53, 116.28, 123.675], [1, 1, 1], True)",
    folds_statistics=True,
)
TORCHVISION = Convention(
    "torchvision's residual networks",
    translate=_from_torchvision,
    unused=r"fc\.(weight|bias)",
    note="it fills the backbone only; it was trained on INPUT.FORMAT RGB with MODEL.PIXEL_MEAN "
    "[123.675, 116.28, 103.53], MODEL.PIXEL_STD [58.395, 57.12, 57.375] and "
    "MODEL.RESNETS.STRIDE_IN_1X1 False",
)

_LEGACY = re.compile(r"pixel_mean|pixel_std|.*\.cell_anchors\..*|(.*\.)?num_batches_tracked")
"""Entries of model zoo files that are configuration or counters, not parameters."""
_TRAINING = re.compile(
    # State of a loss, such as weights of classes or a running normalizer.
    r"(.*[._])?(loss|losses|criterion)([._].*)?"
    # Counters of averaged weights.
    r"|(.*\.)?(n_averaged|num_updates|(.*_)?ema_?(decay|momentum|updates|steps?|iters?))"
)
"""Names of training state in a model, which inference does not read."""
_POINTER = "_ptr"
"""Suffix of the name of a queue's position; the rest is the name of the queue."""
_PARAMETER = re.compile(r"(.*[._])?(weight|bias|running_mean|running_var)")
LONGEST_NAME = 1000
"""Maximum length of a name that is compared with patterns."""
_PARALLEL = "module."
"""Prefix that torch's data parallel wrappers add to all names."""


def is_training_state(name: str, file_names: Collection[str], declared: Collection[str]) -> bool:
    """Return whether a name of the file is training state, which inference does not read.

    Args:
        name: in the file.
        file_names: all names in the file.
        declared: names of training state that the model's modules declare.
    """
    plain = name.removeprefix(_PARALLEL)
    known = plain in declared or f"{name}{_POINTER}" in file_names
    return known or (len(plain) <= LONGEST_NAME and _TRAINING.fullmatch(plain) is not None)


def is_counter(name: str, is_integer: bool, dimensions: int) -> bool:
    """Return whether a name that the model lacks is a counter or a position: an integer, no parameter."""
    return is_integer and dimensions <= 1 and not _PARAMETER.fullmatch(name)


def match_names(file_names: Collection[str], model_names: Collection[str]) -> NameMatch:
    """Match the names of the model with names in the file.

    Raises:
        CheckpointError: two names of the file refer to one parameter, or one is the suffix of several.
    """
    prefix = _wrapper(file_names, model_names)
    convention = _convention({name.removeprefix(prefix) for name in file_names}, model_names)
    by_meaning: dict[str, str] = {}
    for name in file_names:
        meaning = convention.translate(name.removeprefix(prefix))
        if meaning in by_meaning:
            raise CheckpointError(
                "two tensors of the checkpoint are the same parameter",
                got=f"{by_meaning[meaning]} and {name}, both {meaning}",
                remedy="remove one of them from the file",
            )
        by_meaning[meaning] = name
    meanings = {
        name: name if convention is OWN else _longest_suffix(name, by_meaning) for name in model_names
    }
    sources = {name: by_meaning[meaning] for name, meaning in meanings.items() if meaning in by_meaning}
    if convention is not OWN:
        _check_one_to_one(sources)
    left = sorted(set(file_names) - set(sources.values()))
    unused = {name: _is_unused(name.removeprefix(prefix), convention) for name in left}
    return NameMatch(
        sources=sources,
        unexpected=tuple(name for name in left if not unused[name]),
        ignored=tuple(name for name in left if unused[name]),
        convention=convention,
    )


def _convention(file_names: Collection[str], model_names: Collection[str]) -> Convention:
    if not file_names or any(name in model_names for name in file_names):
        return OWN
    if "layer1.0.conv1.weight" in file_names:
        return TORCHVISION
    if any(_CAFFE2_LAYER.fullmatch(name) for name in file_names):
        return CAFFE2
    return PART


def _wrapper(file_names: Collection[str], model_names: Collection[str]) -> str:
    """Return the prefix of data parallel wrappers if all names of the file and none of the model have it."""
    wrapped = all(name.startswith(_PARALLEL) for name in file_names)
    return _PARALLEL if wrapped and not any(name.startswith(_PARALLEL) for name in model_names) else ""


def _longest_suffix(name: str, candidates: Collection[str]) -> str | None:
    parts = name.split(".")
    suffixes = (".".join(parts[start:]) for start in range(len(parts)))
    return next((suffix for suffix in suffixes if suffix in candidates), None)


def _check_one_to_one(sources: dict[str, str]) -> None:
    filled: dict[str, str] = {}
    for name, source in sources.items():
        if source in filled:
            raise CheckpointError(
                "a tensor of the checkpoint matches several names of the model",
                got=f"{source} for {filled[source]} and {name}",
                expected="names that are the suffix of one name of the model",
                remedy="save the weights under the model's own names",
            )
        filled[source] = name


def _is_unused(name: str, convention: Convention) -> bool:
    return bool(_LEGACY.fullmatch(name) or re.fullmatch(convention.unused, name))
