"""Harmful faults and harmless changes to plant in a correct artifact, which validation must distinguish.

They wrap the session, so that one list serves every target.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detexport.artifact import Artifact
from detexport.contract import Contract
from detexport.data.resize import resize_image

Arrays = dict[str, np.ndarray]
Size = tuple[int, int]
Change = Callable[[Arrays, Contract], Arrays]
"""Returns a graph's outputs with a change."""

ANY = ("numerics", "matching")
"""The verdicts of which one must fail if a fault changes numbers and decisions."""


FROZEN = ("contract", *ANY)
"""The verdicts for a frozen size: a map of this size breaks the contract, boxes alone do not."""


@dataclass
class WrappedSession:
    """A session with changed inputs or outputs.

    Args:
        inner: the session.
        outputs: changes its outputs.
        image: changes its input.
    """

    inner: Any
    outputs: Change = lambda arrays, _: arrays
    image: Callable[[np.ndarray, Contract], np.ndarray] = lambda image, _: image

    @property
    def artifact(self) -> Artifact:
        """The inner session's artifact."""
        artifact: Artifact = self.inner.artifact
        return artifact

    @property
    def device(self) -> str:
        """The inner session's device."""
        return str(self.inner.device)

    def __call__(self, image: np.ndarray, output_size: Size | None = None) -> Arrays:
        """Run the graph on one image."""
        contract = self.artifact.contract
        arrays = self.inner(self.image(image, contract), output_size)
        return self.outputs(dict(arrays), contract)

    def run_batch(self, images: Sequence[np.ndarray], output_sizes: Sequence[Size | None]) -> list[Arrays]:
        """Run the graph on several images in one call."""
        contract = self.artifact.contract
        changed = [self.image(image, contract) for image in images]
        return [
            self.outputs(dict(arrays), contract) for arrays in self.inner.run_batch(changed, output_sizes)
        ]


@dataclass
class FrozenSize(WrappedSession):
    """A graph whose input size was frozen at export: every image is cropped or padded to it."""

    size: Size = (0, 0)

    def __call__(self, image: np.ndarray, output_size: Size | None = None) -> Arrays:
        """Run the graph on the cropped or padded image."""
        return super().__call__(self._fitted(image), output_size)

    def _fitted(self, image: np.ndarray) -> np.ndarray:
        fitted = np.zeros((3, *self.size), np.uint8)
        height, width = (min(pair) for pair in zip(self.size, image.shape[1:], strict=True))
        fitted[:, :height, :width] = image[:, :height, :width]
        return fitted


@dataclass
class Stretched(FrozenSize):
    """A graph with a frozen input size: every image is resized to it, and the boxes are scaled back."""

    def __call__(self, image: np.ndarray, output_size: Size | None = None) -> Arrays:
        """Run the graph on the resized image."""
        arrays = dict(self.inner(resize_image(image, self.size), output_size))
        ratios = [side / frozen for side, frozen in zip(image.shape[1:], self.size, strict=True)]
        arrays["pred_boxes"] = arrays["pred_boxes"] * np.array([ratios[1], ratios[0]] * 2, np.float32)
        return arrays


@dataclass
class Stale(WrappedSession):
    """A session that returns the previous image's outputs, as a reused output buffer does."""

    last: Arrays = field(default_factory=dict)

    def __call__(self, image: np.ndarray, output_size: Size | None = None) -> Arrays:
        """Run the graph, and return the previous outputs."""
        arrays = super().__call__(image, output_size)
        previous, self.last = self.last or arrays, arrays
        return previous


@dataclass
class FrozenBatch(WrappedSession):
    """A session that computes only the first image of a batch."""

    def run_batch(self, images: Sequence[np.ndarray], output_sizes: Sequence[Size | None]) -> list[Arrays]:
        """Return the first image's outputs for all images."""
        return super().run_batch(images, output_sizes)[:1] * len(images)


@dataclass
class Raises(WrappedSession):
    """A graph with a reshape that fails without detections."""

    def __call__(self, image: np.ndarray, output_size: Size | None = None) -> Arrays:
        """Run the graph; raise an error if there are no detections."""
        arrays = super().__call__(image, output_size)
        if not len(arrays["scores"]):
            raise RuntimeError("cannot reshape tensor of 0 elements")
        return arrays


