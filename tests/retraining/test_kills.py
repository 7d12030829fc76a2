"""The job, killed with all its processes at every step: the next run completes it, and nothing is doubled."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import mlflow
import psutil
import pytest
from toy_pipeline import JOB, call, commit, create, environment, job_command, require, write_data

STEPS = {
    "dvc pull": 2.0,
    "tools/preflight.py": 4.0,
    "dvc status": 1.0,
    "stages/prepare_data.py": 1.0,
    "stages/describe_data.py": 0.5,
    "toy_pipeline.py train": 0.2,
    "toy_pipeline.py export": 2.0,
    "toy_pipeline.py digest": 0.2,
    "stages/register.py": 10.0,
    "stages/promote.py": 5.0,
    "stages/require_passed.py": 1.0,
    "dvc push": 2.0,
}
"""Words in the command of a process of each step, and for how many seconds it is at work."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = create(tmp_path_factory.mktemp("kills") / "project")
    remote = str(tmp_path_factory.mktemp("remote"))
    require(folder, sys.executable, "-m", "dvc", "remote", "add", "--default", "store", remote)
    commit(folder)
    assert call(folder, *job_command()).returncode == 0
    return folder


def look(project: Path) -> tuple[int, list[int]]:
    """Return the champion and the versions, after a check that nothing is doubled."""
    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    versions = client.search_model_versions(f"name = '{JOB}'")
    contents = Counter(version.tags["detexport.content_sha256"] for version in versions)
    assert set(contents.values()) == {1}
    experiment = client.get_experiment_by_name("detexport-promotions")
    decisions = Counter(
        run.data.tags["promotion.key"] for run in client.search_runs([experiment.experiment_id])
    )
    assert set(decisions.values()) == {1}
    champion = int(client.get_model_version_by_alias(JOB, "champion").version)
    return champion, sorted(int(version.version) for version in versions)


def commands(process: psutil.Process) -> list[str]:
    """The command lines of a process's descendants."""
    found = []
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found.append(" ".join(child.cmdline()).replace("'", ""))
    return found


def kill_at(project: Path, step: str, delay_s: float) -> bool:
    """Run the job and kill all its processes in a step; return False if it ended before."""
    started = subprocess.Popen(
        job_command(), cwd=project, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    job = psutil.Process(started.pid)
    while started.poll() is None and not any(step in command for command in commands(job)):
        time.sleep(0.02)
    if started.poll() is None:
        time.sleep(delay_s)
    alive = started.poll() is None
    with suppress(psutil.NoSuchProcess):
        for process in [*job.children(recursive=True), job]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    code = started.wait()
    assert alive or code == 0
    return alive


def check_kills(project: Path, steps: list[str]) -> None:
    dice, killed = random.Random(0), Counter[str]()
    number, versions = look(project)
    states = len(versions)
    for step in steps:
        while not kill_at(project, step, dice.uniform(0, STEPS[step])):
            # It was complete: data that were not seen yet begin another run.
            states += 1
            write_data(project, seed=states)
        killed[step] += 1
        champion, versions = look(project)
        assert champion in (number, max(versions))
        number = champion
    done = call(project, *job_command())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    champion, versions = look(project)
    assert champion == max(versions) == len(versions) == states
    assert not list(project.glob("outputs/**/*.partial*"))
    assert not (project / "outputs/retraining/state.json").exists()
    summary = json.loads((project / "reports/retraining.json").read_text())
    assert summary["outcome"] in ("promoted", "unchanged")
    print(f"{sum(killed.values())} kills: {dict(killed)}; {states} versions")


def test_a_run_that_was_killed_is_completed_by_the_next(project: Path) -> None:
    write_data(project, seed=1000)
    assert kill_at(project, "stages/register.py", 4.0)
    assert kill_at(project, "stages/promote.py", 2.0)
    done = call(project, *job_command())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert look(project) == (2, [1, 2])
    summary = json.loads((project / "reports/retraining.json").read_text())
    assert (summary["outcome"], summary["resumed"]) == ("promoted", True)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_kills_in_every_step_lose_and_double_nothing(project: Path) -> None:
    check_kills(project, [step for step in STEPS for _ in range(3)])
