"""Which samples go through a model in one call, and which of these calls an artifact supports."""

from collections.abc import Iterable, Sequence

from detexport.artifact import Artifact
from detexport.reference.store import Sample, SampleMeta


def group_by_call(samples: Iterable[Sample]) -> list[tuple[Sample, ...]]:
    """Group samples by the call that they go through a model in: batches together, all others alone."""
    grouped: dict[str, list[Sample]] = {}
    for sample in samples:
        grouped.setdefault(f"batch {sample.meta.batch}" if sample.meta.batch else sample.meta.id, []).append(
            sample
        )
    return [tuple(group) for group in grouped.values()]


def why_unsupported(artifact: Artifact, group: Sequence[SampleMeta]) -> str:
    """Say why an artifact does not support a group of images in one call; empty where it does.

    Args:
        artifact: the manifest; its contract and ``image_sides`` say what it takes.
        group: one sample, or those of a batch: see ``group_by_call``.
    """
    if any(meta.batch for meta in group) and artifact.batch != "any":
        return "the artifact takes one image in a call"
    smallest, largest = artifact.image_sides
    for meta in group:
        for dim, side in zip(artifact.contract.inputs[0].shape[1:], meta.image_size, strict=True):
            if isinstance(dim, int) and side != dim:
                return "the artifact takes images of one size: " + " x ".join(
                    map(str, artifact.contract.inputs[0].shape[1:])
                )
            if not smallest <= side <= largest:
                return f"the artifact takes images with sides of {smallest} to {largest} px"
    return ""
