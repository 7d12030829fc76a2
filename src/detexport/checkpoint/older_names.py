"""Names of older detection checkpoints, torchvision's and PointRend's, which their own models still read."""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from detexport.errors import CheckpointError, shortened

OLDER = (
    # torchvision: some convolutions stood alone then that are the first layer of a block now.
    # A convolution of the feature pyramid, or of the proposal network.
    (re.compile(r"(.*fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)"), lambda m: f"{m[1]}.0.{m[2]}"),
    (re.compile(r"(rpn\.head\.conv)\.(weight|bias)"), lambda m: f"{m[1]}.0.0.{m[2]}"),
    # The mask head counted its convolutions from 1.
    (
        re.compile(r"(roi_heads\.mask_head)\.mask_fcn(\d{1,3})\.(weight|bias)"),
        lambda m: f"{m[1]}.{int(m[2]) - 1}.0.{m[3]}",
    ),
    # RetinaNet's heads: every second layer was an activation.
    (
        re.compile(r"(head\.(?:classification|regression)_head\.conv)\.(\d{1,3})\.(weight|bias)"),
        lambda m: f"{m[1]}.{int(m[2]) // 2}.0.{m[3]}",
    ),
    # PointRend: both its networks were the ROI heads' own before they were the mask head's.
    (re.compile(r"roi_heads\.mask_point_head\.(.+)"), lambda m: f"roi_heads.mask_head.point_head.{m[1]}"),
    (
        re.compile(r"roi_heads\.mask_coarse_head\.(?:coarse_mask_(?=fc))?(.+)"),
        lambda m: f"roi_heads.mask_head.coarse_head.{m[1]}",
    ),
)


def with_new_names(state_dict: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Rename the tensors that a model wants by their new names alone; the others keep theirs.

    Raises:
        CheckpointError: the file holds a tensor by its old name and by its new one.
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
