"""Base class of the export methods."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import numpy as np
from torch import nn

from detexport.artifact import Artifact, Format, Provenance
from detexport.contract import Contract
from detexport.errors import ExportError
from detexport.export.project_lines import line_of_error
from detexport.system.atomic import atomic_dir
from detexport.system.digests import sha256_file
from detexport.system.files import output_errors

SampleInputs = np.ndarray | Mapping[str, np.ndarray]
"""Inputs to record a graph with: an image, or all inputs by the contract's names."""


class ExportableModel(Protocol):
    """An ``nn.Module`` with the methods that an export method calls."""

    training: bool

    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        """Return a module from one image (C, H, W) to the named tensors."""

    def batch_graph(self) -> nn.Module:
        """Return a scriptable module from a list of images to a list of tensors by name."""


class ExportMethod:
    """Base class of the export methods: check, record, fill a folder, and rename it to ``save_dir``.

    A method is a subclass and a frozen dataclass of its options, ``graph_end`` among them. It defines
    ``record``, and ``check`` if it has requirements on its options or the process.
    """

    name: ClassVar[str]
    """Name of the method."""
    format: ClassVar[Format]
    """Format of the main file."""
    main_file: ClassVar[str]
    """Name of the main file in the folder."""
    batch: ClassVar[Literal["1", "any"]] = "1"
    """Batch size of the graph."""
    packages: ClassVar[tuple[str, ...]]
    """Packages that it needs, whose versions determine the file."""
    graph_end: Literal["raw", "pasted"]

    def check(self) -> None:
        """Check the options and the process.

        Raises:
            ConfigError: an option is invalid.
            ExportError: the process cannot export.
        """

    def record(
        self, model: ExportableModel, sample: SampleInputs, contract: Contract
    ) -> Callable[[Path], object]:
        """Record the graph of a model; return a function that writes it to a path.

        Args:
            model: model in evaluation mode, on the CPU.
            sample: see ``ExportMethod.export``.
            contract: contract of the graph, with its ``graph_end``.

        Raises:
            ExportError: the model cannot be exported by this method.
        """
        raise NotImplementedError

    def export(
        self,
        model: ExportableModel,
        sample: SampleInputs,
        save_dir: Path,
        *,
        contract: Contract,
        provenance: Provenance,
    ) -> Artifact:
        """Write the artifact to ``save_dir``, completely or not at all.

        Args:
            model: model in evaluation mode, on the CPU.
            sample: one image to record with, uint8 (C, H, W) of any size; or, for a graph with other
                inputs, all inputs by the contract's names.
            save_dir: folder of the artifact; replaced if it exists.
            contract: inputs and outputs of the graph.
            provenance: digests of the model's weights and configuration.

        Raises:
            ExportError: the model is in training mode, not on the CPU, or cannot be exported by this method.
        """
        require_exportable(model)
        self.check()
        contract = contract.ending(self.graph_end)
        write = self.record(model, sample, contract)
        with output_errors(save_dir), atomic_dir(save_dir) as folder:
            write(folder / self.main_file)
            artifact = Artifact(
                format=self.format,
                method=self.name,
                options=asdict(self),  # type: ignore[call-overload]  # a subclass is a dataclass
                main_file=self.main_file,
                files={self.main_file: sha256_file(folder / self.main_file)},
                contract=contract,
                batch=self.batch,
                graph_end=contract.graph_end,
                weights_sha256=provenance.weights_sha256,
                config_sha256=provenance.config_sha256,
                versions={package: version(package) for package in ("detexport", *self.packages)},
            )
            artifact.save(folder)
        return artifact


def require_exportable(model: ExportableModel) -> None:
    """Check that a model is in evaluation mode and on the CPU; a graph may record another device.

    Raises:
        ExportError: it is not.
    """
    if model.training:
        raise ExportError(
            f"{type(model).__name__} is in training mode",
            expected="a model in evaluation mode",
            remedy="call .eval() before the export",
        )
    if not isinstance(model, nn.Module):
        return
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type != "cpu":
            raise ExportError(
                f"{type(model).__name__} is not on the CPU",
                got=f"{name} on '{tensor.device}'",
                expected="a model on the CPU; its artifact runs on other devices, too",
                remedy='call .to("cpu") before the export',
            )


def name_of(model: ExportableModel) -> str:
    """Return the name of a model's class; for an adapter, of the class that it adapts."""
    return getattr(model, "model_name", type(model).__name__)


def stopped_by(error: Exception) -> str:
    """Return what an error says, and the line of a project's code that it came from."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    line = line_of_error(error)
    return f"{line} - {text}" if line else text


def untraceable(model: ExportableModel, error: Exception) -> ExportError:
    """Return the error for a model whose forward pass cannot be traced."""
    return ExportError(
        f"{name_of(model)} cannot be traced by torch.jit.trace",
        got=stopped_by(error),
        expected="a model that runs on the sample and returns tensors",
        remedy="pass a sample that the model accepts, or write the named code with torch operators only",
    )
