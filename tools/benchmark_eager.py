"""Benchmark the eager model: its time, and the time its FLOPs take at the rate of a matrix product.

The published Mask R-CNN (ResNet-50, FPN) on an image of 800 x 1216 px with 100 detections. Its weights are
random: the time depends only on the number of candidates, which is that of a trained model.

    python tools/benchmark_eager.py
"""

import resource
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import trange
from typer import Option, run

from detexport.model_zoo import get_config
from detexport.modeling import build_model

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
CANDIDATES = 1000
"""Boxes above the score threshold, before NMS and the limit of 100 detections."""
MATRIX = 2048


def main(
    height: Annotated[int, Option(help="of the image, in px")] = 800,
    width: Annotated[int, Option(help="of the image, in px")] = 1216,
    threads: Annotated[int, Option(help="of one operator")] = 2,
    rounds: Annotated[int, Option(help="each: the matrix product, the model, the matrix product")] = 10,
    channels_last: Annotated[bool, Option(help="memory format of the weights")] = True,
) -> None:
    """Print the model's time, the time that its FLOPs need, their ratio and the peak memory."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    with torch.inference_mode():
        model = random_mask_rcnn(image)
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        with FlopCounterMode(display=False) as counter:
            detections = len(model([{"image": image}])[0]["instances"])
        flops = counter.get_total_flops()
        left, right = torch.rand(2, MATRIX, MATRIX).unbind()
        products, seconds = [], []
        for _ in trange(rounds, unit="round", disable=not sys.stderr.isatty()):
            # Before and after each run, so that a slow phase of the machine affects both.
            before = timed(lambda: torch.mm(left, right))
            seconds.append(timed(lambda: model([{"image": image}])))
            products.append((before + timed(lambda: torch.mm(left, right))) / 2)
    product_flops = 2 * MATRIX**3
    ratio = median(
        second * product_flops / (flops * product) for second, product in zip(seconds, products, strict=True)
    )
    rate = product_flops / median(products)
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{CONFIG}, {height} x {width} px, {threads} threads, {detections} detections")
    print(f"counted          {flops / 1e9:8.1f} GFLOP")
    print(f"matrix products  {rate / 1e9:8.1f} GFLOP/s (float32, {MATRIX} x {MATRIX})")
    print(f"these FLOPs need {flops / rate:8.2f} s at that rate")
    print(f"the model takes  {median(seconds):8.2f} s (median of {rounds}, from {min(seconds):.2f} s)")
    print(f"ratio            {ratio:8.2f} (median of the rounds' ratios)")
    print(f"peak memory      {peak_gib:8.2f} GiB resident, torch itself included")


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    start = perf_counter()
    call()
    return perf_counter() - start


def random_mask_rcnn(image: torch.Tensor) -> Any:
    """Build the model with random weights, and a score threshold for ``CANDIDATES`` boxes on ``image``."""
    cfg = get_config(CONFIG)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    for name, buffer in model.backbone.named_buffers():
        if name.endswith("norm.weight"):
            buffer.fill_(0.5)  # with full-strength random residual branches the boxes overflow
    images = model.preprocess_image([{"image": image}])
    features = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, features)
    heads = model.roi_heads
    levels = [features[name] for name in heads.in_features]
    pooled = heads.box_pooler(levels, [instances.proposal_boxes for instances in proposals])
    logits, _ = heads.box_predictor(heads.box_head(pooled))
    scores = heads.box_predictor.probabilities(logits).flatten()
    heads.box_predictor.score_threshold = float(scores.topk(min(CANDIDATES, len(scores))).values[-1])
    return model


if __name__ == "__main__":
    run(main)
