"""The job on a project of its own, through DVC and a registry: one night after the other."""

import fcntl
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from receiver import listening
from toy_pipeline import JOB, call, commit, create, job_command, params, require, write_data

from detexport.registry.champions import read_champions
from detexport.registry.settings import RegistrySettings


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after the first night; the tests are the nights that follow, in their order."""
    folder = create(tmp_path_factory.mktemp("retraining") / "a project")
    remote = tmp_path_factory.mktemp("remote")
    require(folder, sys.executable, "-m", "dvc", "remote", "add", "--default", "store", str(remote))
    commit(folder)
    return folder


def night(project: Path, *options: str, **variables: str) -> dict[str, Any]:
    """Run the job; return its summary, whose exit code is the process's."""
    done = call(project, *job_command(*options), **variables)
    assert done.returncode in (0, 1), f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    summary: dict[str, Any] = json.loads((project / "reports/retraining.json").read_text())
    assert summary["exit_code"] == done.returncode
    assert summary["outcome"] in (project / "reports/retraining.html").read_text()
    assert f"{summary['outcome']} in " in done.stdout
    assert all(reason in done.stdout for reason in summary["reasons"])
    return summary


def champion(project: Path) -> str:
    found = read_champions([JOB], RegistrySettings.of({}), project)
    return found[JOB].version if found else ""


def versions(project: Path) -> list[int]:
    """All versions, and whether any two have the same content."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    found = client.search_model_versions(f"name = '{JOB}'")
    contents = [version.tags["detexport.content_sha256"] for version in found]
    assert len(set(contents)) == len(contents)
    return sorted(int(version.version) for version in found)


def set_params(project: Path, **changes: Any) -> None:
    (project / "params.yaml").write_text(yaml.safe_dump(params(**changes)))


def test_the_first_night_promotes_and_pushes(project: Path) -> None:
    summary = night(project)
    assert (summary["outcome"], summary["pushed"], summary["resumed"]) == ("promoted", True, False)
    assert "train" in summary["stale"]
    assert champion(project) == "1"
    assert {row["check"] for row in summary["data"]} == {"boxes outside their image"}
    (known,) = read_champions([JOB], RegistrySettings.of({}), project).values()
    assert known.data is not None
    assert known.data["train"] == {
        "images": 9,
        "images_without_labels": 0,
        "labels": {"circle": 3, "square": 3, "star": 3},
        "boxes_outside": 0,
        "boxes_outside_ids": [],
    }


def test_a_night_without_changes_does_nothing(project: Path) -> None:
    before = (project / "dvc.lock").read_bytes()
    summary = night(project)
    assert (summary["outcome"], summary["stale"]) == ("unchanged", [])
    assert [step["name"] for step in summary["steps"]] == ["update imports", "pull", "preflight", "status"]
    assert (project / "dvc.lock").read_bytes() == before
    assert versions(project) == [1]


def test_worse_data_are_refused_before_they_are_trained_on(project: Path) -> None:
    weights = (project / "weights.json").read_bytes()
    write_data(project, x=50.0, categories=("circle", "square", "star", "moon"), category_ids=(1, 4))
    summary = night(project)
    assert (summary["outcome"], summary["exit_code"]) == ("refused", 1)
    refused = {(row["split"], row["check"]) for row in summary["data"] if not row["passed"]}
    checks = (
        "boxes outside their image",
        "labels outside the classes",
        "classes without a label",
        "label shift",
    )
    assert refused == {(split, check) for split in ("train", "val") for check in checks}
    assert any("moon (5 labels)" in reason for reason in summary["reasons"])
    assert (project / "weights.json").read_bytes() == weights
    assert (champion(project), versions(project)) == ("1", [1])


def test_labels_of_no_class_are_refused(project: Path) -> None:
    write_data(project, category_ids=(1, 2, 9))
    summary = night(project)
    assert summary["outcome"] == "refused"
    assert any("unknown category_id 9" in reason for reason in summary["reasons"])


def test_a_worse_training_set_is_refused_by_the_gate(project: Path) -> None:
    write_data(project, box_px=15.0)
    summary = night(project)
    assert summary["outcome"] == "refused"
    assert all(row["passed"] for row in summary["data"])
    (decision,) = summary["decisions"]
    assert (decision["decision"], decision["champion_after"]) == ("refused", "1")
    assert any("is below the limit" in reason for reason in summary["reasons"])
    assert (champion(project), versions(project)) == ("1", [1, 2])


def test_a_broken_export_is_refused(project: Path) -> None:
    write_data(project, seed=1)
    set_params(project, export={"broken": True})
    summary = night(project)
    assert summary["outcome"] == "refused"
    assert f"{JOB}: a box differs by 3 px" in summary["reasons"]
    assert (champion(project), versions(project)) == ("1", [1, 2])


def test_accepted_data_are_promoted_and_reported(project: Path) -> None:
    set_params(project)
    write_data(project, seed=2, category_ids=(1, 1, 1, 2, 3))
    with listening() as receiver:
        summary = night(project, "--accept-data", "--notify", receiver.address)
    assert summary["outcome"] == "promoted"
    assert all(reason.startswith("accepted: data, ") for reason in summary["reasons"])
    assert any("label shift" in reason for reason in summary["reasons"])
    ((_, _, body, _),) = receiver.received
    assert body == summary
    assert "secret-token" not in (project / "reports/retraining.json").read_text()
    assert (champion(project), versions(project)) == ("3", [1, 2, 3])


def test_two_runs_never_overlap(project: Path) -> None:
    with (project / "outputs/retraining/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = call(project, *job_command())
    assert done.returncode == 3
    assert "another retraining run is active" in done.stderr


@pytest.mark.slow
def test_another_base_image_exports_again_with_parity_against_the_champion(project: Path) -> None:
    summary = night(project, DETEXPORT_BASE_IMAGE="debian@sha256:1")
    assert (summary["outcome"], summary["parity"]) == ("promoted", {JOB: "passed"})
    assert summary["environment"] == ["base_image none -> debian@sha256:1"]
    assert champion(project) == "4"
    summary = night(project, DETEXPORT_BASE_IMAGE="drifted")
    assert (summary["outcome"], summary["parity"]) == ("refused", {JOB: "differs"})
    assert "differs from the champion's (version 4, same weights): " in summary["reasons"][0]
    assert (champion(project), versions(project)) == ("4", [1, 2, 3, 4])
    summary = night(project, "--accept-reexport", DETEXPORT_BASE_IMAGE="drifted")
    assert (summary["outcome"], summary["parity"]) == ("promoted", {JOB: "accepted"})
    assert summary["reasons"][0].startswith("accepted: ")
    assert champion(project) == "5"


@pytest.mark.slow
def test_a_champion_that_cannot_be_opened_does_not_block(project: Path) -> None:
    for path in project.glob("mlartifacts/**/model.onnx"):
        path.write_bytes(b"of another runtime")
    summary = night(project, DETEXPORT_BASE_IMAGE="debian@sha256:2")
    assert (summary["outcome"], summary["parity"]) == ("promoted", {JOB: "not compared"})
    assert "not compared with the champion's (version 5, same weights)" in summary["reasons"][0]
    assert champion(project) == "6"
