"""Meta architecture of Panoptic-DeepLab."""

from typing import Any, Dict, List, NoReturn

import torch
from torch import Tensor

from detexport.config import CfgNode, configurable
from detexport.errors import ConfigError, ExportError, InputError
from detexport.modeling.backbone import build_backbone, padding_of
from detexport.modeling.meta_arch.ground_truth import gt_sem_segs_of
from detexport.modeling.meta_arch.image_model import ImageModel, image_options
from detexport.modeling.meta_arch.semantic_seg import build_sem_seg_head, crop_to_image
from detexport.modeling.panoptic_deeplab.grouping import CenterGrouping
from detexport.modeling.panoptic_deeplab.heads import build_ins_embed_branch
from detexport.modeling.postprocessing import sem_seg_postprocess
from detexport.modeling.registries import META_ARCH_REGISTRY
from detexport.structures.model_input import output_size
from detexport.utils.catalog import MetadataCatalog

KNOWN_THINGS = {
    "cityscapes_fine_panoptic": tuple(range(11, 19)),
    "coco_2017_train_panoptic": tuple(range(80)),
    "coco_2017_val_panoptic": tuple(range(80)),
}
"""Thing classes of public data sets, by the prefix of their name; their label divisor is 1000."""
LABEL_DIVISOR = 1000
TARGETS = ("center", "center_weights", "offset", "offset_weights")
"""Keys of a training input, beside ``sem_seg``."""


