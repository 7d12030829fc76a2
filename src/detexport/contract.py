"""The I/O contract of a model: its graph's inputs and outputs, and the processing before and after them.

The names of ONNX's inputs and outputs, the signature in the registry, the pre-processing and the
post-processing are all derived from this one value.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from detexport.errors import ArtifactError, ConfigError, ExportError, listed, shown
from detexport.system.json_values import decode, is_text

Dim = int | str
"""A fixed size, or the name of a dynamic one: H, W of the image, height, width of the output, R rows."""

# fmt: off
COCO_KEYPOINT_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
    0.089, 0.089,
)
# fmt: on
"""OKS sigmas of COCO's 17 person keypoints: https://cocodataset.org/#keypoints-eval."""

SHOWN_ITEMS = 5
"""Most items of a list in a message."""

MAX_SIDE = 65_535
"""Longest side of an image or output in px: that of the largest JPEG."""


def checked_names(names: Any, what: str) -> tuple[str, ...]:
    """Check that class names are a list of non-empty strings, and return them.

    YAML reads unquoted 1, yes, no and null as other types.

    Args:
        names: the value to check.
        what: its description in messages.

    Raises:
        ConfigError: they are something else.
    """
    if isinstance(names, str | bytes) or not isinstance(names, Sequence):
        wrong = [f"{names!r}, which is not a list"]
    else:
        wrong = [f"{name!r}, which is not a string" for name in names if not isinstance(name, str)]
        texts = [name for name in names if isinstance(name, str)]
        wrong += [f"{name!r}, which UTF-8 cannot encode" for name in texts if not is_text(name)]
        wrong += ["an empty name"] if not all(map(str.strip, texts)) else []
    if wrong:
        raise ConfigError(
            f"{what} are not names of classes",
            got=listed(wrong),
            expected="a list of strings",
            remedy='put them in quotes, as in ["0", "yes", "cat"]',
        )
    return tuple(names)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output tensor of a graph.

    Args:
        name: name in the graph and in every schema made from it.
        dtype: numpy's name, ``"uint8"``, ``"float32"``, ``"int64"``.
        shape: for each dimension a size, or the name of a dynamic one.
        meaning: description for people, with units and frame.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    meaning: str


@dataclass(frozen=True)
class ResizeRule:
    """The resize before the graph: shortest edge ``min_size`` px, longest edge at most ``max_size`` px.

    ``min_size`` 0 disables it (``INPUT.MIN_SIZE_TEST`` and ``INPUT.MAX_SIZE_TEST``).
    """

    min_size: int
    max_size: int

    @property
    def text(self) -> str:
        """The rule in words, for people."""
        if not self.min_size:
            return "none: images keep their size"
        return f"shortest edge to {self.min_size} px, longest at most {self.max_size} px"


@dataclass(frozen=True)
class PanopticRule:
    """How post-processing combines instances and ``sem_seg`` into ``panoptic_seg`` (Kirillov et al. 2019).

    Args:
        overlap_threshold: an instance is dropped if better ones cover a larger fraction of it.
        stuff_area_limit: stuff segments of fewer px are dropped.
        instances_score_threshold: instances with a lower score are dropped.
    """

    overlap_threshold: float
    stuff_area_limit: int
    instances_score_threshold: float


