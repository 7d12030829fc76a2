"""What the use case hands to the registry: each job with its stages, and the user's checkout."""

from pathlib import Path
from typing import Any

import pytest

from detexport.registry.jobs import Job
from detexport.workflows import register as module
from detexport.workflows.register import register

RUNTIME = {"_target_": "detexport.runtime.onnxruntime.OnnxRuntime"}


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The arguments that the registry got."""
    got: dict[str, Any] = {}

    def register_jobs(jobs: list[Job], **options: Any) -> dict[str, Any]:
        got.update(options, jobs=jobs)
        return {"registered": []}

    monkeypatch.setattr(module, "register_jobs", register_jobs)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    return got


def call(artifact: str = "onnx") -> dict[str, Any]:
    return register(
        Path("models"),
        {"m-t": {"model": "m", "target": "t", "artifact": artifact}},
        {"t": {"runtime": RUNTIME}},
        {"m-openvino": {"source": "onnx"}, "m-openvino_int8": {"source": "openvino"}},
        {"m": {"license": "CC0-1.0"}},
        {"tracking_uri": "sqlite:///x.db", "experiment": "e"},
        {"train": {"images": 3}},
    )


def test_a_job_has_its_folder_and_its_targets_runtime(handed: dict[str, Any]) -> None:
    assert call() == {"registered": []}
    (job,) = handed["jobs"]
    assert (job.name, job.model, job.target, job.artifact) == ("m-t", "m", "t", "onnx")
    assert (job.folder, job.runtime) == (Path("models/m"), RUNTIME)
    assert job.license == "CC0-1.0"
    assert handed["data_statistics"] == {"train": {"images": 3}}
    assert (handed["settings"].tracking_uri, handed["settings"].experiment) == ("sqlite:///x.db", "e")


@pytest.mark.parametrize(
    ("artifact", "stages"),
    [
        ("onnx", ("export@m-onnx",)),
        ("openvino", ("export@m-onnx", "convert@m-openvino")),
        ("openvino_int8", ("export@m-onnx", "convert@m-openvino", "convert@m-openvino_int8")),
    ],
)
def test_the_stages_that_made_an_artifact_begin_with_its_export(
    handed: dict[str, Any], artifact: str, stages: tuple[str, ...]
) -> None:
    call(artifact)
    assert handed["jobs"][0].made_by == stages


def test_an_experiment_registers_into_the_checkout_that_began_it(
    handed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path / ".dvc/tmp/exps/clone"
    clone.mkdir(parents=True)
    monkeypatch.chdir(clone)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    call()
    assert handed["workspace"] == tmp_path.resolve()
    assert handed["checkout"] == clone.resolve()


def test_the_variable_of_another_repository_is_ignored(
    handed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    for root in (None, str(tmp_path / "other"), str(tmp_path)):
        if root is not None:
            monkeypatch.setenv("DVC_ROOT", root)
        call()
        assert handed["workspace"] == handed["checkout"] == Path.cwd()
