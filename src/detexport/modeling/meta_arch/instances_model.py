"""Models whose graphs record their methods on ``Instances``: those that define no method on tensors."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from detexport.config import CfgNode
from detexport.contract import (
    DETECTION_OUTPUTS,
    ROTATED_DETECTION_OUTPUTS,
    Contract,
    PanopticRule,
    ResizeRule,
    TensorSpec,
    keypoint_output,
    mask_output,
)
from detexport.errors import ExportError
from detexport.modeling.graph import missing_graph_methods
from detexport.modeling.meta_arch.image_model import ImageModel, image_options
from detexport.modeling.meta_arch.proposal_network import OUTPUTS as PROPOSAL_OUTPUTS
from detexport.modeling.meta_arch.semantic_seg import sem_seg_output
from detexport.structures.model_output import REMEDY, fields_of_image, raw_outputs

PROBE_SIZE = (128, 160)
"""Height and width in px of the image that shows which outputs a model has."""


class InstancesModel(ImageModel):
    """The interface of exports over a model that defines ``forward`` or ``inference`` on ``Instances`` alone.

    Its graph records what ``TracingAdapter`` records: the raw outputs of one image. The fields that the model
    returns for a probe decide the outputs of its contract.

    Args:
        model: maps a list of dicts to a list of dicts with ``instances``, ``proposals`` or ``sem_seg``.
        **image_options: see ``ImageModel``. They describe what the model does itself.
    """

    def __init__(self, model: nn.Module, **image_options: Any) -> None:
        super().__init__(**image_options)
        self.model: Any = model
        self.training = model.training
        self.model_name = type(model).__name__
        self.num_classes: int | None = _first(model, "num_classes", int)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Return what the model returns."""
        return self.model(batched_inputs)

    def detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Compute the raw outputs of each image by field, in px of the image, as exported.

        Args:
            images: each (C, H, W), values 0..255.

        Raises:
            ExportError: see ``fields_of_image``.
        """
        found = [
            fields_of_image(raw_outputs(self.model, [{"image": image}]), self.model_name) for image in images
        ]
        return [
            {name: value.to(DTYPES.get(name, torch.float32)) for name, value in fields.items()}
            for fields in found
        ]

    def batch_graph(self) -> nn.Module:
        """Refuse: TorchScript does not compile code that works with ``Instances``.

        Raises:
            ExportError: always.
        """
        raise ExportError(
            f"{self.model_name} cannot be scripted",
            got="methods on Instances",
            expected="a model whose detect works with tensors",
            remedy="export it by tracing or torch_export, or extend ImageModel: docs/custom_models.md "
            "describes it",
        )

    @torch.no_grad()
    def contract(self, class_names: tuple[str, ...]) -> Contract:
        """Return the contract of the graph, with the fields that the model returns for a probe.

        Raises:
            ExportError: the model does not run on one image, or its outputs have no contract.
        """
        combination = getattr(self.model, "combination", None)
        contract = self.contract_of(
            self._outputs(),
            class_names,
            # Without a known threshold, every detection that only one side has is a difference.
            score_threshold=float(_first(self.model, "test_score_thresh", float) or 0.0),
            nms_threshold=float(_first(self.model, "test_nms_thresh", float) or 1.0),
            max_detections=_first(self.model, "max_detections_per_image", int)
            or _first(self.model, "test_topk_per_image", int)
            or -1,
        )
        names = contract.output_names
        if combination is None or not {"pred_masks", "sem_seg"} <= {*names}:
            return contract
        return replace(contract, panoptic=PanopticRule(**asdict(combination)))

    def _outputs(self) -> tuple[TensorSpec, ...]:
        was_training = self.model.training
        image = torch.randint(0, 256, (3, *PROBE_SIZE), generator=torch.Generator().manual_seed(0))
        self.model.eval()
        try:
            (fields,) = self.detect([image.to(torch.uint8).to(self.device)])
        except ExportError:
            raise
        except Exception as error:  # a model of a user may raise anything
            raise ExportError(
                f"{self.model_name} does not run on one image",
                got=f"{type(error).__name__}: {error}",
                expected="forward([{'image': (3, H, W)}]) -> one dict with Instances",
                remedy=REMEDY,
            ) from error
        finally:
            self.model.train(was_training)
        outputs: list[TensorSpec] = []
        for name, value in fields.items():
            outputs += SPECS[name](value)
        return tuple(outputs)


def _boxes(boxes: Tensor) -> tuple[TensorSpec, ...]:
    return ROTATED_DETECTION_OUTPUTS if boxes.shape[1] == 5 else DETECTION_OUTPUTS


SPECS: dict[str, Callable[[Tensor], tuple[TensorSpec, ...]]] = {
    "pred_boxes": _boxes,
    "scores": lambda _: (),
    "pred_classes": lambda _: (),
    "pred_masks": lambda masks: (mask_output(masks.shape[-1]),),
    "pred_keypoints": lambda keypoints: (keypoint_output(keypoints.shape[1]),),
    "proposal_boxes": lambda _: PROPOSAL_OUTPUTS,
    "objectness_logits": lambda _: (),
    "sem_seg": lambda logits: (sem_seg_output(logits.shape[0]),),
}
"""The specs that a field of the outputs adds to the contract; boxes bring those of scores and classes."""
DTYPES = {"pred_classes": torch.int64}
"""Types of the contract's tensors, where they are not float32."""


def is_of_a_project(model: Any) -> bool:
    """Return whether a model is a module whose class is neither of detexport nor of torch or torchvision."""
    package = type(model).__module__.partition(".")[0]
    return isinstance(model, nn.Module) and package not in ("torch", "torchvision", "detexport")


def exportable(model: nn.Module, cfg: CfgNode | None = None) -> Any:
    """Return a model with a graph and a contract: the model itself, or an ``InstancesModel`` over it.

    Args:
        model: a meta architecture.
        cfg: its configuration; None: the model's attributes describe its images.
    """
    gaps = isinstance(model, ImageModel) and missing_graph_methods(model.graph_methods())
    if hasattr(model, "image_graph") and not gaps:
        return model
    options: dict[str, Any] = {"pixel_mean": (0.0,) * 3, "pixel_std": (1.0,) * 3}
    if cfg is not None:
        options = image_options(cfg)
    for name in ("pixel_mean", "pixel_std"):
        value = getattr(model, name, None)
        if isinstance(value, Tensor) and value.numel() == 3:
            options[name] = tuple(value.flatten().tolist())
    if isinstance(getattr(model, "resize", None), ResizeRule):
        options["resize"] = model.resize
    options["input_format"] = getattr(model, "input_format", options.get("input_format"))
    backbone = getattr(model, "backbone", None)
    options["size_divisibility"] = int(getattr(backbone, "size_divisibility", 0))
    device = next((one.device for one in model.parameters()), torch.device("cpu"))
    return InstancesModel(model, **options).to(device)


def _first(model: nn.Module, name: str, kind: type) -> Any:
    """Return the attribute of the model or of the first of its modules that has it; None if none has."""
    values = (getattr(module, name, None) for module in model.modules())
    return next((value for value in values if isinstance(value, kind)), None)