@META_ARCH_REGISTRY.register()
class PanopticDeepLab(ImageModel):
    """A backbone, a semantic head, and a head of centres and offsets.

    Args:
        backbone: image -> feature maps.
        sem_seg_head: feature maps -> logits over the padded image.
        ins_embed_head: feature maps -> heatmap of centres and offsets over the padded image.
        grouping: combines the outputs.
        predict_instances: also return the instances, with masks.
        size_divisibility: images are padded to a multiple of this, in px; 0 for what the backbone needs.
        **image_options: see ``ImageModel``.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Any,
        sem_seg_head: Any,
        ins_embed_head: Any,
        grouping: CenterGrouping,
        predict_instances: bool,
        size_divisibility: int = 0,
        **image_options: Any,
    ) -> None:
        padding = padding_of(backbone)
        if size_divisibility:
            padding["size_divisibility"] = size_divisibility
        super().__init__(**padding, **image_options)
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.ins_embed_head = ins_embed_head
        self.grouping = grouping
        self.predict_instances = predict_instances
        self.num_classes: int = sem_seg_head.num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        node = cfg.MODEL.PANOPTIC_DEEPLAB
        _check_options(cfg)
        thing_ids, label_divisor = things_of(cfg)
        images = image_options(cfg)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, shapes),
            "ins_embed_head": build_ins_embed_branch(cfg, shapes),
            "grouping": CenterGrouping(
                thing_ids=thing_ids,
                label_divisor=label_divisor,
                stuff_area=node.STUFF_AREA,
                center_threshold=node.CENTER_THRESHOLD,
                nms_kernel=node.NMS_KERNEL,
                top_k=node.TOP_K_INSTANCE,
            ),
            "predict_instances": node.PREDICT_INSTANCES,
            "size_divisibility": max(node.SIZE_DIVISIBILITY, 0),
            **images,
        }

    @torch.jit.unused
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Return logits, panoptic ids and instances of each image, or in training the losses.

        Args:
            batched_inputs: one dict per image: ``image`` (C, H, W), values 0..255 in the order of
                ``input_format``; ``height`` and ``width`` of the output in px, by default the image's own. In
                training ``sem_seg`` (H, W), the class of each pixel; ``center`` (H, W) and ``offset``
                (2, H, W), the heatmap of the centres and the offsets to them, y and x in px;
                ``center_weights``, ``offset_weights`` and optionally ``sem_seg_weights`` (H, W).

        Returns:
            One dict per image: ``sem_seg`` (K, height, width) logits; ``panoptic_seg``, the id of each pixel
            (height, width) int32 and None: see ``CenterGrouping``; and, with ``predict_instances``,
            ``instances`` if there are any. In training the losses by name.

        Raises:
            InputError: an input does not match the description above.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if self.training:
            return self.losses(features, batched_inputs)
        logits = self.sem_seg_head(features)
        center, offset = self.ins_embed_head(features)
        results = []
        for index, (example, size) in enumerate(zip(batched_inputs, images.image_sizes, strict=True)):
            maps = [
                sem_seg_postprocess(one[index], size, *output_size(example))
                for one in (logits, center, offset)
            ]
            results.append(self.combine(*maps))
        return results

    @torch.jit.unused
    def combine(self, logits: Tensor, center: Tensor, offset: Tensor) -> dict[str, Any]:
        """Return the outputs of an image for its maps in the size of the output: see ``forward``."""
        panoptic = self.grouping.panoptic(logits.argmax(dim=0), center, offset)
        result: dict[str, Any] = {"sem_seg": logits, "panoptic_seg": (panoptic.to(torch.int32), None)}
        if self.predict_instances:
            instances = self.grouping.instances(panoptic, logits, center)
            if instances is not None:
                result["instances"] = instances
        return result

    @torch.jit.unused
    def losses(self, features: dict[str, Tensor], batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute ``loss_sem_seg``, ``loss_center`` and ``loss_offset``: see ``forward``."""
        for index, example in enumerate(batched_inputs):
            missing = [key for key in TARGETS if key not in example]
            if missing:
                raise InputError(
                    f"input {index} lacks targets of Panoptic-DeepLab",
                    got=f"keys {sorted(example)}",
                    expected=", ".join(("sem_seg", *TARGETS)),
                    remedy="compute them from the panoptic annotations",
                )
        weights = None
        if all("sem_seg_weights" in example for example in batched_inputs):
            weights = [example["sem_seg_weights"].to(self.device) for example in batched_inputs]
        sem_seg = gt_sem_segs_of(batched_inputs, self.device)
        targets = [[example[key].to(self.device) for example in batched_inputs] for key in TARGETS]
        return {
            **self.sem_seg_head.weighted_losses(features, sem_seg, weights),
            **self.ins_embed_head.losses(features, *targets),
        }

    @torch.jit.unused
    def contract(self, class_names: tuple[str, ...]) -> NoReturn:
        """Raise ExportError: the contract has no fields for centres and offsets.

        Raises:
            ExportError: always.
        """
        raise ExportError(
            "PanopticDeepLab cannot be exported",
            got="maps of centres and offsets, which the contract does not describe",
            expected="outputs such as instances or sem_seg",
            remedy="run it in eager mode, or trace its method detect yourself",
        )

    def detect(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """Compute the maps of each image in its size, for graphs: ``sem_seg``, ``center`` and ``offset``.

        Args:
            images: each (C, H, W), values 0..255.
        """
        batch, image_sizes = self.pad_images(
            [self.normalize(image) for image in images], self.size_divisibility
        )
        features = self.backbone(batch)
        logits = self.sem_seg_head(features)
        center, offset = self.ins_embed_head(features)
        results: List[Dict[str, Tensor]] = []
        for index, size in enumerate(image_sizes):
            results.append(
                {
                    "sem_seg": crop_to_image(logits[index], size),
                    "center": crop_to_image(center[index], size),
                    "offset": crop_to_image(offset[index], size),
                }
            )
        return results


def things_of(cfg: CfgNode) -> tuple[tuple[int, ...], int]:
    """Return the classes that have instances, and the label divisor, of the data set ``DATASETS.TRAIN[0]``.

    Raises:
        ConfigError: the data set is not known.
    """
    names = cfg.DATASETS.TRAIN
    name = names[0] if names else ""
    metadata = MetadataCatalog.get(name) if name in MetadataCatalog.list() else None
    ids = metadata.get("thing_dataset_id_to_contiguous_id") if metadata else None
    if metadata and ids:
        return tuple(sorted(ids.values())), int(metadata.get("label_divisor", LABEL_DIVISOR))
    for known, things in KNOWN_THINGS.items():
        if name.startswith(known):
            return things, LABEL_DIVISOR
    raise ConfigError(
        "the thing classes of Panoptic-DeepLab are unknown",
        got=f"DATASETS.TRAIN: {list(names)}, whose metadata has no thing_dataset_id_to_contiguous_id",
        expected=f"a name that starts with one of {', '.join(KNOWN_THINGS)}, or registered metadata",
        remedy=f"MetadataCatalog.get({name or 'NAME'!r}).set(thing_dataset_id_to_contiguous_id=..., "
        "label_divisor=...)",
    )


def _check_options(cfg: CfgNode) -> None:
    node = cfg.MODEL.PANOPTIC_DEEPLAB
    if node.BENCHMARK_NETWORK_SPEED:
        raise ConfigError(
            "the benchmark mode of Panoptic-DeepLab is not supported",
            got="MODEL.PANOPTIC_DEEPLAB.BENCHMARK_NETWORK_SPEED: True",
            expected="False",
            remedy="set it to False",
        )
    if node.USE_DEPTHWISE_SEPARABLE_CONV != cfg.MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV:
        raise ConfigError(
            "the two heads of Panoptic-DeepLab must use the same kind of convolution",
            got=f"MODEL.PANOPTIC_DEEPLAB.USE_DEPTHWISE_SEPARABLE_CONV: {node.USE_DEPTHWISE_SEPARABLE_CONV}, "
            "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV: the opposite",
            expected="equal values",
            remedy="set both to the same value",
        )
