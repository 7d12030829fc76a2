"""PyTorch as a runtime: AOTInductor packages, native code for one kind of device and CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._inductor
import torchvision  # noqa: F401  (its operators, nms and roi_align, are looked up by name when a file is loaded)

from detexport.artifact import Artifact, Format
from detexport.errors import ArtifactError, RuntimeUnavailableError
from detexport.runtime.torch_session import TorchSession, read_for_torch
from detexport.system.log_levels import only_errors

DEVICES = ("cpu", "cuda")
NEEDED_FEATURES = {
    "x86-64": (),
    "x86-64-v3": ("avx", "avx2", "bmi", "bmi2", "f16c", "fma3", "lzcnt"),
}
"""CPU features that each instruction set requires, by torch's names."""


@dataclass(frozen=True)
class AotInductorRuntime:
    """An AOTInductor package, run in the PyTorch process.

    Args:
        threads: threads of one operator, for the whole process (PyTorch has no finer setting);
            0 leaves the process's setting as it is.
    """

    threads: int = 0

    engine = "PyTorch"
    packages = ("torch", "torchvision")

    def open(self, artifact_dir: Path, device: str = "cpu") -> TorchSession:
        """Check the digests of an artifact's files, which are native code, and load it.

        Raises:
            ArtifactError: it is not an AOTInductor package, was changed, or is for another device.
            RuntimeUnavailableError: the device is not on this machine, or the CPU lacks instructions.
        """
        artifact = read_for_torch(artifact_dir, device, Format.AOT_INDUCTOR, self.threads)
        compiled_for, instruction_set = _compiled_for(artifact)
        _require_same(device, compiled_for)
        _require_processor(instruction_set, torch.cpu.get_capabilities())
        path = artifact_dir / artifact.main_file
        index = int(device.partition(":")[2] or 0) if device.startswith("cuda") else -1
        try:
            # It warns if this CPU also has a newer instruction set.
            with only_errors("torch.export.pt2_archive._package"):
                package = torch._inductor.aoti_load_package(str(path), device_index=index)
        except RuntimeError as error:
            raise ArtifactError(
                f"{path} cannot be loaded by torch {torch.__version__}",
                got=str(error).strip().splitlines()[0],
                expected=f"a package of torch {artifact.versions.get('torch', '(not recorded)')}",
                remedy="convert the ExportedProgram again with the installed torch",
            ) from error
        return TorchSession(artifact, device, package)


def _compiled_for(artifact: Artifact) -> tuple[str, str]:
    """Return the kind of device and the instruction set of a package, from its manifest.

    Raises:
        ArtifactError: one of them is missing or unknown.
    """
    device, instruction_set = (artifact.options.get(name) for name in ("device", "instruction_set"))
    if device not in DEVICES or instruction_set not in (*NEEDED_FEATURES,):
        raise ArtifactError(
            "the manifest does not name the device and instruction set of the package",
            got=f"device {device!r}, instruction_set {instruction_set!r}",
            expected=f"{' or '.join(DEVICES)}; {' or '.join(NEEDED_FEATURES)}",
            remedy="convert the ExportedProgram again; do not edit an artifact's files",
        )
    return device, instruction_set


def _require_same(device: str, compiled_for: str) -> None:
    if device.partition(":")[0] != compiled_for:
        raise ArtifactError(
            f"the package cannot run on '{device}'",
            got=f"code compiled for '{compiled_for}'",
            expected=f"code compiled for '{device}'",
            remedy=f"open it on '{compiled_for}', or convert the ExportedProgram with device={device}",
        )


def _require_processor(instruction_set: str, features: Mapping[str, Any]) -> None:
    """Check that this machine's CPU has the instruction set of a package.

    Args:
        instruction_set: that of the package.
        features: those of the CPU, from ``torch.cpu.get_capabilities``.

    Raises:
        RuntimeUnavailableError: the CPU lacks one of the required features.
    """
    needed = NEEDED_FEATURES[instruction_set]
    missing = [name for name in needed if not features.get(name)]
    if missing or features.get("architecture") != "x86_64":
        raise RuntimeUnavailableError(
            "the package's code cannot run on this CPU",
            got=f"{features.get('cpu_name')} ({features.get('architecture')}), without {', '.join(missing)}",
            expected=f"{instruction_set}: {', '.join(needed)}",
            remedy="run it on a machine with these features, or convert with another instruction_set",
        )
