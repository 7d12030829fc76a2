"""The I/O contract of a model: what its graph takes and gives, written once.

The names of ONNX's inputs and outputs, the schema in the registry, the pre-processing before a graph and the
post-processing after it are all derived from this one value.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from detexport.errors import ArtifactError, ConfigError, ExportError, listed

Dim = int | str
"""A fixed size, or the name of one that is free: H, W of the image, height, width of the output, R rows."""

# fmt: off
COCO_KEYPOINT_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
    0.089, 0.089,
)
# fmt: on
"""Of the 17 keypoints of COCO's persons: https://cocodataset.org/#keypoints-eval."""

MAX_SIDE = 65_535
"""Longest side of an image and of an output in px: that of the largest JPEG."""


def checked_names(names: Any, what: str) -> tuple[str, ...]:
    """Check names of classes where they enter: a list of texts.

    YAML reads 1, yes, no and null as other things than texts, and a text is a sequence of letters.

    Args:
        names: what was given.
        what: what they name, for errors.

    Raises:
        ConfigError: they are something else.
    """
    if isinstance(names, str | bytes) or not isinstance(names, Sequence):
        raise ConfigError(
            f"{what} are not a list",
            got=repr(names)[:200],
            expected="a list of names",
            remedy="write a list, such as [cat, dog]",
        )
    wrong = [f"{name!r} ({type(name).__name__})" for name in names if not isinstance(name, str)]
    wrong += [f"{name!r} (no text to read)" for name in names if isinstance(name, str) and not name.strip()]
    if wrong:
        raise ConfigError(
            f"{what} are not all texts",
            got=listed(wrong),
            expected="texts that are not empty",
            remedy="put numbers and the words yes, no, on, off, true, false and null into quotes, such as "
            "['1', 'no']",
        )
    return tuple(names)


