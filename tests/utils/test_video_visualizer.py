"""Colours of objects over the frames of a video."""

import numpy as np
import torch

from detexport.structures import Boxes, Instances
from detexport.utils.video_visualizer import VideoVisualizer

FRAME = np.full((60, 80, 3), 100, np.uint8)


def found(shift: float) -> Instances:
    boxes = torch.tensor([[10.0, 10, 30, 30], [40, 10, 70, 40]]) + shift
    return Instances(
        (60, 80), pred_boxes=Boxes(boxes), pred_classes=torch.tensor([0, 0]), scores=torch.ones(2)
    )


def test_an_object_keeps_its_colour_while_it_moves_little() -> None:
    np.random.seed(0)
    visualizer = VideoVisualizer(None)
    colours = []
    for instances in (found(0), found(2)[torch.tensor([1, 0])], found(30)):
        drawn = visualizer.draw_instance_predictions(FRAME, instances)
        assert (drawn.get_image() != FRAME).any()
        colours.append([one.color.tolist() for one in visualizer._last])
    assert colours[1] == colours[0][::-1]
    assert colours[2] != colours[1]


def test_maps_of_a_frame() -> None:
    class Metadata(dict):
        pass

    visualizer = VideoVisualizer(Metadata(stuff_classes=["sky"], thing_classes=["cat"]))
    assert (visualizer.draw_sem_seg(FRAME, np.zeros((60, 80), int)).get_image() != FRAME).any()
    segments = [{"id": 1, "category_id": 0, "isthing": True}]
    drawn = visualizer.draw_panoptic_seg_predictions(FRAME, np.ones((60, 80), int), segments)
    assert (drawn.get_image() != FRAME).any()
