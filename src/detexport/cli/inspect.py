"""``detexport inspect``: describe an artifact, and verify its files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detexport.artifact import Artifact, Format, file_states, read_artifact, verify_files
from detexport.cli.output import print_json
from detexport.contract import Contract, TensorSpec
from detexport.errors import ConfigError, escaped
from detexport.system.files import output_errors
from detexport.system.progress import say

MOST_NAMES = 8
MOST_FILES = 20


def inspect(folder: Path, *, as_json: bool, dump_to: Path | None) -> None:
    """Describe an artifact and compare its folder with its manifest; see ``detexport inspect --help``.

    Raises:
        ArtifactError: the folder is not an artifact, or not what was exported.
        ConfigError: a dump of an artifact that is not TorchScript.
    """
    artifact = read_artifact(folder)
    if dump_to and artifact.format is not Format.TORCHSCRIPT:
        raise ConfigError(
            "only a TorchScript artifact can be dumped",
            got=artifact.format.value,
            expected=Format.TORCHSCRIPT.value,
            remedy="leave out --dump",
        )
    states = file_states(artifact, folder)
    sizes = {name: (folder / name).stat().st_size for name in artifact.files if (folder / name).is_file()}
    if as_json:
        document = {
            **artifact.to_json(),
            "sha256": artifact.sha256,
            "size_bytes": sum(sizes.values()),
            "files_now": states,
        }
        print_json(document)
    else:
        print("\n".join(map(escaped, _describe(artifact, sizes, states))))
    verify_files(artifact, folder)
    if dump_to:
        _dump(folder, dump_to)


def _describe(artifact: Artifact, sizes: dict[str, int], states: dict[str, str]) -> Iterator[str]:
    contract = artifact.contract
    rows = {
        "format": artifact.format.value,
        "method": _with_options(artifact),
        "sha256": artifact.sha256,
        "converted from": artifact.source_sha256,
        "weights": artifact.weights_sha256,
        "configuration": artifact.config_sha256,
        "versions": ", ".join(f"{name} {version}" for name, version in artifact.versions.items()),
        "batch size": "1" if artifact.batch == "1" else f"{artifact.batch}, images of different sizes",
        "image sides": "{} to {} px".format(*artifact.image_sides),
        "mask outputs": _mask_outputs(artifact) if "pred_masks" in contract.output_names else "",
        **_describe_contract(contract),
    }
    yield from (f"{name:14} {text}" for name, text in rows.items() if text)
    yield from _table("inputs", contract.inputs)
    yield from _table("outputs", contract.outputs)
    yield f"files, {sum(sizes.values()) / 1e6:.1f} MB"
    for name, state in list(states.items())[:MOST_FILES]:
        yield f"  {name:14} {sizes.get(name, 0):12,} bytes  {state}"
    if len(states) > MOST_FILES:
        yield f"  and {len(states) - MOST_FILES} more"


def _describe_contract(contract: Contract) -> dict[str, str]:
    """Return pre-processing, thresholds and names; empty for those that the model does not have."""
    outputs, panoptic = contract.output_names, contract.panoptic
    detects = "scores" in outputs
    selects = detects or "objectness_logits" in outputs
    limit = contract.max_detections
    return {
        "results": ", ".join(contract.results),
        "resize": contract.resize.text,
        "channels": f"{contract.channel_order}, 0..255; the graph normalizes and pads",
        "pixel mean": _numbers(contract.pixel_mean),
        "pixel std": _numbers(contract.pixel_std),
        "padding": f"right and bottom, to a multiple of {contract.size_divisibility} px"
        if contract.size_divisibility > 1
        else "none",
        "score": f"greater than {contract.score_threshold:g}" if detects else "",
        "NMS": f"IoU greater than {contract.nms_threshold:g}" if selects else "",
        "detections": ("no limit" if limit < 0 else f"at most {limit} per image") if selects else "",
        "mask": f"probability of at least {contract.mask_threshold:g}" if "pred_masks" in outputs else "",
        "classes": _names(contract.class_names),
        "stuff": _names(contract.stuff_class_names),
        "keypoints": _names(contract.keypoint_names),
        "OKS sigmas": _numbers(contract.oks_sigmas),
        "panoptic": f"overlap at most {panoptic.overlap_threshold:g}, instances of a score of at least "
        f"{panoptic.instances_score_threshold:g}, stuff of at least {panoptic.stuff_area_limit} px"
        if panoptic
        else "",
    }


def _mask_outputs(artifact: Artifact) -> str:
    return "pasted into the image" if artifact.graph_end == "pasted" else "raw, in the frame of their boxes"


def _with_options(artifact: Artifact) -> str:
    options = ", ".join(f"{name}={value}" for name, value in artifact.options.items())
    return f"{artifact.method} ({options})" if options else artifact.method


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _names(names: tuple[str, ...]) -> str:
    more = f", and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{len(names)}: {', '.join(names[:MOST_NAMES])}{more}" if names else ""


def _table(title: str, specs: tuple[TensorSpec, ...]) -> Iterator[str]:
    yield title
    for spec in specs:
        shape = f"({', '.join(map(str, spec.shape))})"
        yield f"  {spec.name:18} {spec.dtype:8} {shape:14} {spec.meaning}"


def _dump(folder: Path, dump_to: Path) -> None:
    from detexport.export import dump_torchscript_IR
    from detexport.runtime.torchscript import TorchScript

    session: Any = TorchScript().open(folder)
    with output_errors(dump_to):
        dump_torchscript_IR(session.module, dump_to)
    say(f"{dump_to}: the code, the graphs, and the graph with all calls inlined")
