"""``detexport inspect``: what an artifact is, and whether it is still what was exported."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detexport.artifact import Artifact, Format, read_artifact
from detexport.cli.progress import say
from detexport.contract import Contract, TensorSpec
from detexport.errors import ArtifactError, ConfigError, listed
from detexport.files import sha256_file, writing

MOST_NAMES = 8


def inspect(folder: Path, *, as_json: bool, dump_to: Path | None) -> None:
    """Describe an artifact and hold its files against their digests; see ``detexport inspect --help``.

    Raises:
        ArtifactError: the folder is not an artifact, or its files are not those that were exported.
        ConfigError: a dump is asked for of what is not TorchScript.
    """
    artifact = read_artifact(folder)
    if dump_to and artifact.format is not Format.TORCHSCRIPT:
        raise ConfigError(
            "only TorchScript is dumped",
            got=artifact.format.value,
            expected=Format.TORCHSCRIPT.value,
            remedy="leave out --dump",
        )
    state = {name: _state(folder / name, sha256) for name, sha256 in artifact.files.items()}
    sizes = {name: (folder / name).stat().st_size for name in artifact.files if (folder / name).is_file()}
    if as_json:
        document = {
            **artifact.to_json(),
            "sha256": artifact.sha256,
            "size_bytes": sum(sizes.values()),
            "files_now": state,
        }
        json.dump(document, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        print("\n".join(_describe(artifact, sizes, state)))
    changed = [f"{name}: {is_now}" for name, is_now in state.items() if is_now != "as exported"]
    if changed or artifact.main_file not in artifact.files:
        raise ArtifactError(
            f"{folder} is not what was exported",
            got=listed(changed) or f"{artifact.main_file} without a digest",
            expected="every file with the digest in its manifest",
            remedy="do not use it; export the model again, or fetch the artifact again",
        )
    if dump_to:
        _dump(folder, dump_to)


def _state(path: Path, sha256: str) -> str:
    if not path.is_file():
        return "missing"
    return "as exported" if sha256_file(path) == sha256 else "changed"


def _describe(artifact: Artifact, sizes: dict[str, int], state: dict[str, str]) -> Iterator[str]:
    contract = artifact.contract
    rows = {
        "format": artifact.format.value,
        "method": _with_options(artifact),
        "sha256": artifact.sha256,
        "made from": artifact.source_sha256,
        "weights": artifact.weights_sha256,
        "configuration": artifact.config_sha256,
        "versions": ", ".join(f"{name} {version}" for name, version in artifact.versions.items()),
        "images a call": "1" if artifact.batch == "1" else f"{artifact.batch} number, of different sizes",
        "graph ends": f"{artifact.graph_end} masks" if "pred_masks" in contract.output_names else "",
        "gives": ", ".join(contract.results),
        "resize": _resize(contract),
        "channels": f"{contract.channel_order}, 0..255; the graph normalizes and pads",
        "score": f"greater than {contract.score_threshold:g}" if "scores" in contract.output_names else "",
        "classes": _names(contract.class_names),
        "stuff": _names(contract.stuff_class_names),
        "keypoints": _names(contract.keypoint_names),
    }
    yield from (f"{name:14} {text}" for name, text in rows.items() if text)
    yield from _table("inputs", contract.inputs)
    yield from _table("outputs", contract.outputs)
    yield f"files, {sum(sizes.values()) / 1e6:.1f} MB"
    for name, is_now in state.items():
        yield f"  {name:14} {sizes.get(name, 0):12,} bytes  {is_now}"


def _with_options(artifact: Artifact) -> str:
    options = ", ".join(f"{name}={value}" for name, value in artifact.options.items())
    return f"{artifact.method} ({options})" if options else artifact.method


def _resize(contract: Contract) -> str:
    rule = contract.resize
    if not rule.min_size:
        return "images as they are"
    return f"shortest edge to {rule.min_size} px, longest at most {rule.max_size} px"


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
    with writing(dump_to):
        dump_torchscript_IR(session.module, dump_to)
    say(f"{dump_to}: the code, the graphs, and the graph with all calls inlined")
