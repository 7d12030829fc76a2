"""Nights on which something breaks: what was accepted, and what the summary says."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from receiver import listening
from toy_pipeline import JOB, SECOND_JOB, call, commit, create, job_command, params, require, write_data

from detexport.registry.champions import read_champions
from detexport.registry.settings import RegistrySettings

# Minutes of whole pipelines; test_retrain_decisions.py tests the same decisions without one.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after the first night."""
    folder = create(tmp_path_factory.mktemp("faults") / "project")
    remote = folder.parent / "remote"
    require(folder, sys.executable, "-m", "dvc", "remote", "add", "--default", "store", str(remote))
    commit(folder)
    assert night(folder) == 0
    assert summary(folder)["reasons"] == ["data: not compared: there is no champion"]
    return folder


def night(project: Path, *options: str) -> int:
    return call(project, *job_command(*options)).returncode


def summary(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project / "reports/retraining.json").read_text())
    return found


def champion(project: Path) -> str:
    return read_champions([JOB], RegistrySettings.of({}), project)[JOB].version


def set_export(project: Path, **changes: Any) -> None:
    (project / "params.yaml").write_text(yaml.safe_dump(params(export={"broken": False, **changes})))


def test_a_night_without_changes_ends_within_seconds(project: Path) -> None:
    cpu_s = os.times().children_user
    assert night(project) == 0
    assert summary(project)["outcome"] == "unchanged"
    assert os.times().children_user - cpu_s < 60


def test_accepted_data_are_accepted_alone(project: Path) -> None:
    """A run that broke keeps the acceptance for the data that it saw, not for those of the next night."""
    write_data(project, seed=1, category_ids=(1, 1, 1, 2, 3))
    set_export(project, code=3)
    assert night(project, "--accept-data") == 3
    assert night(project) == 3, "the same data are still accepted"
    write_data(project, seed=2, category_ids=(1, 1, 1, 1, 2, 3))
    set_export(project)
    assert night(project) == 1
    assert any("label shift" in reason for reason in summary(project)["reasons"])
    assert champion(project) == "1"


def test_a_run_that_takes_too_long_is_continued_by_the_next(project: Path) -> None:
    write_data(project, seed=3)
    set_export(project, sleep_s=600)
    began = time.monotonic()
    assert night(project, "--timeout", "40") == 3
    assert time.monotonic() - began < 300
    assert "took too long" in summary(project)["reasons"][0]


def test_a_push_and_a_notification_that_fail_are_in_the_summary(project: Path) -> None:
    set_export(project)
    remote = project.parent / "remote"
    remote.rename(project.parent / "kept")
    remote.write_text("no folder")
    assert night(project, "--no-fetch") == 3
    assert (summary(project)["outcome"], summary(project)["exit_code"]) == ("failed", 3)
    assert champion(project) == "2", "the version was promoted before the push"
    remote.unlink()
    (project.parent / "kept").rename(remote)
    with listening() as receiver:
        receiver.codes = [500] * 3
        assert night(project, "--notify", receiver.address) == 3
        found = summary(project)
        assert (found["outcome"], found["exit_code"], found["resumed"]) == ("promoted", 3, True)
        assert "did not receive" in found["reasons"][-1]
        assert night(project, "--notify", receiver.address) == 0
        assert receiver.received[-1][2]["outcome"] == "promoted"


def test_a_night_after_a_rollback_reports_no_promotion(project: Path) -> None:
    """The file of decisions still says that the version was promoted."""
    require(project, sys.executable, "-m", "detexport.cli", "rollback", JOB)
    assert champion(project) == "1"
    stages = yaml.safe_load((project / "dvc.yaml").read_text())
    stages["stages"]["require_passed"]["deps"].append("requirements.lock")
    (project / "dvc.yaml").write_text(yaml.safe_dump(stages))
    assert night(project) == 0
    found = summary(project)
    assert (found["outcome"], found["decisions"], found["stale"]) == ("unchanged", [], ["require_passed"])
    assert champion(project) == "1"


def test_of_two_jobs_the_one_that_passes_is_promoted(project: Path) -> None:
    write_data(project, seed=4)
    values = params(export={"broken": False, "second": True})
    values["jobs"][SECOND_JOB] = {"model": "toy", "target": "tracing", "artifact": "tracing"}
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    assert night(project) == 1
    found = summary(project)
    assert found["outcome"] == "partly promoted"
    assert [(one["name"], one["decision"]) for one in found["decisions"]] == [(JOB, "promoted")]
    assert found["reasons"] == [f"{SECOND_JOB}: did not pass", f"{SECOND_JOB}: a box differs by 3 px"]
    assert champion(project) == "3"
