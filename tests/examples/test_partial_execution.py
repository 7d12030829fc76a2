"""The modules, called one by one, return the same as the whole model."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from detexport.checkpoint import write_state_dict
from detexport.config.cfg import load_cfg
from detexport.modeling import build_model

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "examples/partial_execution.py"
CONFIG = ROOT / "conf/detectron2/mask_rcnn.yaml"


@pytest.fixture(scope="module")
def program() -> Any:
    spec = importlib.util.spec_from_file_location("partial_execution", PROGRAM)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=[False, True], ids=["mask per class", "class-agnostic"])
def model(request: pytest.FixtureRequest) -> Any:
    cfg = load_cfg(CONFIG)
    cfg.merge_from_list(["MODEL.RESNETS.DEPTH", 18, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", request.param])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    return model


@pytest.fixture(scope="module")
def inputs() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *size), generator=generator) for size in ((64, 96), (80, 50))]
    return [{"image": image.to(torch.uint8)} for image in images]


@torch.no_grad()
def test_modules_one_by_one_equal_the_whole_model(
    program: Any, model: Any, inputs: list[dict[str, Any]]
) -> None:
    whole = model.inference(inputs, do_postprocess=False)
    parts = program.detections_by_parts(model, inputs)
    assert min(len(instances) for instances in whole) > 0
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_masks, other.pred_masks)


@torch.no_grad()
def test_mask_features_are_the_input_of_the_mask_head(
    program: Any, model: Any, inputs: list[dict[str, Any]]
) -> None:
    features, instances = program.mask_features_by_parts(model, inputs)
    detections = sum(len(one) for one in instances)
    assert features.shape == (detections, 32, 14, 14)
    (pooled,) = program.outputs_by_hook(model, inputs, "roi_heads.mask_head.mask_fcn1")
    assert torch.equal(model.roi_heads.mask_head.mask_fcn1(features), pooled)
    masks = program.masks_by_parts(model, inputs)
    whole = torch.cat([one.pred_masks[:, 0] for one in model.inference(inputs, do_postprocess=False)])
    assert torch.equal(masks, whole)


@torch.no_grad()
def test_a_hook_records_the_output_of_a_module(
    program: Any, model: Any, inputs: list[dict[str, Any]]
) -> None:
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    (recorded,) = program.outputs_by_hook(model, inputs, "backbone")
    assert features.keys() == recorded.keys()
    assert all(torch.equal(value, recorded[name]) for name, value in features.items())
    ((logits, _),) = program.outputs_by_hook(model, inputs, "proposal_generator.rpn_head")
    assert [logit.shape[0] for logit in logits] == [2] * 5
    assert not model.backbone._forward_hooks


def test_the_program_runs() -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, CONFIG], capture_output=True, text=True, check=True, timeout=300
    )
    lines = done.stdout.splitlines()
    assert "input of the mask head" in lines[0]
    assert lines[2] == "level 0: objectness (1, 3, 24, 32), box deltas (1, 12, 24, 32)"
    assert len(lines) == 7


def test_the_program_accepts_an_image_and_weights(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_state_dict(build_model(load_cfg(CONFIG)).state_dict(), tmp_path / "model.safetensors")
    Image.new("RGB", (100, 70)).save(tmp_path / "a.png")
    arguments = [CONFIG, tmp_path / "a.png", "--weights", tmp_path / "model.safetensors"]
    monkeypatch.setattr(sys, "argv", ["partial_execution.py", *map(str, arguments)])
    program.main()
    assert "level 0: objectness (1, 3, 24, 32)" in capsys.readouterr().out
