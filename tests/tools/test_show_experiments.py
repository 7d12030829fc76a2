"""`make experiments` shows every job's metrics and what an experiment changed, in few columns."""

from typing import Any

import pytest

from show_experiments import experiments, lines_of

METRICS = {"ap": 0.6963, "ap_delta": 0.0, "p50_ms": 24.7, "passed": True}
JOBS = ("mask_rcnn-onnx", "cascade_mask_rcnn_R_50_FPN_3x-onnx_torchscript")
LONG = "an-experiment-with-a-name-that-nobody-can-read-in-one-line"


def data(rounds: int, **metrics: Any) -> dict[str, Any]:
    params = {"benchmark": {"rounds": rounds}, "jobs": {f"m-{rounds}": {}}, "composition": str(rounds)}
    if rounds > 5:
        params["targets"] = {"onnx": {"artifact": "onnx", "runtime": {"threads": 2}}}
    return {
        "params": {"params.yaml": {"data": params}},
        "metrics": {f"jobs/{job}.json": {"data": METRICS | metrics} for job in JOBS},
    }


@pytest.fixture
def states() -> list[dict[str, Any]]:
    """What `dvc exp show --json` writes: the workspace, a branch with two experiments, a failed one."""
    done = {"rev": "c" * 40, "name": None, "data": data(5, p50_ms=1234.5)}
    waiting = {"rev": "d" * 40, "name": None, "data": None}
    return [
        {"rev": "workspace", "name": None, "data": data(9), "experiments": None},
        {
            "rev": "b" * 40,
            "name": "main",
            "data": data(60),
            "experiments": [
                {"revs": [done], "executor": None, "name": LONG},
                {"revs": [waiting], "executor": {"state": "queued"}, "name": None},
            ],
        },
        {"rev": "a" * 40, "name": None, "data": {"params": {}, "metrics": {}}, "experiments": None},
    ]


def test_what_differs_is_what_was_chosen_and_not_what_follows_from_it(states: list[dict[str, Any]]) -> None:
    found = {one.name: one for one in experiments(states)}
    assert list(found) == ["workspace", "main", LONG, "ddddddd (queued)", "aaaaaaa"]
    assert found["workspace"].changed == ["benchmark.rounds=9"]
    assert found[LONG].changed == ["benchmark.rounds=5", "no targets.onnx"]
    assert not any(found[name].changed for name in ("main", "ddddddd (queued)", "aaaaaaa"))
    assert found[LONG].metrics[JOBS[0]]["p50_ms"] == 1234.5


@pytest.mark.parametrize("width", [60, 120])
def test_each_job_has_a_table_that_fits(states: list[dict[str, Any]], width: int) -> None:
    lines = list(lines_of(list(experiments(states)), width))
    assert max(map(len, lines)) <= width
    assert lines[0] == JOBS[0]
    assert lines[1].split() == ["experiment", *METRICS]
    assert [line.split()[-2:] for line in lines[2:5]] == [
        ["24.7", "True"],
        ["24.7", "True"],
        ["1234.5", "True"],
    ]
    assert lines[4].startswith(f"  {LONG[:20]}")
    assert f"parameters of {LONG}"[:width] in lines
    assert "  benchmark.rounds=5, no targets.onnx" in lines


def test_without_results_the_command_that_makes_them_is_named(states: list[dict[str, Any]]) -> None:
    assert list(lines_of(list(experiments(states[2:])), 120)) == [
        "no metrics: run `make repro` or `dvc exp run` first"
    ]
