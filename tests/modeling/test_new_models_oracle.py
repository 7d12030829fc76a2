"""Lazy configurations against stored outputs: see ``new_models_oracle``."""

from typing import Any

import pytest

from detexport.config import LazyConfig, instantiate
from new_models_oracle import (
    Case,
    cases,
    check_box_head,
    check_instances,
    check_map,
    check_maps,
    check_rpn,
    needs_new_models,
    run,
)

WATCHED = {
    "backbone": "backbone",
    "backbone.bottom_up": "bottom_up",
    "backbone.net": "net",
    "proposal_generator": "rpn",
    "proposal_generator.rpn_head": "rpn_head",
}
FILES = ("config.yaml", "model.py")


def box_predictors(model: Any) -> dict[str, str]:
    """Return the names of the stages' box predictors by their paths."""
    predictor = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    if predictor is None:
        return {}
    if hasattr(predictor, "__len__"):
        return {f"roi_heads.box_predictor.{stage}": f"stage{stage}" for stage in range(len(predictor))}
    return {"roi_heads.box_predictor": "stage0"}


@needs_new_models
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("case", cases(lambda case: case.meta["config"] == "lazy"))
def test_reference_outputs(case: Case, file: str) -> None:
    cfg = LazyConfig.load(case.folder / file, trust=True)
    model = case.load(instantiate(cfg.model))
    predictors = box_predictors(model)
    outputs, seen = run(model, case, {**WATCHED, **predictors})
    stored = case.stored("intermediates")
    check_map(stored, "input_tensor", seen["input_tensor"])
    for group in ("bottom_up", "net", "backbone"):
        assert (group in seen) == any(name.startswith(f"{group}_") for name in stored)
        if group in seen:
            check_maps(stored, group, seen[group])
    assert ("rpn" in seen) == ("rpn_logits_lvl0_shape" in stored)
    if "rpn" in seen:
        check_rpn(stored, seen["rpn_head"], seen["rpn"])
    for stage, name in enumerate(predictors.values()):
        check_box_head(stored, stage, seen[name])
    for index, output in enumerate(outputs):
        check_instances(case, index, output["instances"])