@dataclass(frozen=True)
class TensorSpec:
    """One tensor at the edge of a graph.

    Args:
        name: name in the graph and in every schema made from it.
        dtype: numpy's name, ``"uint8"``, ``"float32"``, ``"int64"``.
        shape: a size or the letter of a free size for each dimension.
        meaning: units and frame, for people.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    meaning: str


@dataclass(frozen=True)
class ResizeRule:
    """Resize so that the shortest edge has ``min_size`` px and the longest at most ``max_size`` px.

    ``min_size`` 0 leaves images as they are (``INPUT.MIN_SIZE_TEST`` and ``INPUT.MAX_SIZE_TEST``).
    """

    min_size: int
    max_size: int


@dataclass(frozen=True)
class PanopticRule:
    """How instances and ``sem_seg`` become ``panoptic_seg`` after the graph (Kirillov et al. 2019).

    Args:
        overlap_threshold: an instance is dropped where a greater part of it is taken by better ones.
        stuff_area_limit: stuff of fewer px is dropped.
        instances_score_threshold: instances with a lower score are dropped.
    """

    overlap_threshold: float
    stuff_area_limit: int
    instances_score_threshold: float


@dataclass(frozen=True)
class Contract:
    """What a model's graph takes and gives.

    Args:
        inputs: tensors that the graph takes.
        outputs: tensors that the graph gives, in order; boxes are XYXY in px, of the graph's input image
            where it ends raw, of the output that is wanted where it ends pasted: see ``ending``.
        channel_order: order of the image's channels, ``"RGB"`` or ``"BGR"``.
        resize: how an image is resized before the graph (never inside it).
        pixel_mean: subtracted inside the graph, one value a channel, on the scale 0..255.
        pixel_std: divides inside the graph.
        size_divisibility: the graph pads right and bottom with zeros, after normalization, to a multiple.
        class_names: the name of each index in ``pred_classes``.
        score_threshold: a detection's score is greater than this.
        nms_threshold: of two boxes of one class with a greater IoU the lower score is dropped.
        max_detections: at most so many detections an image; negative: no limit.
        mask_threshold: a pixel belongs to a mask where its probability is at least this.
        stuff_class_names: the name of each channel of ``sem_seg``; beside instances channel 0 is all things.
        keypoint_names: the name of each keypoint, where they have names.
        keypoint_sigmas: how exactly people place each keypoint, for the similarity of keypoints; empty where
            nobody said: see ``oks_sigmas``.
        panoptic: how instances and ``sem_seg`` are combined; none leaves them apart.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    channel_order: Literal["RGB", "BGR"]
    resize: ResizeRule
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    size_divisibility: int
    class_names: tuple[str, ...]
    score_threshold: float
    nms_threshold: float
    max_detections: int
    mask_threshold: float = 0.5
    stuff_class_names: tuple[str, ...] = ()
    keypoint_names: tuple[str, ...] = ()
    keypoint_sigmas: tuple[float, ...] = ()
    panoptic: PanopticRule | None = None

    def __post_init__(self) -> None:
        """Check the names: they go into every schema that is made from the contract.

        Raises:
            ConfigError: they are not texts.
        """
        for kind in ("class_names", "stuff_class_names", "keypoint_names"):
            checked_names(getattr(self, kind), f"the {kind} of a contract")

    def class_name(self, index: int, *, stuff: bool = False) -> str:
        """Name of a class index, of things or of stuff; "class 3" where the contract names none.

        Raises:
            ArtifactError: the contract names classes, but fewer than the model has.
        """
        names = self.stuff_class_names if stuff else self.class_names
        if not names:
            return f"class {index}"
        if not 0 <= index < len(names):
            raise ArtifactError(
                "the model found a class that its contract does not name",
                got=f"class index {index} with {len(names)} names: {listed(names)}",
                expected="a name for each class of the model",
                remedy="export the model again with as many class names as it has classes, or with none",
            )
        return names[index]

    @property
    def graph_end(self) -> Literal["raw", "pasted"]:
        """Whether the outputs are as the model leaves them, or in the frame of a wanted output."""
        return "pasted" if OUTPUT_SIZE in self.inputs else "raw"

    def ending(self, graph_end: str) -> "Contract":
        """The contract of the same model's graph with another end.

        Args:
            graph_end: ``"raw"`` or ``"pasted"``. A pasted graph takes ``output_size`` too, and gives its
                outputs in that frame: boxes scaled and clipped, without the empty ones, masks in the
                output's pixels, maps of classes resized. What follows from all of them together
                (``panoptic``) stays beyond its end.

        Raises:
            ExportError: there is no such end, or the graph has gone beyond it.
        """
        if graph_end == self.graph_end:
            return self
        if graph_end != "pasted":
            raise ExportError(
                "a graph cannot end there",
                got=f"graph_end: {graph_end!r} of a graph that ends {self.graph_end}",
                expected="raw or pasted; pasted stays pasted",
                remedy="set the export method's graph_end to one of them",
            )
        outputs = tuple(_in_output_frame(spec) for spec in self.outputs)
        return replace(self, inputs=(*self.inputs, OUTPUT_SIZE), outputs=outputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in its order."""
        return tuple(spec.name for spec in self.outputs)

    @property
    def results(self) -> tuple[str, ...]:
        """What the model gives for an image after post-processing, by the eager model's keys."""
        given = {
            "instances": "pred_boxes" in self.output_names,
            "proposals": "proposal_boxes" in self.output_names,
            "sem_seg": "sem_seg" in self.output_names,
            "panoptic_seg": self.panoptic is not None,
        }
        return tuple(name for name, is_given in given.items() if is_given)

    @property
    def row_names(self) -> tuple[str, ...]:
        """Names of the outputs that hold a row for each detection or proposal."""
        return tuple(spec.name for spec in self.outputs if spec.shape[0] == "R")

    @property
    def oks_sigmas(self) -> tuple[float, ...]:
        """The standard deviation of each keypoint's annotations, in parts of the root of the object's area.

        Those of COCO where there are 17 keypoints and nobody said others; empty where nothing is known.
        """
        shapes = {spec.name: spec.shape for spec in self.outputs}
        keypoints = shapes["pred_keypoints"][1] if "pred_keypoints" in shapes else 0
        default = COCO_KEYPOINT_SIGMAS if keypoints == len(COCO_KEYPOINT_SIGMAS) else ()
        return self.keypoint_sigmas or default

    def differences(self, other: "Contract") -> list[str]:
        """Fields in which two contracts differ, with both values."""
        return [
            f"{one.name}: {getattr(self, one.name)!r}, not {getattr(other, one.name)!r}"
            for one in fields(self)
            if getattr(self, one.name) != getattr(other, one.name)
        ]

    def to_json(self) -> dict[str, Any]:
        """The contract as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Contract":
        """Rebuild a contract from ``to_json``'s value."""
        fields = dict(value)
        for key in ("inputs", "outputs"):
            fields[key] = tuple(
                TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"]), spec["meaning"])
                for spec in value[key]
            )
        fields["resize"] = ResizeRule(**value["resize"])
        for key in ("pixel_mean", "pixel_std"):
            fields[key] = tuple(value[key])
        fields["class_names"] = checked_names(value["class_names"], "the class_names of a contract")
        for key in ("stuff_class_names", "keypoint_names"):
            fields[key] = checked_names(value.get(key, ()), f"the {key} of a contract")
        fields["keypoint_sigmas"] = tuple(value.get("keypoint_sigmas", ()))
        if value.get("panoptic") is not None:
            fields["panoptic"] = PanopticRule(**value["panoptic"])
        return cls(**fields)


IMAGE = TensorSpec("image", "uint8", (3, "H", "W"), "one image, values 0..255, any height and width")
OUTPUT_SIZE = TensorSpec(
    "output_size", "int64", (2,), "height and width in px, positive, of the output that is wanted"
)
DETECTION_OUTPUTS = (
    TensorSpec("pred_boxes", "float32", ("R", 4), "x0, y0, x1, y1 in px of the input image"),
    TensorSpec("scores", "float32", ("R",), "confidence in [0, 1], descending"),
    TensorSpec("pred_classes", "int64", ("R",), "index into the class names"),
)


def mask_output(resolution: int) -> TensorSpec:
    """The raw masks at the end of a graph: a probability a cell of a grid over each box."""
    return TensorSpec(
        "pred_masks",
        "float32",
        ("R", resolution, resolution),
        "probability of the predicted class in each cell of a grid over the box",
    )


def keypoint_output(num_keypoints: int) -> TensorSpec:
    """The keypoints of each detection."""
    return TensorSpec(
        "pred_keypoints",
        "float32",
        ("R", num_keypoints, 3),
        "x and y in px of the input image, and a score, positive",
    )


def _in_output_frame(spec: TensorSpec) -> TensorSpec:
    """An output of a raw graph as a pasted one gives it."""
    if spec.name == "pred_masks":
        meaning = "the pixels of the output that belong to the object"
        return TensorSpec(spec.name, "bool", ("R", "height", "width"), meaning)
    sides: dict[Dim, Dim] = {"H": "height", "W": "width"}
    return replace(
        spec,
        shape=tuple(sides.get(dim, dim) for dim in spec.shape),
        meaning=spec.meaning.replace("the input image", "the output"),
    )