@dataclass(frozen=True)
class Contract:
    """The I/O contract of a model's graph.

    Args:
        inputs: the graph's input tensors.
        outputs: the graph's output tensors, in order; boxes are XYXY in px, of the input image for a raw
            graph, of the output for a pasted one: see ``ending``.
        channel_order: order of the image's channels, ``"RGB"`` or ``"BGR"``.
        resize: how an image is resized before the graph (never inside it).
        pixel_mean: subtracted inside the graph, one value per channel, on the scale 0..255.
        pixel_std: divides inside the graph, one value per channel.
        size_divisibility: the graph pads right and bottom with zeros to a multiple of this, after
            normalization.
        class_names: the name of each index in ``pred_classes``.
        score_threshold: detections have a greater score.
        nms_threshold: of two boxes of one class with a greater IoU, the one with the lower score is dropped.
        max_detections: most detections per image; negative: no limit.
        mask_threshold: a pixel belongs to a mask if its probability is at least this.
        stuff_class_names: the name of each channel of ``sem_seg``; in a model that also detects instances,
            channel 0 stands for all things.
        keypoint_names: the name of each keypoint; empty if unnamed.
        keypoint_sigmas: the OKS sigma of each keypoint; empty selects the default: see ``oks_sigmas``.
        panoptic: how instances and ``sem_seg`` are combined; None if they are not.
        num_classes: number of indices in ``pred_classes``; None if unknown.
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
        """Check the names, which go into every schema that is made from the contract.

        Raises:
            ConfigError: they are not strings.
        """
        for kind in ("class_names", "stuff_class_names", "keypoint_names"):
            checked_names(getattr(self, kind), f"the {kind} of a contract")

    def class_name(self, index: int, *, stuff: bool = False) -> str:
        """Return the name of a thing or stuff class; ``"class 3"`` if the contract has no names.

        Raises:
            ArtifactError: the contract has fewer names than the model has classes.
        """
        names = self.stuff_class_names if stuff else self.class_names
        if not names:
            return f"class {index}"
        if not 0 <= index < len(names):
            raise ArtifactError(
                "the model predicts a class that its contract does not name",
                got=f"class index {index} with {len(names)} names: {listed(names)}",
                expected="a name for each class of the model",
                remedy="export the model again with one name per class, or with none",
            )
        return names[index]

    @property
    def graph_end(self) -> Literal["raw", "pasted"]:
        """``"raw"`` (raw outputs), or ``"pasted"`` (post-processing included, in the frame of the output)."""
        return "pasted" if OUTPUT_SIZE in self.inputs else "raw"

    def ending(self, graph_end: str) -> "Contract":
        """Return the contract of the same model's graph with another end.

        Args:
            graph_end: ``"raw"`` or ``"pasted"``. A pasted graph has the further input ``output_size``, and
                outputs in that frame: boxes scaled and clipped, without empty ones, masks pasted, semantic
                logits resized. It does not combine them (``panoptic``).

        Raises:
            ExportError: ``graph_end`` is unknown, or ``"raw"`` for a pasted graph.
        """
        if graph_end == self.graph_end:
            return self
        if graph_end != "pasted":
            raise ExportError(
                "a graph cannot have this end",
                got=f"graph_end: {graph_end!r} of a {self.graph_end} graph",
                expected="raw or pasted; a pasted graph cannot become raw",
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
        """The keys of the eager model's output that post-processing returns for an image."""
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
        """The standard deviation of each keypoint's annotations, relative to the root of the object's area.

        By default those of COCO for 17 keypoints, none for other numbers.
        """
        shapes = {spec.name: spec.shape for spec in self.outputs}
        keypoints = shapes["pred_keypoints"][1] if len(shapes.get("pred_keypoints", ())) > 1 else 0
        default = COCO_KEYPOINT_SIGMAS if keypoints == len(COCO_KEYPOINT_SIGMAS) else ()
        return self.keypoint_sigmas or default

    def to_json(self) -> dict[str, Any]:
        """Return the contract as plain JSON values, without ``num_classes`` if it is None."""
        unknown = ("num_classes",) if self.num_classes is None else ()
        return {name: value for name, value in asdict(self).items() if name not in unknown}

    @classmethod
    def from_json(cls, value: Any, place: str = "contract") -> "Contract":
        """Rebuild a contract from the value of ``to_json``.

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
        """Return the field that contradicts another one or is out of range, and why; empty if none does."""
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
        """Return the list of names or sigmas with a wrong length; empty if there is none."""
        # Expected length of each list; None if unknown.
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
        """Return each field in which another contract differs, with both values.

        Returns:
            For each field ``"score_threshold: 0.05 here, 0.5 there"``; a tensor's fields as
            ``"outputs.scores.shape: ('R',) here, ('R', 1) there"``. Long values are cut. Empty if the
            contracts are equal. An unknown ``num_classes`` equals any number.
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

ROTATED_DETECTION_OUTPUTS = (
    TensorSpec(
        "pred_boxes",
        "float32",
        ("R", 5),
        "centre x and y, width and height in px of the input image, angle in degrees, counter-clockwise",
    ),
    *DETECTION_OUTPUTS[1:],
)


def mask_output(resolution: int) -> TensorSpec:
    """Return the spec of a raw graph's masks: probabilities in a grid over each box."""
    return TensorSpec(
        "pred_masks",
        "float32",
        ("R", resolution, resolution),
        "probability of the predicted class in each cell of a grid over the box",
    )


def keypoint_output(num_keypoints: int) -> TensorSpec:
    """Return the spec of the keypoints of each detection."""
    return TensorSpec(
        "pred_keypoints",
        "float32",
        ("R", num_keypoints, 3),
        "x and y in px of the input image, and a score, positive",
    )


def _in_output_frame(spec: TensorSpec) -> TensorSpec:
    """Return a raw graph's output spec as that of a pasted graph."""
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
    """Return the differences of two values of a field, each with its path from the contract."""
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
    """Return the message for one field; for long lists, the first item that differs."""
    both_lists = isinstance(here, tuple) and isinstance(there, tuple) and len(here) == len(there)
    if not both_lists or len(here) <= SHOWN_ITEMS:
        return f"{place}: {_shown(here)} here, {_shown(there)} there"
    differing = [index for index, pair in enumerate(zip(here, there, strict=True)) if pair[0] != pair[1]]
    first = differing[0]
    more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
    return f"{place}[{first}]: {shown(here[first])} here, {shown(there[first])} there{more}"


def _tensor_names(value: Any) -> tuple[str, ...]:
    """Return the names of a list of tensors; empty if the value is something else."""
    is_list = isinstance(value, tuple) and all(isinstance(item, TensorSpec) for item in value)
    return tuple(spec.name for spec in value) if is_list else ()


def _shown(value: Any) -> str:
    """Return a field's value for a message: tensors by name, long lists by their length."""
    value = _tensor_names(value) or value
    is_long = isinstance(value, tuple) and len(value) > SHOWN_ITEMS
    return f"{len(value)} items" if is_long else shown(value)
