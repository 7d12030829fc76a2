"""Artifacts of the newer models: checked by the export itself, and against their references' outputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import detexport
from detexport.config import LazyConfig, instantiate
from detexport.config.cfg import load_cfg
from detexport.contract import ResizeRule
from detexport.modeling import build_model
from new_models_oracle import Case, cases, check_instances, check_sem_seg, needs_new_models

TARGETS = ("tracing", "torch_export", "onnx", "openvino")


def is_exported(case: Case) -> bool:
    """Return whether the model has an artifact; tests of Panoptic-DeepLab and of the views refuse theirs."""
    return not case.meta.get("tta", False) and not case.folder.name.startswith("panoptic_deeplab")


def model_of(case: Case) -> Any:
    """Return the model with its weights, for images that are not resized."""
    config = case.folder / "config.yaml"
    lazy = case.meta["config"] == "lazy"
    model = case.load(instantiate(LazyConfig.load(config).model) if lazy else build_model(load_cfg(config)))
    model.resize = ResizeRule(0, 0)
    return model


def image_file(case: Case, channel_order: str, folder: Path) -> Path:
    """Write the first image of a case as a file."""
    pixels = case.stored("inputs")["im0_image"].transpose(1, 2, 0)
    path = folder / "image.png"
    Image.fromarray(np.ascontiguousarray(pixels[..., ::-1] if channel_order == "BGR" else pixels)).save(path)
    return path


@needs_new_models
@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", cases(is_exported))
def test_an_artifact_passes_its_check_and_gives_the_reference_outputs(
    case: Case, target: str, tmp_path: Path
) -> None:
    model = model_of(case)
    sample = [image_file(case, model.input_format, tmp_path)]
    detexport.export(model, target=target, output=tmp_path / "artifact", sample=sample)
    outputs = detexport.load(tmp_path / "artifact", target=target)(case.batch())
    for index, output in enumerate(outputs):
        if "sem_seg" in output:
            check_sem_seg(case, index, output["sem_seg"])
        else:
            check_instances(case, index, output["instances"])
