"""Call the modules of a model one by one, and record the outputs of one by a forward hook.

    python examples/partial_execution.py model.yaml [image] [--weights model_final.pth]

Each module has a ``forward`` with the types (``ImageList``, ``Instances``) and arguments of detectron2, so
the tensors between two modules are available by calling the modules separately. A forward hook gives access
to values inside a module.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detexport.checkpoint import DetectionCheckpointer
from detexport.config import get_cfg
from detexport.data import read_image, resize_image, resized_size
from detexport.modeling import build_model
from detexport.structures import Instances


@torch.no_grad()
def detections_by_parts(model: Any, inputs: list[dict[str, Any]]) -> list[Instances]:
    """Do the same as ``model.inference(inputs, do_postprocess=False)``, module by module."""
    images = model.preprocess_image(inputs)  # ImageList: normalized and padded, in one tensor
    features = model.backbone(images.tensor)  # {"p2": (N, C, H, W), ...}
    proposals, _ = model.proposal_generator(images, features)
    instances, _ = model.roi_heads(images, features, proposals)
    return instances


@torch.no_grad()
def mask_features_by_parts(model: Any, inputs: list[dict[str, Any]]) -> tuple[Tensor, list[Instances]]:
    """Return the input of the mask head: pooled features (R, C, S, S) of the detections of all images."""
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, features)
    instances, _ = model.roi_heads(images, features, proposals)
    mask_features = [features[f] for f in model.roi_heads.in_features]
    mask_features = model.roi_heads.mask_pooler(mask_features, [x.pred_boxes for x in instances])
    return mask_features, instances


@torch.no_grad()
def masks_by_parts(model: Any, inputs: list[dict[str, Any]]) -> Tensor:
    """Call the mask head, and return (R, 2S, 2S) probabilities for the class of each detection."""
    mask_features, instances = mask_features_by_parts(model, inputs)
    logits = model.roi_heads.mask_head(mask_features)
    classes = torch.cat([x.pred_classes for x in instances])
    if logits.shape[1] == 1:  # class-agnostic masks
        return logits[:, 0].sigmoid()
    return logits[torch.arange(len(classes), device=classes.device), classes].sigmoid()


@torch.no_grad()
def outputs_by_hook(model: nn.Module, inputs: list[dict[str, Any]], name: str) -> list[Any]:
    """Return the outputs of all calls of the module ``name`` while the model runs."""
    outputs: list[Any] = []
    hook = model.get_submodule(name).register_forward_hook(
        lambda module, args, output: outputs.append(output)
    )
    try:
        model(inputs)
    finally:
        hook.remove()
    return outputs


def main() -> None:
    """Print the shapes of the tensors between the modules."""
    parser = argparse.ArgumentParser(description="The tensors between the modules of a Mask R-CNN")
    parser.add_argument("config_file", type=Path)
    parser.add_argument("image", type=Path, nargs="?", help="an image file (default: a grey image)")
    parser.add_argument("--weights", type=Path, help="a checkpoint (default: random parameters)")
    args = parser.parse_args()

    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if args.weights:
        DetectionCheckpointer(model).load(args.weights, strict=True)
    image = torch.full((3, 96, 128), 127, dtype=torch.uint8)
    if args.image:
        pixels = read_image(args.image, cfg.INPUT.FORMAT)
        _, height, width = pixels.shape
        image = torch.from_numpy(resize_image(pixels, resized_size(height, width, model.resize)))
    inputs = [{"image": image}]

    mask_features, instances = mask_features_by_parts(model, inputs)
    print(f"{len(instances[0])} detections; input of the mask head: {tuple(mask_features.shape)}")
    print(f"masks: {tuple(masks_by_parts(model, inputs).shape)}")
    for logits, deltas in outputs_by_hook(model, inputs, "proposal_generator.rpn_head"):
        for level, (logit, delta) in enumerate(zip(logits, deltas, strict=True)):
            print(f"level {level}: objectness {tuple(logit.shape)}, box deltas {tuple(delta.shape)}")


if __name__ == "__main__":
    main()
