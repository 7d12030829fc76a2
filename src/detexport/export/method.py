"""What every export method does: check the model, fill a folder, put it in place by one rename."""

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
from detexport.system.atomic import atomic_dir
from detexport.system.digests import sha256_file
from detexport.system.files import writing

SampleInputs = np.ndarray | Mapping[str, np.ndarray]
"""What a graph is recorded with: an image, or all inputs by the contract's names."""


class ExportableModel(Protocol):
    """What a method needs of a model beside being an ``nn.Module``."""

    training: bool

    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        """A module from one (C, H, W) image to the named tensors."""

    def batch_graph(self) -> nn.Module:
        """A scriptable module from a list of images to a list of tensors by name."""


class ExportMethod(Protocol):
    """A frozen dataclass of a method's options."""

    def export(
        self,
        model: ExportableModel,
        sample: SampleInputs,
        save_dir: Path,
        *,
        contract: Contract,
        provenance: Provenance,
    ) -> Artifact:
        """Write the artifact into ``save_dir``, whole or not at all.

        Args:
            model: in evaluation mode, on the CPU.
            sample: uint8 (C, H, W), one image to record with; any size serves. Or, of a graph that takes
                something else, all inputs by the contract's names.
            save_dir: folder of the artifact; replaced if it exists.
            contract: what the graph takes and gives.
            provenance: where the model comes from.

        Raises:
            ExportError: the model is in training mode, not on the CPU, or cannot be exported by this method.
        """


class MethodTemplate:
    """What the export methods share: check, record, fill a folder, put it in place by one rename.

    A method extends it as a frozen dataclass of its options, with ``graph_end`` among them, and gives
    ``record``, and ``check`` where not every option or process serves.
    """

    name: ClassVar[str]
    """Of the method."""
    format: ClassVar[Format]
    """What the main file is."""
    main_file: ClassVar[str]
    """Its name in the folder."""
    batch: ClassVar[Literal["1", "any"]] = "1"
    """Images a call takes."""
    packages: ClassVar[tuple[str, ...]] = ("torch", "torchvision")
    """Distributions whose versions shape the file."""
    graph_end: Literal["raw", "pasted"]

    def check(self) -> None:
        """Check the options, and that this process can export.

        Raises:
            ConfigError: an option is out of its range.
            ExportError: the process cannot export.
        """

    def record(
        self, model: ExportableModel, sample: SampleInputs, contract: Contract
    ) -> Callable[[Path], object]:
        """Record the graph of a model; return what writes it to a path.

        Args:
            model: in evaluation mode, on the CPU.
            sample: see ``ExportMethod.export``.
            contract: of the graph, with the end that it has.

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
        """See ``ExportMethod.export``."""
        require_exportable(model)
        self.check()
        contract = contract.ending(self.graph_end)
        write = self.record(model, sample, contract)
        with writing(save_dir), atomic_dir(save_dir) as folder:
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
    """Refuse a model that would be exported as it trains, or with a device written into its graph.

    Raises:
        ExportError: it is in training mode, or not on the CPU.
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


def untraceable(model: ExportableModel, error: RuntimeError) -> ExportError:
    """What to say where a forward pass of the model cannot be recorded."""
    return ExportError(
        f"{type(model).__name__} cannot be traced by torch.jit.trace",
        got=(str(error).strip() or type(error).__name__).splitlines()[0],
        expected="a graph that runs on the sample, of tensors in and tensors out",
        remedy="give a sample that the model takes, or write the named part with torch's operators alone",
    )
