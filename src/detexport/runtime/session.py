"""What every runtime gives: a session, one image in, the graph's outputs by name out."""

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from detexport.artifact import Artifact, Format, read_verified
from detexport.contract import MAX_SIDE
from detexport.errors import ArtifactError
from detexport.processing.preprocess import graph_inputs


class Session(Protocol):
    """An artifact that is loaded and ready to run.

    Attributes:
        artifact: the manifest of what is loaded.
        device: where it runs, ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
    """

    @property
    def artifact(self) -> Artifact: ...  # noqa: D102

    @property
    def device(self) -> str: ...  # noqa: D102

    def __call__(
        self, image: np.ndarray, output_size: tuple[int, int] | None = None
    ) -> dict[str, np.ndarray]:
        """Run the graph on one image.

        Args:
            image: (3, H, W) uint8 in the contract's channel order, resized by the contract's rule.
            output_size: height and width in px that a pasted graph's outputs are wanted in, by default those
                of ``image``; a raw graph does not ask for it.

        Returns:
            The graph's outputs by the contract's names; boxes in px of ``image`` where it ends raw, of the
            output where it ends pasted.

        Raises:
            ArtifactError: the image is not what the graph was exported for.
        """
        ...

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph on its inputs by name, in the contract's order; nothing is checked before.

        Raises:
            ArtifactError: the graph's outputs are not those of its contract.
        """
        ...


class BatchSession(Session, Protocol):
    """A session of an artifact that takes any number of images in a call (``batch`` is ``"any"``)."""

    def run_batch(
        self, images: Sequence[np.ndarray], output_sizes: Sequence[tuple[int, int] | None]
    ) -> list[dict[str, np.ndarray]]:
        """Run the graph once on images of different sizes.

        The graph pads them to one size, as the eager model does; so in a batch, as in an eager one, an
        image's outputs depend a little on the sizes of the others.

        Args:
            images: each as ``Session.__call__`` takes it.
            output_sizes: one an image, likewise.

        Raises:
            ArtifactError: an image is not what the graph was exported for.
        """
        ...


class Engine(Protocol):
    """A runtime and its options; a target's ``runtime`` node names one."""

    def open(self, artifact_dir: Path, device: str = "cpu") -> Session:
        """Load an artifact whose files' digests are checked first."""
        ...


def read_of_format(folder: Path, expected: Format) -> Artifact:
    """Read the manifest of an artifact that a runtime is about to load, and check its files first.

    Raises:
        ArtifactError: it is not an artifact, its files were changed, or it is not of the runtime's format.
    """
    artifact = read_verified(folder)
    if artifact.format is not expected:
        raise ArtifactError(
            f"{folder} cannot be opened by this runtime",
            got=artifact.format.value,
            expected=expected.value,
            remedy="choose the runtime that belongs to the artifact's format",
        )
    return artifact


def check_image(image: np.ndarray, artifact: Artifact) -> None:
    """Compare an image with the graph's input.

    Raises:
        ArtifactError: another dtype, rank or number of channels, or a side that the graph does not take.
    """
    spec = artifact.contract.inputs[0]
    smallest, largest = artifact.image_sides
    fits = (
        isinstance(image, np.ndarray)
        and image.dtype == spec.dtype
        and image.ndim == len(spec.shape)
        and all(
            got == want if isinstance(want, int) else smallest <= got <= largest
            for got, want in zip(image.shape, spec.shape, strict=True)
        )
    )
    if not fits:
        raise ArtifactError(
            f"the input '{spec.name}' does not fit the graph",
            got=f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__,
            expected=f"numpy {spec.dtype} ({', '.join(map(str, spec.shape))}), "
            f"sides of {smallest} to {largest} px",
            remedy=f"give one image, {artifact.contract.channel_order}, channels first, values 0..255",
        )


def checked_inputs(
    image: np.ndarray, output_size: tuple[int, int] | None, artifact: Artifact
) -> dict[str, np.ndarray]:
    """What an artifact's graph takes for one image, by name and in its order: see ``Session.__call__``.

    Raises:
        ArtifactError: the image does not fit the graph, or the wanted size is none.
    """
    check_image(image, artifact)
    if output_size is not None and not _is_size(output_size):
        raise ArtifactError(
            "no output has such a size",
            got=f"(height, width) {output_size}",
            expected=f"two positive whole numbers of px, at most {MAX_SIDE}",
        )
    return graph_inputs(artifact.contract, image, output_size)


def _is_size(size: Any) -> bool:
    """Whether it is two whole numbers, of Python or numpy, in the range of sides."""
    try:
        height, width = map(operator.index, size)
    except (TypeError, ValueError):
        return False
    return 0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE


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
