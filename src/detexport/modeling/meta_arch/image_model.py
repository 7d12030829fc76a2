"""Base class of the meta architectures: preprocessing of images, and the inputs and outputs of the graph."""

from collections.abc import Sequence
from typing import Any, List

import torch
from torch import Tensor, nn

from detexport.config import CfgNode
from detexport.contract import IMAGE, Contract, ResizeRule, TensorSpec
from detexport.errors import ConfigError, InputError
from detexport.modeling.box_regression import require_scriptable_transforms
from detexport.modeling.graph import BatchGraph, GraphMethods, ImageGraph, require_graph_methods
from detexport.modeling.graph_segment import BATCH, IMAGE_PORT, Segment, own_methods
from detexport.modeling.postprocessing import detector_postprocess
from detexport.structures import ImageList, Instances
from detexport.structures.image_list import SquarePadding, pad_images
from detexport.structures.model_input import checked_image, output_size

DEFAULT_RESIZE = ResizeRule(800, 1333)
"""Resize rule of a model that is built without a configuration: that of detectron2's defaults."""


def default_resize(square_pad: int) -> ResizeRule:
    """Return the default resize rule: images fit into ``square_pad``, or detectron2's default if it is 0."""
    return ResizeRule(square_pad, square_pad) if square_pad else DEFAULT_RESIZE


class ImageModel(nn.Module):
    """Base class of models: normalization and padding of images, and the graphs over ``detect``.

    A subclass adds ``forward`` for Python callers, ``detect`` for graphs, ``num_classes`` and ``contract``.

    Args:
        pixel_mean: mean of each channel, on the scale 0..255, in the order of ``input_format``.
        pixel_std: standard deviation of each channel, on the same scale and in the same order.
        input_format: order of the image's channels, ``"BGR"`` (the default) or ``"RGB"``.
        resize: how images are resized before the model; by default ``default_resize``.
        size_divisibility: images are padded to a multiple of this, in px; 0 for no padding.
        square_pad: side in px of the square to which images are padded first; 0 for none.
        vis_period: not supported: training images are not recorded.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    __jit_unused_properties__ = ["device"]  # noqa: RUF012 - TorchScript reads this list

    def __init__(
        self,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str | None = None,
        resize: ResizeRule | None = None,
        size_divisibility: int = 0,
        square_pad: int = 0,
        vis_period: int = 0,
    ) -> None:
        super().__init__()
        if vis_period:
            raise ConfigError(
                "training images are not recorded",
                got=f"vis_period={vis_period}",
                expected="0, the default",
                remedy="leave vis_period at 0, and draw images with detexport.utils.visualizer",
            )
        self.input_format = input_format or "BGR"
        self.resize = resize or default_resize(square_pad)
        self.size_divisibility = size_divisibility
        # For a free size a function, which scripting compiles.
        self.pad_images: Any = SquarePadding(square_pad) if square_pad else pad_images
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.pixel_mean.device

    @torch.jit.unused
    def input_images(self, batched_inputs: list[dict[str, Any]]) -> list[Tensor]:
        """Return the checked images of the inputs, on the model's device.

        Raises:
            InputError: there is no image, or ``checked_image`` rejects one.
        """
        if not isinstance(batched_inputs, list | tuple) or not batched_inputs:
            raise InputError(
                "a batch needs at least one image",
                got="none" if isinstance(batched_inputs, list | tuple) else type(batched_inputs).__name__,
                expected="a list of dicts, one per image",
                remedy="give one dict per image",
            )
        channels = self.pixel_mean.shape[0]
        return [
            checked_image(example, index, channels).to(self.device)
            for index, example in enumerate(batched_inputs)
        ]

    @torch.jit.unused
    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalize, pad and batch the images.

        Raises:
            InputError: see ``input_images``.
        """
        images = [self.normalize(image) for image in self.input_images(batched_inputs)]
        return ImageList(*self.pad_images(images, self.size_divisibility))

    def normalize(self, image: Tensor) -> Tensor:
        """Normalize (C, H, W), values 0..255 of any dtype, to float32 by ``pixel_mean`` and ``pixel_std``."""
        return (image.to(torch.float32) - self.pixel_mean) / self.pixel_std

    @torch.jit.unused
    def contract_of(
        self,
        outputs: tuple[TensorSpec, ...],
        class_names: tuple[str, ...],
        *,
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
    ) -> Contract:
        """Return the contract of a graph from one image to ``outputs``."""
        return Contract(
            inputs=(IMAGE,),
            outputs=outputs,
            channel_order="RGB" if self.input_format == "RGB" else "BGR",
            resize=self.resize,
            pixel_mean=tuple(self.pixel_mean.flatten().tolist()),
            pixel_std=tuple(self.pixel_std.flatten().tolist()),
            size_divisibility=self.size_divisibility,
            class_names=class_names,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            max_detections=max_detections,
        )

    @torch.jit.unused
    def postprocess(
        self, instances: list[Instances], batched_inputs: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Rescale the detections of each image to the output size that its input requests."""
        return [
            {"instances": detector_postprocess(found, *output_size(example))}
            for found, example in zip(instances, batched_inputs, strict=True)
        ]

    @torch.jit.unused
    def graph_methods(self) -> GraphMethods:
        """Return the documented methods that a graph replaces, each with the method that it calls."""
        return [
            (self, "forward", "detect"),
            (self, "inference", "detect"),
            (self, "preprocess_image", "normalize"),
        ]

    @torch.jit.unused
    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        """Return the graph from one image to a tuple of tensors, for tracing and ``torch.export``.

        Raises:
            ExportError: see ``require_graph_methods``.
        """
        require_graph_methods(self.graph_methods())
        return ImageGraph(self, output_names)

    @torch.jit.unused
    def batch_graph(self) -> nn.Module:
        """Return the graph from images of different sizes to the outputs of each by field, for scripting.

        Raises:
            ConfigError: see ``require_scriptable_transforms``.
            ExportError: see ``require_graph_methods``.
        """
        require_graph_methods(self.graph_methods())
        require_scriptable_transforms(self)
        return BatchGraph(self)


def image_options(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of ``ImageModel`` for a configuration.

    Raises:
        ConfigError: the channel order is unknown, or the normalization does not fit the channels.
    """
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ConfigError(
            "unsupported INPUT.FORMAT",
            got=cfg.INPUT.FORMAT,
            expected="BGR or RGB",
            remedy="correct INPUT.FORMAT",
        )
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ConfigError(
            "the normalization does not fit the image's channels",
            got=f"MODEL.PIXEL_MEAN: {list(mean)}, MODEL.PIXEL_STD: {list(std)}",
            expected="three numbers each, the latter positive",
            remedy="correct MODEL.PIXEL_MEAN and MODEL.PIXEL_STD",
        )
    return {
        "pixel_mean": tuple(mean),
        "pixel_std": tuple(std),
        "input_format": cfg.INPUT.FORMAT,
        "resize": ResizeRule(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
    }


class _Preprocess(nn.Module):
    """image -> normalized, padded batch."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = own_methods(model)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        batch, _ = self.model.pad_images([self.model.normalize(tensors[0])], self.model.size_divisibility)
        return [batch]


def preprocess_segment(model: ImageModel) -> Segment:
    """Return the segment that normalizes and pads the image."""
    return Segment("preprocess", _Preprocess(model), (IMAGE_PORT,), BATCH)