@dataclass(frozen=True)
class Fault:
    """A change of an artifact.

    Args:
        name: description of the change.
        plant: wraps a session to change it.
        verdicts: those of which at least one must fail; empty: the change is harmless, and all must pass.
        needs: outputs that the model must have; ``"batch"``: its batch size must be any.
    """

    name: str
    plant: Callable[[Any], Any]
    verdicts: tuple[str, ...]
    needs: tuple[str, ...] = ()

    def applies_to(self, artifact: Artifact) -> bool:
        """Return whether the artifact has what the change needs."""
        given = {*artifact.contract.output_names, *(["batch"] if artifact.batch == "any" else [])}
        return given >= set(self.needs)


def of_outputs(name: str, change: Change, *verdicts: str, needs: tuple[str, ...] = ("scores",)) -> Fault:
    """Return a fault in a graph's outputs."""
    return Fault(name, lambda session: WrappedSession(session, outputs=change), verdicts, needs)


def of_images(name: str, change: Callable[[np.ndarray, Contract], np.ndarray], *verdicts: str) -> Fault:
    """Return a fault in a graph's input."""
    return Fault(name, lambda session: WrappedSession(session, image=change), verdicts)


def rows(arrays: Arrays, contract: Contract, indices: Any) -> Arrays:
    """Select rows of the outputs that have a row for each detection."""
    return {name: value[indices] if name in contract.row_names else value for name, value in arrays.items()}


