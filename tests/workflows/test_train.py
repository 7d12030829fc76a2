"""A training continues exactly after a kill, and two processes train as one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from detexport.checkpoint import read_state_dict
from detexport.system.files import read_json
from trainings import continued, curves, free_port, start, train_rank, train_tiny, wait_for, write_shapes

ROOT = Path(__file__).parents[2]

KILLS = int(os.environ.get("DETEXPORT_TRAINING_KILLS", "4"))
# Losses that are means over images of one size, without the statistics of a batch: those of two processes
# are then the means of their losses.
BY_IMAGE = {
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.FPN.NORM": "''",
    "MODEL.SEM_SEG_HEAD.NORM": "''",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 100_000,
    "MODEL.RPN.POSITIVE_FRACTION": 1.0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes")


def tree(changes: dict[str, object]) -> dict[str, str]:
    """Dotted keys as YAML of one top-level key."""
    lines: dict[str, dict[str, object]] = {}
    for key, value in changes.items():
        _, group, name = key.split(".")
        lines.setdefault(group, {})[name] = value
    text = ", ".join(
        f"{group}: {{{', '.join(f'{name}: {value}' for name, value in values.items())}}}"
        for group, values in lines.items()
    )
    return {"MODEL": f"{{{text}}}"}


def folder_of(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("architecture", ["faster_rcnn", "retinanet"])
def test_a_killed_training_continues_to_the_same_weights_and_curves(
    tmp_path: Path, data: Path, architecture: str
) -> None:
    # RetinaNet keeps its normalizer as a plain number; the R-CNN draws boxes at random.
    options = {"evaluation_period": 4}
    whole, killed = (folder_of(tmp_path / name) for name in ("whole", "killed"))
    began = time.monotonic()
    process = start(train_tiny, whole, data, architecture, {}, options)
    wait_for(whole / "state.pt", process)
    before_state = time.monotonic() - began
    process.join()
    duration = time.monotonic() - began
    assert process.exitcode == 0
    moments = random.Random(architecture)
    kills = 0
    while kills < KILLS:
        process = start(train_tiny, killed, data, architecture, {}, options)
        if not kills:  # a state is there, from which the next process continues
            wait_for(killed / "state.pt", process)
            process.join(moments.uniform(0.0, 0.3) * (duration - before_state))
        else:
            process.join(moments.uniform(0.2, 0.9) * duration)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
        else:
            break
    if process.exitcode != 0:
        process = start(train_tiny, killed, data, architecture, {}, options)
        process.join()
    assert process.exitcode == 0
    assert kills
    assert continued(killed)
    assert (killed / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    expected = curves(whole)
    assert [step for step, _ in expected["loss"]] == list(range(1, 10))
    assert [step for step, _ in expected["bbox/AP"]] == [4, 8]
    assert curves(killed) == expected
    assert not (killed / "state.pt").exists()


@pytest.mark.parametrize(
    ("architecture", "metric"), [("proposal_network", "AR100"), ("semantic_segmentor", "mIoU")]
)
def test_two_processes_train_as_one_with_the_doubled_batch(
    tmp_path: Path, data: Path, architecture: str, metric: str
) -> None:
    options = {"optimizer": "sgd", "batch_size": 4, "iterations": 5, "evaluation_period": 5}
    # The second process has its own folder, as on another machine.
    one, two, other = (folder_of(tmp_path / name) for name in ("one", "two", "other"))
    arguments = (data, architecture, tree(BY_IMAGE), {**options, "devices": 2, "strategy": "ddp"})

    def start_both() -> list[Any]:
        port = free_port()
        return [start(train_rank, rank, port, folder, *arguments) for rank, folder in enumerate((two, other))]

    both = start_both()
    wait_for(two / "state.pt", both[0])
    for process in both:
        process.kill()
        process.join()
    processes = [start(train_tiny, one, data, architecture, tree(BY_IMAGE), options), *start_both()]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert continued(two)
    assert not (other / "weights.safetensors").exists()
    alone, shared = curves(one), curves(two)
    assert alone.keys() == shared.keys()
    assert len(alone["loss"]) == 5
    for name, values in alone.items():
        if "loss" in name:
            assert shared[name] == [(step, pytest.approx(value, rel=1e-4)) for step, value in values], name
    weights, others = (read_state_dict(folder / "weights.safetensors") for folder in (one, two))
    assert all((weights[name] - others[name]).abs().max() < 1e-5 for name in weights)
    # Both evaluate all images.
    measured = [read_json(folder / "metrics.json") for folder in (one, two)]
    assert any(name.endswith(metric) for name in measured[0])
    assert measured[1] == {name: pytest.approx(value, abs=0.02) for name, value in measured[0].items()} | {
        "train_s": measured[1]["train_s"]
    }


def test_lightning_starts_the_processes_of_a_machine(tmp_path: Path, data: Path) -> None:
    options = {"devices": 2, "iterations": 2, "threads": 3}
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.trainings"),
            *(tmp_path, data, "proposal_network", json.dumps(options)),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ranks = [line for line in done.stdout.splitlines() if line.startswith("rank")]
    assert sorted(ranks) == ["rank 0: 3 threads", "rank 1: 3 threads"]
    assert [step for step, _ in curves(tmp_path)["loss"]] == [1, 2]
    assert (tmp_path / "weights.safetensors").exists()


def test_a_training_killed_at_its_very_end_keeps_its_run(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def kill(*_: Any, **__: Any) -> None:
        raise KilledError

    options = {"iterations": 9, "evaluation_period": 1, "patience": 1}
    with monkeypatch.context() as patch:
        patch.setattr("detexport.workflows.train.write_json", kill)  # after the run, before the state
        with pytest.raises(KilledError):
            train_tiny(tmp_path, data, "proposal_network", {}, options)
    expected = curves(tmp_path)
    train_tiny(tmp_path, data, "proposal_network", {}, options)
    assert curves(tmp_path) == expected
    (final,) = next(values for name, values in expected.items() if name.startswith("result/"))
    assert final[0] == expected["loss"][-1][0] < 9  # it ended early
    assert not (tmp_path / "state.pt").exists()
