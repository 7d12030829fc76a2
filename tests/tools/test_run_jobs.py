"""The chains of jobs on an engine: what DVC calls out of date runs, and DVC knows the results."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from coverage_table.run import OK, Outcome
from coverage_table.steps import Step
from detexport.execution.engine import Local, Resources
from run_jobs import DvcRecords, on_gpu, resources_of
from small_ray import OPTIONS

ROOT = Path(__file__).parents[2]
JOBS = ("a", "b", "c")
EXPORT = """
import os, pathlib, sys, time
with open("ran", "a") as file:
    print("export", sys.argv[1], os.getpid(), os.environ.get("OMP_NUM_THREADS"), file=file)
if sys.argv[1] == "b" and pathlib.Path("wait").exists():
    time.sleep(120)
folder = pathlib.Path("outputs") / sys.argv[1]
folder.mkdir(parents=True, exist_ok=True)
(folder / "artifact").write_text(pathlib.Path("data").read_text().upper() + sys.argv[1])
"""
METRICS = """
import pathlib, sys
with open("ran", "a") as file:
    print("metrics", sys.argv[1], file=file)
found = pathlib.Path("outputs", sys.argv[1], "artifact").read_text()
if "BROKEN" in found and sys.argv[1] == "a":
    sys.exit("error: a broken artifact")
pathlib.Path("outputs", f"{sys.argv[1]}.json").write_text(found)
"""
REQUIRE_PASSED = """
import pathlib
pathlib.Path("passed").write_text("yes")
"""
STAGES = {
    "prepare": {"cmd": "python stages/prepare.py", "deps": ["stages/prepare.py", "source"], "outs": ["data"]},
    "export": {
        "foreach": "${jobs}",
        "do": {
            "cmd": "python stages/export.py ${key}",
            "deps": ["stages/export.py", "data"],
            "outs": ["outputs/${key}"],
        },
    },
    "metrics": {
        "foreach": "${jobs}",
        "do": {
            "cmd": "python stages/metrics.py ${key}",
            "deps": ["stages/metrics.py", "outputs/${key}"],
            "outs": ["outputs/${key}.json"],
        },
    },
    "require_passed": {
        "cmd": "python stages/require_passed.py",
        "deps": ["stages/require_passed.py", *(f"outputs/{job}.json" for job in JOBS)],
        "outs": ["passed"],
    },
}
PREPARE = "import pathlib; pathlib.Path('data').write_text(pathlib.Path('source').read_text())"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path / "stages").mkdir()
    scripts = {"prepare": PREPARE, "export": EXPORT, "metrics": METRICS, "require_passed": REQUIRE_PASSED}
    for name, code in scripts.items():
        (tmp_path / "stages" / f"{name}.py").write_text(code)
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    (tmp_path / "source").write_text("text ")
    select(tmp_path, "local")
    return tmp_path


def select(project: Path, engine: str, **options: object) -> None:
    chosen = yaml.safe_load((ROOT / "conf/engine" / f"{engine}.yaml").read_text()) | options
    params = {"jobs": {job: {"name": job} for job in JOBS}, "engine": chosen}
    (project / "params.yaml").write_text(yaml.safe_dump(params))


def start(project: Path) -> "subprocess.Popen[str]":
    (project / "ran").unlink(missing_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.Popen(
        [sys.executable, ROOT / "tools/run_jobs.py"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"},
        start_new_session=True,
    )


def run(project: Path, code: int = 0) -> list[str]:
    """Run the program; return the names of the steps that ran."""
    process = start(project)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    ran = project / "ran"
    return sorted(" ".join(line.split()[:2]) for line in ran.read_text().splitlines()) if ran.exists() else []


def stale(project: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(json.loads(done.stdout.strip().splitlines()[-1]))


ALL = sorted(f"{stage} {job}" for stage in ("export", "metrics") for job in JOBS)


def test_dvc_finds_nothing_left_of_the_chains(project: Path) -> None:
    assert run(project) == ALL
    assert stale(project) == ["require_passed"], "the stage over all jobs is DVC's"
    assert run(project) == []
    (project / "source").write_text("other ")
    assert run(project) == ALL
    assert (project / "outputs/c.json").read_text() == "OTHER c"
    # Another export of the same artifact leaves the stages after it as they are.
    (project / "stages/export.py").write_text(EXPORT + "\n")
    assert run(project) == [f"export {job}" for job in JOBS]


def test_a_failed_job_stops_no_other(project: Path) -> None:
    (project / "source").write_text("broken ")
    assert run(project, code=1) == ALL
    assert "metrics@a" in stale(project)
    assert "metrics@b" not in stale(project)


def test_a_run_that_is_ended_keeps_what_it_did(project: Path) -> None:
    (project / "wait").touch()
    process = start(project)
    until = time.monotonic() + 200
    while not waiting_step(project):
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.terminate()
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "export@a" not in stale(project)
    (project / "wait").unlink()
    assert run(project) == [step for step in ALL if not step.endswith(" a")]
    outcomes = json.loads((project / "outputs/logs/outcomes.json").read_text())
    assert sorted(outcomes) == sorted(step.replace(" ", "@") for step in ALL)


def test_ray_runs_the_chains_and_a_killed_worker_changes_nothing(project: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    assert run(project) == ALL
    expected = yaml.safe_load((project / "dvc.lock").read_text())
    for name in ("dvc.lock", "outputs", "data"):
        path = project / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    select(project, "ray", **OPTIONS)
    (project / "wait").touch()
    process = start(project)
    until = time.monotonic() + 200
    while not (worker := waiting_step(project)):
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    (project / "wait").unlink()
    os.kill(worker, signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    lines = (project / "ran").read_text().splitlines()
    assert sorted(" ".join(line.split()[:2]) for line in lines) == sorted([*ALL, "export b"])
    assert {line.split()[3] for line in lines if line.startswith("export")} == {"1"}
    # In another order: stages are committed as they end.
    assert yaml.safe_load((project / "dvc.lock").read_text()) == expected
    assert stale(project) == ["require_passed"]


def waiting_step(project: Path) -> int | None:
    """The worker that runs the step that waits."""
    ran = project / "ran"
    lines = [line.split() for line in ran.read_text().splitlines()] if ran.exists() else []
    pids = [int(words[2]) for words in lines if words[:2] == ["export", "b"] and len(words) > 3]
    return int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1]) if pids else None


def step(stage: str, params: dict[str, object] | None = None) -> Step:
    return Step(f"{stage}@m", "python x.py", (), ("out",), params or {})


def test_a_measurement_of_time_has_its_machine_alone_and_a_gpu_target_a_gpu() -> None:
    assert resources_of(step("benchmark"), Local()) == Resources(alone=True)
    assert resources_of(step("export"), Local()) == Resources()
    options = {"artifacts.aot": {"method": {"options": {"device": "cuda"}}}}
    assert resources_of(step("export", options), Local()) == Resources(gpus=1)
    assert not on_gpu({"device": "cpu"})


def test_what_is_up_to_date_is_run_if_what_it_reads_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records, first, second = DvcRecords({"export@m"}), step("export"), step("validate")
    assert records.recall(first, (), {}) is None
    assert records.recall(second, (first,), {}) == Outcome("", OK)
    records.begin(first)
    records.keep(first, Outcome("", OK, outs={"out": "1"}))
    assert records.recall(second, (first,), {}) is None
