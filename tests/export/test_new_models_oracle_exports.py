"""Artifacts of the newer models against the stored outputs of their references."""

from pathlib import Path

import pytest

import detexport
from detexport.config import LazyConfig, instantiate
from new_models_oracle import Case, cases, check_instances, needs_new_models

TARGETS = ("tracing", "torch_export", "onnx", "openvino")


@needs_new_models
@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", cases(lambda case: case.meta["config"] == "lazy"))
def test_an_artifact_gives_the_reference_outputs(case: Case, target: str, tmp_path: Path) -> None:
    model = case.load(instantiate(LazyConfig.load(case.folder / "config.yaml").model))
    detexport.export(model, target=target, output=tmp_path / "artifact", check=False)
    outputs = detexport.load(tmp_path / "artifact", target=target)(case.batch())
    for index, output in enumerate(outputs):
        check_instances(case, index, output["instances"])
