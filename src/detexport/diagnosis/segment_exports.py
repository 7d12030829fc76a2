"""Export of single segments by the export method of an artifact, for the runtime of that artifact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detexport.artifact import Artifact, read_artifact
from detexport.contract import Contract, TensorSpec
from detexport.diagnosis.segment_chain import FlatSegment, ListedSegment
from detexport.errors import ArtifactError, ConfigError
from detexport.export import Provenance
from detexport.runtime import Engine
from detexport.targets.component import with_tuples
from detexport.targets.table import Recipe, artifacts, find_target

QUANTIZED = ("OnnxInt8", "OpenVinoInt8")


@dataclass(frozen=True)
class ExportableSegment:
    """A segment as an export method takes a model: see ``ExportableModel``."""

    module: nn.Module
    names: tuple[str, ...]
    training: bool = False

    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        """Return the segment with one argument per tensor, which returns a tuple."""
        return FlatSegment(self.module)

    def batch_graph(self) -> nn.Module:
        """Return the segment with one list of tensors, which returns its outputs by name."""
        return ListedSegment(self.module, self.names)


@dataclass(frozen=True)
class SegmentExporter:
    """Export single segments as an artifact was exported, and load them in its runtime.

    Args:
        artifact: the diagnosed artifact.
        export_steps: its export method and conversions, in their order.
        engine: the runtime.
        precision: of the target, if it is reduced.
        quantization: the artifact's last conversion, if the segments are those of its float32 source.
        notes: differences between the export of the segments and that of the artifact.
    """

    artifact: Artifact
    export_steps: tuple[Any, ...]
    engine: Engine
    precision: str = ""
    quantization: str = ""
    notes: tuple[str, ...] = ()

    def export(
        self,
        module: nn.Module,
        specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
        recorded: Mapping[str, np.ndarray],
        folder: Path,
    ) -> Any:
        """Export a segment and load the artifact.

        Args:
            module: the segment, from a list of tensors to a list of tensors.
            specs: its inputs and outputs.
            recorded: example inputs of the export.
            folder: temporary folder for the artifacts.

        Returns:
            A session, for ``run_segment``.
        """
        contract = segment_contract(self.artifact.contract, *specs)
        made = folder / "0"
        segment = ExportableSegment(module, contract.output_names)
        provenance = Provenance(self.artifact.weights_sha256, self.artifact.config_sha256)
        self.export_steps[0].export(segment, dict(recorded), made, contract=contract, provenance=provenance)
        for number, conversion in enumerate(self.export_steps[1:], start=1):
            source, made = made, folder / str(number)
            conversion.convert(source, [dict(recorded)], made)
        return self.engine.open(made)


def run_segment(session: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a segment's session; return its outputs by name."""
    if session.artifact.batch != "any":
        outputs: dict[str, np.ndarray] = session.run(inputs)
        return outputs
    with torch.inference_mode():
        (fields,) = session.module([session.to_tensor(value) for value in inputs.values()])
    named: dict[str, np.ndarray] = session.by_name(list(fields.values()))
    return named


def segment_contract(
    contract: Contract, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> Contract:
    """Return the contract of a segment's graph."""
    return replace(contract, inputs=inputs, outputs=outputs, panoptic=None)


def read_segment_exporter(
    artifact_dir: Path, target: str = "", sources: Sequence[Path] | None = None
) -> SegmentExporter:
    """Return the exporter for an artifact, from the options in its manifest.

    Args:
        artifact_dir: folder of the artifact.
        target: run it as this target; by default in its format's runtime, in float32.
        sources: folders of artifacts that it may have been converted from; by default its siblings.

    Raises:
        ArtifactError: the folder is not an artifact.
        ConfigError: the artifact's method is none of the project's, or the target is not known.
    """
    artifact = read_artifact(artifact_dir)
    if sources is None:
        sources = [path for path in sorted(artifact_dir.resolve().parent.iterdir()) if path.is_dir()]
    chain, notes = _chain(artifact, sources)
    asked = find_target(target or artifact.method)
    export_steps = [(method, _maker(method, options)) for method, options in chain]
    return segment_exporter(artifact, export_steps, asked.runtime.build(), asked.precision, notes)


def segment_exporter(
    artifact: Artifact,
    export_steps: Sequence[tuple[str, Any]],
    engine: Engine,
    precision: str = "",
    notes: Sequence[str] = (),
) -> SegmentExporter:
    """Return the exporter for an artifact that these steps made.

    Args:
        artifact: the diagnosed artifact.
        export_steps: the export method and the conversions after it, each by its name.
        engine: the runtime of the artifact.
        precision: of the target.
        notes: see ``SegmentExporter``.
    """
    kept = [
        (name, _with_raw_end(maker)) for name, maker in export_steps if type(maker).__name__ not in QUANTIZED
    ]
    float_steps = tuple(maker for _, maker in kept)
    if len(kept) == len(export_steps):
        return SegmentExporter(artifact, float_steps, engine, precision, notes=tuple(notes))
    quantization = export_steps[-1][0]
    note = (
        f"{quantization} chooses its layers and ranges over the whole graph: the segments are those of its "
        f"source, {kept[-1][0]}, in float32"
    )
    return SegmentExporter(artifact, float_steps, engine, "", quantization, (*notes, note))


def _chain(artifact: Artifact, sources: Sequence[Path]) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """Return methods with their options, the artifact's last; an absent source has default options."""
    known = {one.sha256: one for one in map(_manifest, sources) if one is not None}
    chain, notes = [(artifact.method, artifact.options)], []
    source: Artifact | None = artifact
    while name := _recipe(chain[0][0]).source:
        source = known.get(source.source_sha256) if source is not None else None
        if source is None:
            notes.append(
                f"{chain[0][0]} was converted from an artifact that is absent: {name} has default options"
            )
        chain.insert(0, (source.method, source.options) if source is not None else (name, {}))
    return chain, notes


def _manifest(folder: Path) -> Artifact | None:
    try:
        return read_artifact(folder)
    except ArtifactError:
        return None


def _recipe(method: str) -> Recipe:
    if method not in artifacts():
        raise ConfigError(
            "an artifact of an unknown method cannot be diagnosed",
            got=method,
            expected=f"one of {', '.join(artifacts())}",
            remedy="export by one of these",
        )
    return artifacts()[method]


def _maker(method: str, options: Mapping[str, Any]) -> Any:
    """Build the export method or conversion; options that are absent have the target's defaults."""
    return _recipe(method).maker.build(**with_tuples(options))


def _with_raw_end(maker: Any) -> Any:
    """Return a maker with raw outputs: pasting masks is a segment of its own."""
    return replace(maker, graph_end="raw") if "graph_end" in [one.name for one in fields(maker)] else maker
