"""Group samples into calls of a model, and check which calls an artifact supports."""

from collections.abc import Iterable, Sequence

from detexport.artifact import Artifact
from detexport.reference.store import Sample, SampleMeta


def group_by_call(samples: Iterable[Sample]) -> list[tuple[Sample, ...]]:
    """Group samples by call: a batch is one call, every other sample is its own."""
    grouped: dict[str, list[Sample]] = {}
    for sample in samples:
        grouped.setdefault(f"batch {sample.meta.batch}" if sample.meta.batch else sample.meta.id, []).append(
            sample
        )
    return [tuple(group) for group in grouped.values()]


def why_unsupported(artifact: Artifact, group: Sequence[SampleMeta]) -> str:
    """Return why an artifact does not support a group of images in one call; empty if it does.

    Args:
        artifact: the manifest; its contract, ``batch`` and ``image_sides`` declare the support.
        group: one sample, or those of a batch: see ``group_by_call``.
    """
    if any(meta.batch for meta in group) and artifact.batch != "any":
        return "the artifact supports batch size 1"
    smallest, largest = artifact.image_sides
    for meta in group:
        for dim, side in zip(artifact.contract.inputs[0].shape[1:], meta.image_size, strict=True):
            if isinstance(dim, int) and side != dim:
                return "the artifact supports images of one size: " + " x ".join(
                    map(str, artifact.contract.inputs[0].shape[1:])
                )
            if not smallest <= side <= largest:
                return f"the artifact supports images with sides of {smallest} to {largest} px"
    return ""
