"""Parameter names of older checkpoints of torchvision and PointRend, and their translation."""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from detexport.errors import CheckpointError, shortened

OLDER = (
    # torchvision: single convolutions became the first layer of a block.
    # Convolutions of the feature pyramid and of the proposal network.
    (re.compile(r"(.*fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)"), lambda m: f"{m[1]}.0.{m[2]}"),
    (re.compile(r"(rpn\.head\.conv)\.(weight|bias)"), lambda m: f"{m[1]}.0.0.{m[2]}"),
    # The mask head numbered its convolutions from 1.
    (
        re.compile(r"(roi_heads\.mask_head)\.mask_fcn(\d{1,3})\.(weight|bias)"),
        lambda m: f"{m[1]}.{int(m[2]) - 1}.0.{m[3]}",
    ),
    # RetinaNet's heads: each second layer was an activation.
    (
        re.compile(r"(head\.(?:classification|regression)_head\.conv)\.(\d{1,3})\.(weight|bias)"),
        lambda m: f"{m[1]}.{int(m[2]) // 2}.0.{m[3]}",
    ),
    # PointRend: both networks were children of the ROI heads, and are now of the mask head.
    (re.compile(r"roi_heads\.mask_point_head\.(.+)"), lambda m: f"roi_heads.mask_head.point_head.{m[1]}"),
    (
        re.compile(r"roi_heads\.mask_coarse_head\.(?:coarse_mask_(?=fc))?(.+)"),
        lambda m: f"roi_heads.mask_head.coarse_head.{m[1]}",
    ),
)


def with_new_names(state_dict: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Rename tensors from old names to the new names that a model has; other tensors keep their names.

    Raises:
        CheckpointError: the file has a tensor under its old and its new name.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        new = _new_name(name, wanted)
        if new in renamed or (new != name and new in state_dict):
            raise CheckpointError(
                "two tensors of the checkpoint are the same parameter",
                got=f"an older name of {shortened(new, 100)}, and that name or another older one",
                remedy="remove one of them from the file",
            )
        renamed[new] = tensor
    return renamed


def _new_name(name: str, wanted: Collection[str]) -> str:
    if name not in wanted:
        for old, rename in OLDER:
            match = old.fullmatch(name)
            if match and rename(match) in wanted:
                return rename(match)
    return name
