"""The start of a script, and a predictor and a trainer by a configuration."""

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detexport.checkpoint import DetectionCheckpointer
from detexport.config import CfgNode
from detexport.contract import ResizeRule
from detexport.data import MetadataCatalog
from detexport.data import transforms as T
from detexport.engine.default_trainer import DefaultTrainer, default_writers
from detexport.engine.train_loop import create_ddp_model
from detexport.errors import InputError
from detexport.modeling import build_model
from detexport.system.atomic import atomic_file
from detexport.utils import comm
from detexport.utils.env import seed_all_rng
from detexport.utils.logger import setup_logger

__all__ = [
    "DefaultPredictor",
    "DefaultTrainer",
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
]

logger = logging.getLogger(__name__)


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Return a parser of the options that detectron2's scripts have.

    Args:
        epilog: text at the end of the help.
    """
    parser = argparse.ArgumentParser(epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="", metavar="FILE", help="configuration")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--eval-only", action="store_true", help="evaluate instead of training")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs per machine")
    parser.add_argument("--num-machines", type=int, default=1, help="machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine")
    parser.add_argument("--dist-url", default="auto", help="address of the process group")
    parser.add_argument("opts", default=None, nargs=argparse.REMAINDER, help="keys and values in turn")
    return parser


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Start a run: create ``OUTPUT_DIR`` with ``config.yaml``, set up the loggers, seed the generators.

    Args:
        cfg: its ``SEED`` is used unless it is negative, its ``CUDNN_BENCHMARK`` in a training.
        args: of ``default_argument_parser``; they are logged.
    """
    folder = Path(cfg.OUTPUT_DIR)
    rank = comm.get_rank()
    if comm.is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("detectron2", "detexport"):
        run_logger = setup_logger(folder, distributed_rank=rank, name=name)
    run_logger.info("arguments: %s", args)
    if comm.is_main_process():
        with atomic_file(folder / "config.yaml") as temporary:
            temporary.write_text(cfg.dump(), encoding="utf-8")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


class DefaultPredictor:
    """The model of a configuration with its weights and preprocessing.

    It resizes by ``INPUT.MIN_SIZE_TEST`` and ``INPUT.MAX_SIZE_TEST``, and converts the channels to
    ``INPUT.FORMAT``. Attributes: ``cfg``, ``model``, ``metadata`` of the first data set of
    ``DATASETS.TEST``, ``aug``, ``input_format``.

    Args:
        cfg: a configuration; ``MODEL.WEIGHTS`` names the checkpoint, a file or a URL. Without one the
            parameters are random, and a warning is logged.

    Raises:
        ConfigError: the configuration names something that does not exist or is not supported.
        CheckpointError: the checkpoint cannot be downloaded or read, or does not match the model.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg).eval()
        if self.cfg.MODEL.WEIGHTS:
            DetectionCheckpointer(self.model).load(self.cfg.MODEL.WEIGHTS, strict=True)
        else:
            logger.warning("MODEL.WEIGHTS is empty: the predictor's parameters are random")
        if self.cfg.DATASETS.TEST:
            self.metadata = MetadataCatalog.get(self.cfg.DATASETS.TEST[0])
        # A model may have its own rule, as torchvision's do; else the configuration's applies.
        configured = ResizeRule(self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST)
        resize = getattr(self.model, "resize", configured)
        self.aug = T.ResizeShortestEdge(resize.min_size, resize.max_size)
        self.input_format: str = self.cfg.INPUT.FORMAT

    @torch.no_grad()
    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """Run the model on one image.

        Args:
            original_image: uint8 (H, W, 3), BGR.

        Returns:
            the model's output in px of the given image: see the model's ``forward``.

        Raises:
            InputError: the image has another type or shape.
        """
        _check_image(original_image)
        height, width = original_image.shape[:2]
        image = original_image[:, :, ::-1] if self.input_format == "RGB" else original_image
        image = self.aug.get_transform(image).apply_image(image)
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        output: dict[str, Any] = self.model([{"image": tensor, "height": height, "width": width}])[0]
        return output


def _check_image(image: Any) -> None:
    array = isinstance(image, np.ndarray)
    if array and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return
    raise InputError(
        "this is not an image",
        got=f"{image.dtype} {image.shape}" if array else type(image).__name__,
        expected="a numpy array uint8 (H, W, 3), BGR",
        remedy="read the file with detexport.data.detection_utils.read_image(path)",
    )
