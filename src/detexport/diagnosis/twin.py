"""The twin of an artifact: its method and its runtime, for one segment after another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detexport.artifact import Artifact, read_artifact
from detexport.contract import Contract, TensorSpec
from detexport.diagnosis.segments import FlatSegment, ListedSegment
from detexport.errors import ArtifactError, ConfigError
from detexport.export import Provenance
from detexport.runtime import Engine
from detexport.targets.component import Component
from detexport.targets.table import ARTIFACTS, Recipe, find_target

QUANTIZED = ("OnnxInt8", "OpenVinoInt8")


@dataclass(frozen=True)
class ExportableSegment:
    """What an export method asks of a model: see ``ExportableModel``."""

    module: nn.Module
    names: tuple[str, ...]
    training: bool = False

    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        """Its tensors in, a tuple of tensors out."""
        return FlatSegment(self.module)

    def batch_graph(self) -> nn.Module:
        """A list of its tensors in."""
        return ListedSegment(self.module, self.names)


@dataclass(frozen=True)
class Twin:
    """How an artifact was made and is run.

    Args:
        artifact: what is diagnosed.
        makers: an export method, and conversions of what it makes, in their order.
        engine: the runtime.
        precision: of the target, where it is less than float32.
        quantization: what the artifact's last step was, where the segments are those of its float32 source.
        notes: in what the twin is not the artifact's.
    """

    artifact: Artifact
    makers: tuple[Any, ...]
    engine: Engine
    precision: str = ""
    quantization: str = ""
    notes: tuple[str, ...] = ()

    def make(
        self,
        module: nn.Module,
        specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
        recorded: Mapping[str, np.ndarray],
        folder: Path,
    ) -> Any:
        """Make an artifact of a segment and load it.

        Args:
            module: the segment, a list of tensors in, a list of tensors out.
            specs: what it takes and gives.
            recorded: inputs to export with.
            folder: for the artifacts, to be removed afterwards.

        Returns:
            a session, for ``run_segment``.
        """
        contract = segment_contract(self.artifact.contract, *specs)
        made = folder / "0"
        segment = ExportableSegment(module, contract.output_names)
        provenance = Provenance(self.artifact.weights_sha256, self.artifact.config_sha256)
        self.makers[0].export(segment, dict(recorded), made, contract=contract, provenance=provenance)
        for number, conversion in enumerate(self.makers[1:], start=1):
            source, made = made, folder / str(number)
            conversion.convert(source, [dict(recorded)], made)
        return self.engine.open(made)


def run_segment(session: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a segment's session gives, by name."""
    if session.artifact.batch != "any":
        found: dict[str, np.ndarray] = session.run(inputs)
        return found
    with torch.inference_mode():
        (fields,) = session.module([session.to_tensor(value) for value in inputs.values()])
    named: dict[str, np.ndarray] = session.by_name(list(fields.values()))
    return named


def segment_contract(
    contract: Contract, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> Contract:
    """The contract of a segment's graph."""
    return replace(contract, inputs=inputs, outputs=outputs, panoptic=None)


def read_twin(artifact_dir: Path, target: str = "", sources: Sequence[Path] | None = None) -> Twin:
    """The twin of an artifact, from what its manifest says.

    Args:
        artifact_dir: folder of the artifact.
        target: run it as this target does; by default by its format's runtime, in float32.
        sources: folders in which the artifacts may lie that it was made from; by default those beside it.

    Raises:
        ArtifactError: the folder is not an artifact.
        ConfigError: the artifact's method is none of the project's, or the target is not known.
    """
    artifact = read_artifact(artifact_dir)
    if sources is None:
        sources = [path for path in sorted(artifact_dir.resolve().parent.iterdir()) if path.is_dir()]
    chain, notes = _chain(artifact, sources)
    asked = find_target(target or artifact.method)
    makers = [(method, _maker(method, options)) for method, options in chain]
    return twin_of(artifact, makers, asked.runtime.build(), asked.precision, notes)


def twin_of(
    artifact: Artifact,
    makers: Sequence[tuple[str, Any]],
    engine: Engine,
    precision: str = "",
    notes: Sequence[str] = (),
) -> Twin:
    """The twin of an artifact whose makers are known.

    Args:
        artifact: what is diagnosed.
        makers: the export method and the conversions after it, each by its name.
        engine: the runtime of the artifact.
        precision: of the target.
        notes: see ``Twin``.
    """
    kept = [(name, _ending_raw(maker)) for name, maker in makers if type(maker).__name__ not in QUANTIZED]
    parts = tuple(maker for _, maker in kept)
    if len(kept) == len(makers):
        return Twin(artifact, parts, engine, precision, notes=tuple(notes))
    quantization = makers[-1][0]
    note = (
        f"{quantization} chooses its layers and ranges over the whole graph: the segments are those of its "
        f"source, {kept[-1][0]}, in float32"
    )
    return Twin(artifact, parts, engine, "", quantization, (*notes, note))


def _chain(artifact: Artifact, sources: Sequence[Path]) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """Methods with their options, the artifact's last; a source that is gone has its defaults."""
    known = {one.sha256: one for one in map(_manifest, sources) if one is not None}
    chain, notes = [(artifact.method, artifact.options)], []
    source: Artifact | None = artifact
    while name := _recipe(chain[0][0]).source:
        source = known.get(source.source_sha256) if source is not None else None
        if source is None:
            notes.append(
                f"{chain[0][0]} was made from an artifact that is not here: {name} is taken, by default"
            )
        chain.insert(0, (source.method, source.options) if source is not None else (name, {}))
    return chain, notes


def _manifest(folder: Path) -> Artifact | None:
    try:
        return read_artifact(folder)
    except ArtifactError:
        return None


def _recipe(method: str) -> Recipe:
    if method not in ARTIFACTS:
        raise ConfigError(
            "a method that is not the project's has no twin",
            got=method,
            expected=f"one of {', '.join(ARTIFACTS)}",
            remedy="export by one of these",
        )
    return ARTIFACTS[method]


def _maker(method: str, options: Mapping[str, Any]) -> Any:
    """The export method or conversion with these options, by default the target's."""
    maker = _recipe(method).maker
    if not options:
        return maker.build()
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return Component(maker.path, given).build()


def _ending_raw(maker: Any) -> Any:
    """A segment has no other end; that of a pasted graph is a segment of its own."""
    return replace(maker, graph_end="raw") if "graph_end" in [one.name for one in fields(maker)] else maker
