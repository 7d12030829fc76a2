"""The I/O contract of a model: what its graph takes and gives, written once.

The names of ONNX's inputs and outputs, the schema in the registry, the pre-processing before a graph and the
post-processing after it are all derived from this one value.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from detexport.errors import ArtifactError, ConfigError, ExportError, listed, shown
from detexport.system.json_values import decode, is_text

Dim = int | str
"""A fixed size, or the name of one that is free: H, W of the image, height, width of the output, R rows."""

# fmt: off
COCO_KEYPOINT_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
    0.089, 0.089,
)
# fmt: on
"""Of the 17 keypoints of COCO's persons: https://cocodataset.org/#keypoints-eval."""

SHOWN_ITEMS = 5
"""Of a list in a message."""

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
        wrong = [f"{names!r}, which is no list"]
    else:
        wrong = [f"{name!r}, which is no text" for name in names if not isinstance(name, str)]
        texts = [name for name in names if isinstance(name, str)]
        wrong += [f"{name!r}, which UTF-8 does not hold" for name in texts if not is_text(name)]
        wrong += ["an empty name"] if not all(map(str.strip, texts)) else []
    if wrong:
        raise ConfigError(
            f"{what} are not names of classes",
            got=listed(wrong),
            expected="a list of texts",
            remedy='put them into quotes, as in ["0", "yes", "cat"]',
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
        num_classes: number of indices that ``pred_classes`` can hold; None where the model does not say.
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
    num_classes: int | None = None

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
        return tuple(spec.name for spec in self.outputs if spec.shape[:1] == ("R",))

    @property
    def oks_sigmas(self) -> tuple[float, ...]:
        """The standard deviation of each keypoint's annotations, in parts of the root of the object's area.

        Those of COCO where there are 17 keypoints and nobody said others; empty where nothing is known.
        """
        shapes = {spec.name: spec.shape for spec in self.outputs}
        keypoints = shapes["pred_keypoints"][1] if len(shapes.get("pred_keypoints", ())) > 1 else 0
        default = COCO_KEYPOINT_SIGMAS if keypoints == len(COCO_KEYPOINT_SIGMAS) else ()
        return self.keypoint_sigmas or default

    def to_json(self) -> dict[str, Any]:
        """The contract as plain JSON values; without ``num_classes`` where the model does not say it."""
        unknown = ("num_classes",) if self.num_classes is None else ()
        return {name: value for name, value in asdict(self).items() if name not in unknown}

    @classmethod
    def from_json(cls, value: Any, place: str = "contract") -> "Contract":
        """Rebuild a contract from ``to_json``'s value.

        Args:
            value: parsed JSON.
            place: its name in messages.

        Raises:
            ValueError: a field is missing, unknown or of another type, or two fields contradict each other.
        """
        contract: Contract = decode(value, cls, place)
        if fault := contract.fault():
            raise ValueError(f"{place}.{fault}")
        return contract

    def fault(self) -> str:
        """Name the field that contradicts another one or is out of range, and why; empty if none does."""
        shapes = {spec.name: spec.shape for spec in self.outputs}
        names = [spec.name for spec in (*self.inputs, *self.outputs)]
        faults = {
            "inputs: none, or two tensors of one name": not self.inputs or len({*names}) < len(names),
            "outputs: a tensor of a negative size": any(
                isinstance(dim, int) and not 0 <= dim < 2**31
                for spec in (*self.inputs, *self.outputs)
                for dim in spec.shape
            ),
            "resize: a side out of range": not all(
                0 <= side <= MAX_SIDE for side in (self.resize.min_size, self.resize.max_size)
            )
            or (self.resize.max_size == 0 and self.resize.min_size > 0),
            "pixel_std: as many positive values as pixel_mean has": not (
                len(self.pixel_std) == len(self.pixel_mean) and min(self.pixel_std, default=1) > 0
            ),
            "size_divisibility: out of range": not 0 <= self.size_divisibility <= MAX_SIDE,
            "panoptic: needs pred_masks and sem_seg": self.panoptic is not None
            and not {"pred_masks", "sem_seg"} <= shapes.keys(),
        }
        return next((fault for fault, there in faults.items() if there), "") or self._count_fault(shapes)

    def _count_fault(self, shapes: dict[str, tuple[Dim, ...]]) -> str:
        """Name the list of names that is not as long as what it names."""
        # Expected length of each list; None where the manifest does not say.
        classes = self.num_classes if "pred_classes" in shapes else None
        stuff = shapes["sem_seg"][0] if shapes.get("sem_seg") else None
        keypoints = shapes["pred_keypoints"][1] if len(shapes.get("pred_keypoints", ())) == 3 else None
        counts = (
            ("class_names", classes),
            ("stuff_class_names", stuff),
            ("keypoint_names", keypoints),
            ("keypoint_sigmas", keypoints),
        )
        for name, count in counts:
            got = len(getattr(self, name))
            if isinstance(count, int) and got not in (0, count):
                return f"{name}: {got}, expected {count}, one for each that the model outputs, or none"
        return ""

    def differences(self, other: "Contract") -> tuple[str, ...]:
        """Name each field in which another contract differs, with both values.

        Returns:
            For each field ``"score_threshold: 0.05 here, 0.5 there"``; a tensor's fields as
            ``"outputs.scores.shape: ('R',) here, ('R', 1) there"``. Long values are cut. Empty where the
            contracts are equal. A number of classes that one of them does not say is no difference.
        """
        if None in (self.num_classes, other.num_classes):
            other = replace(other, num_classes=self.num_classes)
        return tuple(_differences(self, other, ""))


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


def _differences(here: Any, there: Any, place: str) -> list[str]:
    """Differences of two values of one field, named from the contract's fields downwards."""
    if here == there:
        return []
    if is_dataclass(here) and is_dataclass(there):
        parts = [
            (field.name, getattr(here, field.name), getattr(there, field.name)) for field in fields(here)
        ]
    elif _tensor_names(here) and _tensor_names(here) == _tensor_names(there):
        parts = list(zip(_tensor_names(here), here, there, strict=True))
    else:
        return [_difference(here, there, place)]
    return [
        line
        for name, one, other in parts
        for line in _differences(one, other, f"{place}.{name}" if place else name)
    ]


def _difference(here: Any, there: Any, place: str) -> str:
    """The line about one field; of long lists the first item that differs."""
    both_lists = isinstance(here, tuple) and isinstance(there, tuple) and len(here) == len(there)
    if not both_lists or len(here) <= SHOWN_ITEMS:
        return f"{place}: {_shown(here)} here, {_shown(there)} there"
    differing = [index for index, pair in enumerate(zip(here, there, strict=True)) if pair[0] != pair[1]]
    first = differing[0]
    more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
    return f"{place}[{first}]: {shown(here[first])} here, {shown(there[first])} there{more}"


def _tensor_names(value: Any) -> tuple[str, ...]:
    """Names of a list of tensors; empty where the value is something else."""
    is_list = isinstance(value, tuple) and all(isinstance(item, TensorSpec) for item in value)
    return tuple(spec.name for spec in value) if is_list else ()


def _shown(value: Any) -> str:
    """A field's value in a message: tensors by name, long lists by their length."""
    value = _tensor_names(value) or value
    is_long = isinstance(value, tuple) and len(value) > SHOWN_ITEMS
    return f"{len(value)} items" if is_long else shown(value)
