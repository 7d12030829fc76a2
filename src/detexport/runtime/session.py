"""What every runtime gives: a session, one image in, the graph's raw outputs by name out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from detexport.artifact import Artifact, Format, read_artifact, verify_files
from detexport.errors import ArtifactError


class Session(Protocol):
    """An artifact that is loaded and ready to run.

    Args:
        artifact: the manifest of what is loaded.
        device: where it runs, ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
    """

    @property
    def artifact(self) -> Artifact: ...  # noqa: D102

    @property
    def device(self) -> str: ...  # noqa: D102

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph on one image.

        Args:
            image: (3, H, W) uint8 in the contract's channel order, resized by the contract's rule.

        Returns:
            The graph's outputs by the contract's names; boxes in px of ``image``.

        Raises:
            ArtifactError: the image is not what the graph was exported for.
        """
        ...


class Engine(Protocol):
    """A runtime and its options; a target's ``runtime`` node names one."""

    def open(self, artifact_dir: Path, device: str = "cpu") -> Session:
        """Load an artifact whose files' digests are checked first."""
        ...


def read_verified(folder: Path, expected: Format) -> Artifact:
    """Read the manifest of an artifact that a runtime is about to load, and check its files first.

    Raises:
        ArtifactError: it is not an artifact, not of the runtime's format, or its files were changed.
    """
    artifact = read_artifact(folder)
    if artifact.format is not expected:
        raise ArtifactError(
            f"{folder} cannot be opened by this runtime",
            got=artifact.format.value,
            expected=expected.value,
            remedy="choose the runtime that belongs to the artifact's format",
        )
    verify_files(artifact, folder)
    return artifact


def check_image(image: np.ndarray, artifact: Artifact) -> None:
    """Compare an image with the graph's input.

    Raises:
        ArtifactError: another dtype, rank or number of channels, or an image without pixels.
    """
    spec = artifact.contract.inputs[0]
    fits = (
        isinstance(image, np.ndarray)
        and image.dtype == spec.dtype
        and image.ndim == len(spec.shape)
        and all(
            got == want if isinstance(want, int) else got > 0
            for got, want in zip(image.shape, spec.shape, strict=True)
        )
    )
    if not fits:
        raise ArtifactError(
            f"the input '{spec.name}' does not fit the graph",
            got=f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__,
            expected=f"numpy {spec.dtype} ({', '.join(map(str, spec.shape))}), no side 0",
            remedy=f"give one image, {artifact.contract.channel_order}, channels first, values 0..255",
        )


def name_outputs(values: Sequence[np.ndarray], artifact: Artifact) -> dict[str, np.ndarray]:
    """Give the graph's outputs, in its order, the contract's names.

    Raises:
        ArtifactError: the graph gives another number of tensors, another dtype or another rank.
    """
    specs = artifact.contract.outputs
    got = [(value.dtype.name, value.ndim) for value in values]
    if got != [(spec.dtype, len(spec.shape)) for spec in specs]:
        raise ArtifactError(
            "the graph's outputs are not those of its contract",
            got=", ".join(f"{dtype} of rank {rank}" for dtype, rank in got) or "nothing",
            expected=", ".join(f"{spec.name} {spec.dtype} of rank {len(spec.shape)}" for spec in specs),
            remedy="export the model again",
        )
    return {spec.name: value for spec, value in zip(specs, values, strict=True)}
