"""The schedules of docs/retraining.md: its own program or format reads each; all call one command."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import ROOT, read_blocks

COMMAND = re.compile(r"\.venv/bin/detexport-job,? retrain\b")
BLOCKS = list(read_blocks("docs/retraining.md", (ROOT / "docs/retraining.md").read_text()))
FIELD = re.compile(r"(\*|\d{1,2})([-/,]\d{1,2})*")


def block(language: str, word: str) -> str:
    (found,) = [one.code for one in BLOCKS if one.language == language and word in one.code]
    return found


def check_cron(expression: str) -> None:
    fields = expression.split()
    assert len(fields) == 5
    assert all(FIELD.fullmatch(one) for one in fields)


def test_the_cron_line_has_five_fields_and_the_command() -> None:
    (line,) = block("text", "retraining.log").splitlines()
    check_cron(" ".join(line.split()[:5]))
    assert COMMAND.search(line)
    command = line.split(maxsplit=5)[5]
    subprocess.run(["sh", "-n", "-c", command], check=True)


def test_systemd_reads_the_units(tmp_path: Path) -> None:
    units = {"service": block("ini", "[Service]"), "timer": block("ini", "[Timer]")}
    assert COMMAND.search(units["service"])
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    # It checks that the program and the user exist.
    text = units["service"].replace("/srv/detector/.venv/bin/detexport-job", "/bin/true")
    units["service"] = text.replace("User=detector\n", "").replace("/srv/detector", str(tmp_path))
    paths = [tmp_path / f"detexport-job.{kind}" for kind in units]
    for path, unit in zip(paths, units.values(), strict=True):
        path.write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "detexport-job" in line] == []
    calendar = re.search(r"^OnCalendar=(.+)$", units["timer"], re.M)
    assert calendar
    subprocess.run(["systemd-analyze", "calendar", calendar[1]], check=True, capture_output=True)


def test_the_github_workflow_runs_the_command_every_night() -> None:
    workflow: dict[Any, Any] = yaml.safe_load(block("yaml", "runs-on"))
    (schedule,) = workflow[True]["schedule"]  # YAML reads `on` as true
    check_cron(schedule["cron"])
    assert "workflow_dispatch" in workflow[True]
    assert workflow["concurrency"]["cancel-in-progress"] is False
    (job,) = workflow["jobs"].values()
    assert all(("run" in step) != ("uses" in step) for step in job["steps"])
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert [run for run in runs if COMMAND.search(run)]
    for run in runs:
        subprocess.run(["bash", "-n", "-c", run], check=True)


def test_the_github_workflow_commits_new_checkpoints(tmp_path: Path) -> None:
    """DVC does not store trained weights: without their commit the next night trains again."""
    workflow: dict[Any, Any] = yaml.safe_load(block("yaml", "runs-on"))
    (step,) = [one for one in workflow["jobs"]["retrain"]["steps"] if "git commit" in one.get("run", "")]
    assert step["if"] == "always()", "also after a refusal"
    remote, clone = tmp_path / "remote.git", tmp_path / "clone"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", remote], check=True)
    subprocess.run(["git", "clone", "-q", remote, clone], check=True, capture_output=True)
    subprocess.run(["git", "checkout", "-q", "-B", "main"], cwd=clone, check=True)
    subprocess.run(["git", "config", "push.default", "current"], cwd=clone, check=True)
    (clone / "checkpoints").mkdir()
    for name in ("dvc.lock", "checkpoints/mine.safetensors"):
        (clone / name).write_text("new")
    subprocess.run(["bash", "-e", "-c", step["run"]], cwd=clone, check=True)
    listed = ["git", "ls-tree", "-r", "--name-only", "main"]
    found = subprocess.run(listed, cwd=remote, check=True, capture_output=True, text=True).stdout.split()
    assert found == ["checkpoints/mine.safetensors", "dvc.lock"]


def test_the_kubernetes_job_tries_again_what_broke_and_not_what_was_refused() -> None:
    manifest = yaml.safe_load(block("yaml", "CronJob"))
    assert (manifest["apiVersion"], manifest["kind"]) == ("batch/v1", "CronJob")
    spec = manifest["spec"]
    check_cron(spec["schedule"])
    assert spec["concurrencyPolicy"] == "Forbid"
    job = spec["jobTemplate"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["operator"]) == ("FailJob", "In")
    assert rule["onExitCodes"]["values"] == [1, 2]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "a failure policy needs it"
    (container,) = pod["containers"]
    assert container["name"] == rule["onExitCodes"]["containerName"]
    assert container["command"] == [".venv/bin/detexport-job", "retrain"]
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    (image,) = [one["value"] for one in container["env"] if one["name"] == "DETEXPORT_BASE_IMAGE"]
    assert image == container["image"]


def test_the_table_of_exit_codes_is_that_of_the_command() -> None:
    from detexport.cli.retraining import EXIT_CODES

    text = (ROOT / "docs/retraining.md").read_text()
    section = text.partition("## Exit codes")[2].partition("## ")[0]
    rows = re.findall(r"^\| (\d+)", section, re.M)
    assert rows == ["0", "1", "1", "2", "3", "143"]
    assert all(re.search(rf"\b{row}\b", EXIT_CODES) for row in rows)