def on(name: str, function: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Return a change of one output that keeps its dtype."""
    return lambda arrays, _: {**arrays, name: function(arrays[name]).astype(arrays[name].dtype)}


def with_value(name: str, value: float) -> Change:
    """Return a change that replaces the first number of an output, if it has any."""

    def change(arrays: Arrays, _: Contract) -> Arrays:
        array = arrays[name].copy()
        array.reshape(-1)[:1] = value
        return {**arrays, name: array}

    return change


def without(index: int) -> Change:
    """Return a change that drops a row, if there are more than ``index``."""
    return lambda arrays, contract: (
        rows(arrays, contract, np.delete(np.arange(len(arrays["scores"])), index))
        if len(arrays["scores"]) > index
        else arrays
    )


def raise_threshold(by: float) -> Change:
    """Return a change that raises the score threshold."""
    return lambda arrays, contract: rows(arrays, contract, arrays["scores"] > contract.score_threshold + by)


def doubled(arrays: Arrays, contract: Contract) -> Arrays:
    """Duplicate the best detection, within the largest number of detections."""
    number = len(arrays["scores"])
    indices = np.sort(np.append(np.arange(number), 0)) if number else np.arange(0)
    return rows(arrays, contract, indices[: contract.max_detections])


def exchanged_boxes(arrays: Arrays, _: Contract) -> Arrays:
    """Exchange the boxes of the first and the last detection."""
    boxes = arrays["pred_boxes"].copy()
    boxes[[0, -1]] = boxes[[-1, 0]] if len(boxes) else boxes
    return {**arrays, "pred_boxes": boxes}


def one_class_off(arrays: Arrays, contract: Contract) -> Arrays:
    """Give the best detection the next class."""
    classes = arrays["pred_classes"].copy()
    classes[:1] = (classes[:1] + 1) % len(contract.class_names)
    return {**arrays, "pred_classes": classes}


def next_class(arrays: Arrays, contract: Contract) -> Arrays:
    """Count classes from one instead of zero; the last becomes the first."""
    return {**arrays, "pred_classes": (arrays["pred_classes"] + 1) % len(contract.class_names)}


def padded(arrays: Arrays, contract: Contract) -> Arrays:
    """Pad the list to its largest length: repeat the last detection with a score of nearly 0."""
    count = len(arrays["scores"])
    if not count:
        return arrays
    indices = np.minimum(np.arange(contract.max_detections), count - 1)
    filled = rows(arrays, contract, indices)
    scores = np.where(np.arange(contract.max_detections) < count, filled["scores"], 1e-3)
    return {**filled, "scores": scores.astype(np.float32)}


def swap_ties(arrays: Arrays, contract: Contract) -> Arrays:
    """Reverse the order of detections of equal score."""
    order = np.lexsort((-np.arange(len(arrays["scores"])), -arrays["scores"]))
    return rows(arrays, contract, order)


def with_ties(arrays: Arrays, _: Contract) -> Arrays:
    """Round scores to steps of 0.1, above the threshold, so that many are equal."""
    return {**arrays, "scores": (np.floor(arrays["scores"] * 10) / 10 + 0.09).astype(np.float32)}


def shifted(array: np.ndarray) -> np.ndarray:
    """Move a map to the right by one cell."""
    return np.concatenate([array[..., :1], array[..., :-1]], axis=-1)


def centered(image: np.ndarray, contract: Contract) -> np.ndarray:
    """Subtract the mean from an image, clipped to 0..255."""
    mean = np.array(contract.pixel_mean, np.float32)[:, None, None]
    return np.clip(image - mean, 0, 255).astype(np.uint8)


def edge_dropped(arrays: Arrays, contract: Contract) -> Arrays:
    """Drop the detections within 1e-4 of the score threshold."""
    return rows(arrays, contract, arrays["scores"] > contract.score_threshold + 1e-4)


FAULTS: tuple[Fault, ...] = (
    # Numbers.
    of_outputs("boxes scaled by 1.001", on("pred_boxes", lambda boxes: boxes * 1.001), "numerics"),
    of_outputs("boxes scaled by 1.05", on("pred_boxes", lambda boxes: boxes * 1.05), *ANY),
    of_outputs("boxes moved by 0.05 px", on("pred_boxes", lambda boxes: boxes + 0.05), "numerics"),
    of_outputs("boxes moved by 1 px", on("pred_boxes", lambda boxes: boxes + 1), *ANY),
    of_outputs(
        "right and bottom include a pixel",
        on("pred_boxes", lambda b: b + np.array([0, 0, 1, 1], np.float32)),
        *ANY,
    ),
    of_outputs("boxes rounded to whole px", on("pred_boxes", np.round), *ANY),
    of_outputs("boxes in half precision", on("pred_boxes", lambda b: b.astype(np.float16)), "numerics"),
    of_outputs("x and y exchanged", on("pred_boxes", lambda boxes: boxes[:, [1, 0, 3, 2]]), *ANY),
    of_outputs("boxes in parts of the image", on("pred_boxes", lambda boxes: boxes / 1000), *ANY),
    of_outputs("boxes of two detections exchanged", exchanged_boxes, *ANY),
    of_outputs("scores times 0.999", on("scores", lambda scores: scores * 0.999), "numerics"),
    of_outputs("a sigmoid too many", on("scores", lambda s: 1 / (1 + np.exp(-s))), "numerics"),
    of_outputs("scores in half precision", on("scores", lambda s: s.astype(np.float16)), "numerics"),
    of_outputs(
        "masks moved by a cell", on("pred_masks", shifted), "numerics", needs=("scores", "pred_masks")
    ),
    of_outputs(
        "masks inverted", on("pred_masks", lambda m: 1 - m), "numerics", needs=("scores", "pred_masks")
    ),
    of_outputs(
        "a sigmoid of masks too many",
        on("pred_masks", lambda m: 1 / (1 + np.exp(-m))),
        "numerics",
        needs=("scores", "pred_masks"),
    ),
    of_outputs(
        "masks upside down",
        on("pred_masks", lambda m: m[:, ::-1]),
        "numerics",
        needs=("scores", "pred_masks"),
    ),
    of_outputs(
        "keypoints moved by 1 px",
        on("pred_keypoints", lambda k: k + np.array([1, 0, 0], np.float32)),
        *ANY,
        needs=("pred_keypoints",),
    ),
    of_outputs(
        "left and right keypoints exchanged",
        on("pred_keypoints", lambda k: k[:, ::-1]),
        *ANY,
        needs=("pred_keypoints",),
    ),
    of_outputs("stuff moved by a cell", on("sem_seg", shifted), *ANY, needs=("sem_seg",)),
    of_outputs(
        "channels of stuff exchanged", on("sem_seg", lambda s: s[::-1].copy()), *ANY, needs=("sem_seg",)
    ),
    # Decisions.
    of_outputs("classes shifted by one", next_class, "matching"),
    of_outputs("one class off", one_class_off, "matching"),
    of_outputs("the best detection dropped", without(0), "matching"),
    of_outputs("the third detection dropped", without(2), "matching"),
    of_outputs("all detections dropped", lambda a, c: rows(a, c, slice(0)), "matching"),
    of_outputs("at most five detections", lambda a, c: rows(a, c, slice(5)), "matching"),
    of_outputs("the best detection doubled", doubled, *ANY),
    of_outputs("the list padded to its greatest length", padded, "matching"),
    of_outputs("threshold higher by 0.001", raise_threshold(1e-3), "matching"),
    of_outputs("threshold higher by 0.1", raise_threshold(0.1), "matching"),
    # The contract.
    of_outputs("NaN in one score", with_value("scores", np.nan), "contract"),
    of_outputs("NaN in one box", with_value("pred_boxes", np.nan), "contract"),
    of_outputs("infinity in one box", with_value("pred_boxes", np.inf), "contract"),
    of_outputs("worst first", lambda a, c: rows(a, c, slice(None, None, -1)), "contract"),
    of_outputs(
        "classes as int32", lambda a, _: {**a, "pred_classes": a["pred_classes"].astype(np.int32)}, "contract"
    ),
    of_outputs(
        "boxes in double precision",
        lambda a, _: {**a, "pred_boxes": a["pred_boxes"].astype(np.float64)},
        "contract",
    ),
    of_outputs(
        "an output renamed",
        lambda a, _: {{"scores": "confidences"}.get(name, name): value for name, value in a.items()},
        "contract",
    ),
    of_outputs("one box too few", lambda a, _: {**a, "pred_boxes": a["pred_boxes"][:-1]}, "contract"),
    Fault("fails where nothing is found", Raises, ("contract",), ("scores",)),
    # Inputs.
    of_images("colours in the wrong order", lambda image, _: image[::-1].copy(), *ANY),
    of_images("values of 0 to 1", lambda image, _: image // 255, *ANY),
    of_images("darker by 2 %", lambda image, _: (image * 0.98).astype(np.uint8), *ANY),
    of_images("the mean subtracted twice", centered, *ANY),
    of_images("rows and columns exchanged", lambda image, _: image.transpose(0, 2, 1).copy(), *ANY),
    of_images("moved by a pixel", lambda image, _: shifted(image), *ANY),
    # Frozen sizes and stale outputs.
    Fault("the size is frozen, images are cut", lambda session: FrozenSize(session, size=(128, 160)), FROZEN),
    Fault("the size is frozen, images are stretched", lambda s: Stretched(s, size=(128, 160)), FROZEN),
    Fault("the outputs are those of the image before", Stale, ("contract", *ANY)),
    Fault("a batch is its first image", FrozenBatch, ("contract", *ANY), ("batch",)),
)
"""Harmful faults: validation must catch each."""

HARMLESS: tuple[Fault, ...] = (
    Fault("nothing", lambda session: session, ()),
    of_outputs("boxes moved by 1e-4 px", on("pred_boxes", lambda boxes: boxes + 1e-4)),
    of_outputs("boxes scaled by 1 + 1e-7", on("pred_boxes", lambda boxes: boxes * np.float32(1 + 1e-7))),
    of_outputs("scores less by 1e-6", on("scores", lambda scores: scores - 1e-6)),
    of_outputs("scores less by 1e-4 of themselves", on("scores", lambda scores: scores * (1 - 1e-4))),
    of_outputs("detections at the edge of the threshold dropped", edge_dropped),
    of_outputs(
        "masks less by 1e-6", on("pred_masks", lambda masks: masks - 1e-6), needs=("scores", "pred_masks")
    ),
    of_outputs(
        "keypoints moved by 0.005 px",
        on("pred_keypoints", lambda k: k + np.array([0.005, 0, 0], np.float32)),
        needs=("pred_keypoints",),
    ),
    of_outputs("stuff less by 1e-5", on("sem_seg", lambda s: s - 1e-5), needs=("sem_seg",)),
)
"""Harmless changes within rounding error: validation must not flag them."""

TIES = (
    of_outputs("no change among ties", lambda arrays, _: arrays),
    of_outputs("order changed among ties", swap_ties),
)
"""Harmless changes against a reference made by ``with_ties``."""
