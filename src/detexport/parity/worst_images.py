"""The images on which an artifact differs most from the eager model."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from detexport.outputs import Outputs
from detexport.parity.compare import SampleParity, Tolerance
from detexport.parity.measures import limits_of
from detexport.reference.store import NO_IMAGE, SampleMeta


@dataclass(frozen=True, order=True)
class Severity:
    """How much the outputs on one input differ; compares in the order of the fields.

    Args:
        broken: whether the artifact returned nothing that could be compared.
        unmatched: number of missing and extra detections that are not excused.
        of_limit: the largest error as a fraction of its limit.
        detections: number of the eager model's; of equal errors, those of the fuller image count more.
    """

    broken: bool
    unmatched: int
    of_limit: float
    detections: int


@dataclass
class WorstImages:
    """The inputs with the most severe differences, at most one of each image, with the outputs on them.

    Args:
        count: the number to keep.
        tolerance: the limits that errors are related to.
    """

    count: int
    tolerance: Tolerance
    severities: dict[str, Severity] = field(default_factory=dict)
    outputs: dict[str, Outputs] = field(default_factory=dict)
    _images: dict[str, str | int] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the ids of the kept inputs, the worst first; of equals the earlier first."""
        return tuple(sorted(self.severities, key=lambda id: self.severities[id], reverse=True))

    def includes(self, meta: SampleMeta, sample: SampleParity) -> bool:
        """Return whether an input is among the worst of those that were added so far."""
        rival = self._rival(meta)
        if rival is None:
            return len(self.severities) < self.count
        return severity(sample, self.tolerance, meta.output_scale) > self.severities[rival]

    def add(self, meta: SampleMeta, sample: SampleParity, outputs: Outputs | None) -> None:
        """Keep an input if it is among the worst, in place of the least bad one or one of the same image."""
        if not self.includes(meta, sample):
            return
        rival = self._rival(meta)
        if rival is not None:
            self.severities.pop(rival)
            self.outputs.pop(rival, None)
            self._images.pop(rival)
        self.severities[meta.id] = severity(sample, self.tolerance, meta.output_scale)
        self._images[meta.id] = _image(meta)
        if outputs is not None:
            self.outputs[meta.id] = outputs

    def _rival(self, meta: SampleMeta) -> str | None:
        """Return the input that this one would replace; None if there is room."""
        for id, image in self._images.items():
            if image == _image(meta):
                return id
        if len(self.severities) < self.count or not self.severities:
            return None
        return self.ids[-1]


def _image(meta: SampleMeta) -> str | int:
    return meta.id if meta.image_id == NO_IMAGE else meta.image_id


def severity(sample: SampleParity, tolerance: Tolerance, scale: float) -> Severity:
    """Return how much the outputs on one input differ.

    Args:
        sample: the measurement.
        tolerance: the limits.
        scale: output size / input size, see ``compare``.
    """
    return Severity(
        broken=bool(sample.broken),
        unmatched=sum(not one.excused for one in (*sample.missing, *sample.extra)),
        of_limit=max(fractions_of_limits(sample.errors, tolerance, scale).values(), default=0.0),
        detections=sample.expected,
    )


def fractions_of_limits(errors: Mapping[str, float], tolerance: Tolerance, scale: float) -> dict[str, float]:
    """Return each error of a sample that has a limit as a fraction of it; above 1 the sample does not pass.

    A mask passes by its pixels or by its area, so the smaller of both fractions counts.
    """
    limits = limits_of(errors, tolerance, scale)
    fractions = {name: _fraction(errors[name], limit) for name, limit in limits.items()}
    if "mask_error_px" in errors:
        of_area = _fraction(errors["mask_error_ratio"], tolerance.mask_area_ratio)
        fractions["mask_error_px"] = min(fractions["mask_error_px"], of_area)
    return fractions


def _fraction(error: float, limit: float) -> float:
    if limit:
        return error / limit
    return float("inf") if error else 0.0
