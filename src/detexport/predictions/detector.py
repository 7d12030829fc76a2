"""A loaded artifact that takes images as they are: it resizes them and returns detections in their pixels."""

from dataclasses import dataclass
from typing import Any, overload

from detexport.artifact import Artifact
from detexport.contract import Contract
from detexport.data.images import ChannelOrder
from detexport.errors import InputError, memory_guard
from detexport.predictions.detections import Detections
from detexport.predictions.image_input import ImageInput, read_input
from detexport.predictions.predict_images import predict
from detexport.runtime import Runtime, Session


@dataclass(frozen=True, repr=False)
class Detector:
    """An artifact in its runtime, as ``detexport.load`` returns it.

    Args:
        session: the loaded artifact.
    """

    session: Session

    @property
    def artifact(self) -> Artifact:
        """The artifact's manifest."""
        return self.session.artifact

    @property
    def contract(self) -> Contract:
        """The model's inputs and outputs, resize rule, class names and thresholds."""
        return self.session.artifact.contract

    def __repr__(self) -> str:
        """Name the artifact and where it runs."""
        artifact = self.artifact
        what = f"{artifact.format.value}, outputs: {', '.join(self.contract.results)}"
        return f"Detector({what}, on {self.session.device}, {artifact.sha256[:12]})"

    @overload
    def __call__(
        self, image: ImageInput, *, channel_order: ChannelOrder = "RGB", score_threshold: float = 0.0
    ) -> Detections: ...

    @overload
    def __call__(self, image: list[dict[str, Any]]) -> list[dict[str, Any]]: ...

    def __call__(
        self,
        image: "ImageInput | list[dict[str, Any]]",
        *,
        channel_order: ChannelOrder = "RGB",
        score_threshold: float = 0.0,
    ) -> Detections | list[dict[str, Any]]:
        """Detect objects in one image of any size, or run the model on inputs of the eager model.

        Args:
            image: the path of an image file, a PIL image, a numpy array (H, W, 3) or a torch tensor
                (3, H, W), both uint8. A file and a PIL image are turned upright as their EXIF orientation
                says. The detector brings the channels into the model's order and resizes by the contract's
                rule; the graph normalizes. Or a list of dicts, the input of the eager model: see
                ``detexport.runtime.Runtime``, which needs torch.
            channel_order: of an array or a tensor: ``"RGB"``, as PIL and torchvision read images, or
                ``"BGR"``, as OpenCV does.
            score_threshold: instances with a greater score are returned, in addition to the model's own
                threshold.

        Returns:
            For one image its ``Detections``, numpy arrays in px of that image. For a list of dicts a list of
            dicts with ``Instances`` of torch tensors.

        Raises:
            InputError: the image is not what is described above.
            DataError: the file is not an image of 8 bits a channel, or is too large.
            ArtifactError: the resized image has a size that the graph was not exported for.
            OutOfMemoryError: the memory does not suffice; the detector stays usable.
        """
        if isinstance(image, list) and all(isinstance(one, dict) for one in image):
            _refuse_options(channel_order, score_threshold)
            return Runtime(self.session)(image)
        pixels = read_input(image, channel_order, self.contract.channel_order)
        with memory_guard(pixels.shape):
            outputs = predict(self.session, pixels, _checked_threshold(score_threshold))
        return Detections(pixels, outputs, self.contract)


def _checked_threshold(threshold: float) -> float:
    """Return the threshold.

    Raises:
        InputError: it is not in [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise InputError("score_threshold is out of range", got=threshold, expected="a number in [0, 1]")
    return threshold


def _refuse_options(channel_order: str, score_threshold: float) -> None:
    """Raise InputError if an option that is for a single image comes with a list of dicts."""
    if channel_order != "RGB" or score_threshold:
        raise InputError(
            "a list of dicts takes no options",
            got=f"channel_order={channel_order!r}, score_threshold={score_threshold}",
            expected="images in the contract's channel order; all detections are returned",
            remedy="leave the options out, or give one image as an array, a path or a PIL image",
        )
