import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detexport.checkpoint.read import write_state_dict
from detexport.config import get_cfg
from detexport.config.cfg import CfgNode, load_cfg
from detexport.contract import ResizeRule
from detexport.data import MetadataCatalog, resize_image, resized_size
from detexport.engine import DefaultPredictor, default_argument_parser, default_setup
from detexport.errors import CheckpointError, InputError
from detexport.modeling import build_model

CONFIG = Path(__file__).parents[2] / "conf/detectron2/mask_rcnn.yaml"
IMAGE = np.random.default_rng(0).integers(0, 256, (60, 81, 3), dtype=np.uint8)


def new_cfg(*overrides: Any) -> CfgNode:
    cfg = load_cfg(CONFIG)
    cfg.merge_from_list(["MODEL.RESNETS.DEPTH", 18, "INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 120])
    cfg.merge_from_list(list(overrides))
    return cfg


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_model(new_cfg())
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    write_state_dict(model.state_dict(), path)
    return path


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_images_are_resized_and_converted_for_the_model(weights: Path, order: str) -> None:
    cfg = new_cfg("MODEL.WEIGHTS", str(weights), "INPUT.FORMAT", order, "DATASETS.TEST", ("predictor_test",))
    predictor = DefaultPredictor(cfg)
    found = predictor(IMAGE)["instances"]
    assert not found.scores.requires_grad
    channels = IMAGE.transpose(2, 0, 1) if order == "BGR" else IMAGE.transpose(2, 0, 1)[::-1]
    resized = resize_image(channels, resized_size(60, 81, ResizeRule(96, 120)))
    assert resized.shape == (3, 89, 120)
    with torch.no_grad():
        example = {"image": torch.from_numpy(resized), "height": 60, "width": 81}
        expected = predictor.model([example])[0]["instances"]
    assert len(found) > 0
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.pred_masks, expected.pred_masks)
    assert found.image_size == (60, 81)
    assert predictor.metadata is MetadataCatalog.get("predictor_test")
    assert predictor.input_format == order
    MetadataCatalog.remove("predictor_test")


def test_the_configuration_is_copied(weights: Path) -> None:
    cfg = new_cfg("MODEL.WEIGHTS", str(weights))
    predictor = DefaultPredictor(cfg)
    cfg.INPUT.FORMAT = "BGR"
    assert predictor.cfg.INPUT.FORMAT == "RGB"
    assert not predictor.model.training


def test_images_may_keep_their_size(weights: Path) -> None:
    predictor = DefaultPredictor(new_cfg("MODEL.WEIGHTS", str(weights), "INPUT.MIN_SIZE_TEST", 0))
    assert predictor.aug.get_transform(IMAGE).apply_image(IMAGE) is IMAGE
    assert predictor(IMAGE)["instances"].image_size == (60, 81)


def test_incomplete_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not belong to this model"):
        DefaultPredictor(new_cfg("MODEL.WEIGHTS", str(weights), "MODEL.MASK_ON", False))
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        DefaultPredictor(new_cfg("MODEL.WEIGHTS", str(tmp_path / "none.pth")))


def test_missing_weights_log_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        predictor = DefaultPredictor(new_cfg())
    assert "parameters are random" in caplog.text
    assert predictor(IMAGE)["instances"].has("pred_masks")


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (IMAGE[:, :, 0], r"uint8 \(60, 81\)"),
        (IMAGE.transpose(2, 0, 1), r"uint8 \(3, 60, 81\)"),
        (IMAGE.astype(np.float32), r"float32 \(60, 81, 3\)"),
        (IMAGE[:0], r"uint8 \(0, 81, 3\)"),
        (torch.from_numpy(IMAGE), "Tensor"),
        (None, "NoneType"),
    ],
)
def test_other_values_than_images_are_refused(weights: Path, image: Any, got: str) -> None:
    predictor = DefaultPredictor(new_cfg("MODEL.WEIGHTS", str(weights)))
    with pytest.raises(InputError, match=rf"got: {got}; expected: a numpy array uint8 \(H, W, 3\), BGR"):
        predictor(image)


def test_an_image_of_one_pixel_is_accepted(weights: Path) -> None:
    predictor = DefaultPredictor(new_cfg("MODEL.WEIGHTS", str(weights)))
    assert predictor(IMAGE[:1, :1])["instances"].image_size == (1, 1)


def test_a_script_starts_as_in_detectron2(tmp_path: Path) -> None:
    args = default_argument_parser().parse_args(
        ["--config-file", "a.yaml", "--num-gpus", "2", "--eval-only", "SEED", "3"]
    )
    assert (args.config_file, args.num_gpus, args.eval_only, args.opts) == ("a.yaml", 2, True, ["SEED", "3"])
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(tmp_path / "out"), 3
    drawn = []
    for _ in range(2):
        default_setup(cfg, args)
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1]
    again = get_cfg()
    again.merge_from_file(tmp_path / "out/config.yaml")
    assert again == cfg
    assert "config_file='a.yaml'" in (tmp_path / "out/log.txt").read_text()
    for name in ("detectron2", "detexport"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
