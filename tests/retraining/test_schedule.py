"""The job through Prefect's own server: its clock starts a run; each night ends as the job's exit code says.

Prefect has an environment of its own: name its Python in DETEXPORT_PREFECT_PYTHON.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from toy_pipeline import JOB, create, environment, params, write_data

from detexport.registry.champions import read_champions
from detexport.registry.settings import RegistrySettings

PYTHON = os.environ.get("DETEXPORT_PREFECT_PYTHON") or (sys.executable if find_spec("prefect") else "")
TERMINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not PYTHON, reason="Prefect is not installed: see the docstring of this file"),
]


class Scheduler:
    """Prefect's server with the job's deployment, over HTTP."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}/api"

    def post(self, path: str, **body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.loads(answer.read() or "null")

    def runs(self) -> list[dict[str, Any]]:
        """The runs that are not merely planned."""
        found = self.post("/flow_runs/filter", sort="EXPECTED_START_TIME_ASC")
        return [run for run in found if run["state_type"] != "SCHEDULED"]

    def ended(self, run_id: str) -> tuple[str, str]:
        """Wait for the end of a run; return its state and message."""
        while True:
            (run,) = [one for one in self.post("/flow_runs/filter") if one["id"] == run_id]
            if run["state_type"] in TERMINAL:
                return run["state_type"], run["state"]["message"] or ""
            time.sleep(1)

    def start(self, **parameters: Any) -> str:
        """Start a run; return its id."""
        (deployment,) = self.post("/deployments/filter")
        path = f"/deployments/{deployment['id']}/create_flow_run"
        started: str = self.post(path, parameters=parameters)["id"]
        return started

    def run_now(self) -> tuple[str, str]:
        return self.ended(self.start())

    def cancel(self, run_id: str) -> None:
        self.post(f"/flow_runs/{run_id}/set_state", state={"type": "CANCELLING"})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create(tmp_path_factory.mktemp("schedule") / "detector")


@pytest.fixture(scope="module")
def scheduler(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scheduler]:
    """The scheduler after the run that its clock started; its schedule is paused then."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--project", str(project), "--cron", "* * * * *", "--python", sys.executable]
    options += ["--port", str(port), "--retries", "1", "--retry-delay", "1"]
    variables = environment(
        PREFECT_HOME=str(tmp_path_factory.mktemp("prefect")),
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        DO_NOT_TRACK="1",
    )
    process = subprocess.Popen(
        [PYTHON, "-m", "detexport.cli.retraining", "schedule", *options],
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert f":{port}" in process.stdout.readline()
        one = Scheduler(port)
        while not one.runs():
            assert process.poll() is None
            time.sleep(1)
        (deployment,) = one.post("/deployments/filter")
        one.post(f"/deployments/{deployment['id']}/pause_deployment")
        yield one
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(120)
        _, alive = psutil.wait_procs(children, timeout=30)
        for child in alive:
            child.kill()
    assert not alive


def champion(project: Path) -> str:
    return read_champions([JOB], RegistrySettings.of({}), project)[JOB].version


def test_the_clock_starts_a_run_that_promotes(project: Path, scheduler: Scheduler) -> None:
    states = [scheduler.ended(run["id"]) for run in scheduler.runs()]
    assert {state for state, _ in states} == {"COMPLETED"}
    assert champion(project) == "1"


def test_a_run_without_changes_does_no_work(project: Path, scheduler: Scheduler) -> None:
    assert scheduler.run_now()[0] == "COMPLETED"
    summary = json.loads((project / "reports/retraining.json").read_text())
    assert (summary["outcome"], summary["stale"]) == ("unchanged", [])


def test_changed_data_are_promoted(project: Path, scheduler: Scheduler) -> None:
    write_data(project, seed=1)
    assert scheduler.run_now()[0] == "COMPLETED"
    assert champion(project) == "2"


def test_a_broken_export_and_a_worse_training_set_are_refused(project: Path, scheduler: Scheduler) -> None:
    (project / "params.yaml").write_text(yaml.safe_dump(params(export={"broken": True})))
    write_data(project, seed=2)
    state, message = scheduler.run_now()
    assert state == "FAILED"
    assert f"{JOB}: a box differs by 3 px" in message
    (project / "params.yaml").write_text(yaml.safe_dump(params()))
    write_data(project, seed=3, box_px=15.0)
    state, message = scheduler.run_now()
    assert state == "FAILED"
    assert "is below the limit" in message
    assert champion(project) == "2"


def test_what_broke_is_tried_again(project: Path, scheduler: Scheduler) -> None:
    tool = project / "tools/preflight.py"
    kept = tool.read_text()
    tool.write_text(f"open('tries', 'a').write('x')\nimport sys\nsys.exit(3)\n{kept}")
    state, message = scheduler.run_now()
    assert (state, (project / "tries").read_text()) == ("FAILED", "xx")
    assert "preflight.py failed" in message
    tool.write_text(kept)


def test_a_run_that_is_cancelled_ends_the_job(project: Path, scheduler: Scheduler) -> None:
    tool = project / "tools/preflight.py"
    kept = tool.read_text()
    tool.write_text(f"import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(3000)\n{kept}")
    run_id = scheduler.start()
    while not ((project / "pid").exists() and (project / "pid").read_text()):
        time.sleep(0.5)
    stage = psutil.Process(int((project / "pid").read_text()))
    job = stage.parent()
    assert job is not None
    scheduler.cancel(run_id)
    assert scheduler.ended(run_id)[0] == "CANCELLED"
    _, alive = psutil.wait_procs([stage, job], timeout=300)
    assert not alive
    tool.write_text(kept)


HANGS = """#!/bin/sh
trap "" TERM
setsid sleep 3000 &
echo $$ $! >> {pids}
while true; do sleep 1; done
"""


def test_a_run_that_hangs_is_ended_with_its_processes(
    project: Path, scheduler: Scheduler, tmp_path: Path
) -> None:
    program = tmp_path / "hangs"
    program.write_text(HANGS.format(pids=tmp_path / "pids"))
    program.chmod(0o755)
    run_id = scheduler.start(python=str(program), timeout_s=1, grace_s=5, retries=1)
    state, message = scheduler.ended(run_id)
    assert (state, "timed out after 6" in message) == ("FAILED", True), message
    tries = [list(map(int, line.split())) for line in (tmp_path / "pids").read_text().splitlines()]
    assert len(tries) == 2, "it was tried again"
    left = [pid for pids in tries for pid in pids if psutil.pid_exists(pid)]
    assert all(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in left)
