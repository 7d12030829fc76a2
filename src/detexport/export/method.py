"""What every export method does: check the model, fill a folder, put it in place by one rename."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from torch import nn

from detexport.artifact import Artifact, Format, Provenance
from detexport.contract import Contract
from detexport.errors import ExportError
from detexport.system.atomic import atomic_dir
from detexport.system.digests import sha256_file
from detexport.system.files import writing


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
        sample: np.ndarray | Mapping[str, np.ndarray],
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


def write_artifact(
    method: Any,
    save_dir: Path,
    *,
    name: str,
    format: Format,
    main_file: str,
    batch: Literal["1", "any"],
    packages: tuple[str, ...],
    contract: Contract,
    provenance: Provenance,
    write: Callable[[Path], None],
) -> Artifact:
    """Let ``write`` make the main file, add the manifest, and put the finished folder in place.

    Args:
        method: the frozen dataclass of options.
        save_dir: folder of the artifact.
        name: the method's name.
        format: what the main file is.
        main_file: its name in the folder.
        batch: images a call takes, ``"1"`` or ``"any"``.
        packages: distributions whose versions shape the file.
        contract: what the graph takes and gives.
        provenance: where the model comes from.
        write: writes the main file to the path that it is given.

    Raises:
        OutputError: ``save_dir`` cannot be written.
    """
    with writing(save_dir), atomic_dir(save_dir) as folder:
        write(folder / main_file)
        artifact = Artifact(
            format=format,
            method=name,
            options=asdict(method),
            main_file=main_file,
            files={main_file: sha256_file(folder / main_file)},
            contract=contract,
            batch=batch,
            graph_end=contract.graph_end,
            weights_sha256=provenance.weights_sha256,
            config_sha256=provenance.config_sha256,
            versions={package: version(package) for package in ("detexport", *packages)},
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
