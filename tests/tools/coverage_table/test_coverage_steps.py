"""The stages of a pipeline, filled in with its parameters."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from coverage_table.steps import Step, inside, needed, producers, read_steps
from detexport.errors import ConfigError

ROOT = Path(__file__).parents[3]
STAGES: dict[str, Any] = {
    "data": {"cmd": "python a.py ${kind}", "outs": ["data/${kind}"], "params": ["kind"]},
    "export": {
        "foreach": "${models}",
        "do": {
            "cmd": "python b.py ${key} ${item.size}",
            "deps": ["src/x", "data/${kind}/index.json"],
            "params": ["models.${key}"],
            "outs": ["out/${key}"],
            "metrics": [{"out/${key}.json": {"cache": False}}],
        },
    },
    "validate": {"foreach": "${models}", "do": {"cmd": "python c.py", "deps": ["out/${key}"]}},
}
PARAMS = {"kind": "shapes", "models": {"a": {"size": 1}, "b": {"size": 2}}}


def names(steps: list[Step]) -> list[str]:
    return [step.name for step in steps]


def test_a_stage_that_loops_becomes_a_step_for_each_item() -> None:
    steps = read_steps(STAGES, PARAMS, ["data", "export"])
    assert names(steps) == ["data", "export@a", "export@b"]
    assert steps[2] == Step(
        name="export@b",
        cmd="python b.py b 2",
        deps=("src/x", "data/shapes/index.json"),
        outs=("out/b", "out/b.json"),
        params={"models.b": {"size": 2}},
    )
    assert steps[2].stage == "export"


def test_a_step_comes_after_those_that_write_what_it_reads() -> None:
    steps = read_steps(STAGES, PARAMS, ["validate", "export", "data"])
    before = producers(steps)
    assert names(list(before["export@a"])) == ["data"]
    (goal,) = (step for step in steps if step.name == "validate@b")
    assert names(needed([goal], before)) == ["data", "export@b", "validate@b"]


def test_a_parameter_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match=r"models\.c"):
        read_steps({"x": {"cmd": "python ${models.c}"}}, PARAMS, ["x"])


def test_a_folder_is_not_inside_one_whose_name_it_begins_with() -> None:
    assert inside("out/a/b", "out/a")
    assert inside("out/a", "out/a")
    assert not inside("out/ab", "out/a")


def test_the_pipeline_itself_can_be_read() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    steps = read_steps(stages, params, ["prepare_data", "build", "reference", "export", "validate"])
    before = producers(steps)
    for job in params["jobs"]:
        (verdict,) = (step for step in steps if step.name == f"validate@{job}")
        stages_before = [step.stage for step in needed([verdict], before)]
        assert stages_before == ["prepare_data", "build", "reference", "export", "validate"]
