"""ROIAlign (He et al. 2017) as a module."""

from torch import Tensor, nn
from torchvision.ops import roi_align

__all__ = ["ROIAlign", "roi_align"]


class ROIAlign(nn.Module):
    """Bilinear samples of a feature map in the cells of a grid over each box, averaged per cell.

    Args:
        output_size: height and width of the grid in cells, or one number for both.
        spatial_scale: factor from the boxes' coordinates to cells of the feature map.
        sampling_ratio: samples per cell and axis; 0 adapts to the box.
        aligned: shift the samples by half a pixel, so that a box is exact; without it a box is at least one
            pixel large, as in older models.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool (N, C, H, W) over (R, 5) boxes, the index of the image and XYXY, to (R, C, *output_size)."""
        return roi_align(
            input,
            rois.to(input.dtype),
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
        )
