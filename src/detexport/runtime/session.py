"""The common interface of the runtimes: a session takes one image and returns the graph's outputs by name."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from detexport.artifact import Artifact, Format, read_verified
from detexport.contract import MAX_SIDE
from detexport.errors import ArtifactError
from detexport.processing.preprocess import graph_inputs


class Session(Protocol):
    """A loaded artifact, ready to run.

    Attributes:
        artifact: the artifact's manifest.
        device: the device it runs on, ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
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
            output_size: height and width in px of the outputs of a pasted graph, by default those of
                ``image``; a raw graph ignores it.

        Returns:
            The graph's outputs by the contract's names; boxes in px of ``image`` for a raw graph, of the
            output for a pasted one.

        Raises:
            ArtifactError: the image does not match the graph's input.
        """
        ...

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph on its inputs by name, in the contract's order, without checking them.

        Raises:
            ArtifactError: the graph's outputs do not match its contract.
        """
        ...


class BatchSession(Session, Protocol):
    """A session of an artifact with any batch size (``batch`` is ``"any"``)."""

    def run_batch(
        self, images: Sequence[np.ndarray], output_sizes: Sequence[tuple[int, int] | None]
    ) -> list[dict[str, np.ndarray]]:
        """Run the graph once on images of different sizes.

        The graph pads them to one size, as the eager model does. So an image's outputs depend slightly on
        the sizes of the others, as in an eager batch.

        Args:
            images: one or more images, as for ``Session.__call__``.
            output_sizes: an output size per image, as for ``Session.__call__``.

        Raises:
            ArtifactError: an image does not match the graph's input.
        """
        ...


class Engine(Protocol):
    """A runtime and its options; a target's ``runtime`` node selects one.

    A class has two attributes: ``engine``, the usual name of what runs the graph, and ``packages``, the
    modules of extras that it needs, the engine's first.
    """

    def open(self, artifact_dir: Path, device: str = "cpu") -> Session:
        """Check the digests of an artifact's files and load it."""
        ...


def read_of_format(folder: Path, expected: Format) -> Artifact:
    """Read the manifest of an artifact that a runtime is about to load, and check its files.

    Raises:
        ArtifactError: it is not an artifact, has another format than ``expected``, or its files were changed.
    """
    artifact = read_verified(folder)
    if artifact.format is not expected:
        raise ArtifactError(
            f"{folder} cannot be opened by this runtime",
            got=artifact.format.value,
            expected=expected.value,
            remedy="choose the runtime of the artifact's format",
        )
    return artifact


def check_image(image: np.ndarray, artifact: Artifact) -> None:
    """Compare an image with the graph's input.

    Raises:
        ArtifactError: the dtype, the rank, the number of channels or the size does not fit.
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
            remedy=f"pass one image, {artifact.contract.channel_order}, channels first, values 0..255",
        )


def checked_inputs(
    image: np.ndarray, output_size: tuple[int, int] | None, artifact: Artifact
) -> dict[str, np.ndarray]:
    """Return the graph's inputs for one image, by name and in its order: see ``Session.__call__``.

    Raises:
        ArtifactError: the image does not fit the graph, or the output size is invalid.
    """
    check_image(image, artifact)
    if output_size is not None and not _is_size(output_size):
        raise ArtifactError(
            "invalid output size",
            got=f"(height, width) {output_size}",
            expected=f"two positive whole numbers of px, at most {MAX_SIDE}",
        )
    return graph_inputs(artifact.contract, image, output_size)


def _is_size(size: Any) -> bool:
    """Return whether it is two integers, of Python or numpy, in the range of image sides."""
    try:
        height, width = map(operator.index, size)
    except (TypeError, ValueError):
        return False
    return 0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE


@dataclass(frozen=True)
class GraphSession:
    """Base class of the sessions; a subclass defines ``run``: see ``Session``."""

    artifact: Artifact
    device: str

    def __call__(
        self, image: np.ndarray, output_size: tuple[int, int] | None = None
    ) -> dict[str, np.ndarray]:
        """Check one image and run the graph on it: see ``Session``."""
        return self.run(checked_inputs(image, output_size, self.artifact))

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph on its inputs by name, unchecked: see ``Session.run``."""
        raise NotImplementedError


def name_outputs(values: Sequence[np.ndarray], artifact: Artifact) -> dict[str, np.ndarray]:
    """Return the graph's outputs, given in its order, by the contract's names.

    Raises:
        ArtifactError: the number of outputs, a dtype or a rank does not match the contract.
    """
    specs = artifact.contract.outputs
    got = [(value.dtype.name, value.ndim) for value in values]
    if got != [(spec.dtype, len(spec.shape)) for spec in specs]:
        raise ArtifactError(
            "the graph's outputs do not match its contract",
            got=", ".join(f"{dtype} of rank {rank}" for dtype, rank in got) or "nothing",
            expected=", ".join(f"{spec.name} {spec.dtype} of rank {len(spec.shape)}" for spec in specs),
            remedy="export the model again",
        )
    return {spec.name: value for spec, value in zip(specs, values, strict=True)}
