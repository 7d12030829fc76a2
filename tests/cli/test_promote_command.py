"""``detexport promote`` and ``detexport rollback`` on a workspace's own registry."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from detexport.cli import app
from detexport.errors import ConfigError
from detexport.registry.jobs import register_jobs
from detexport.registry.settings import RegistrySettings

sys.path.insert(0, str(Path(__file__).parents[1] / "registry"))
from toy_project import toy_job, write_project, write_version

NAME = "toy-onnx"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with three versions: the third one is slower than the gate permits."""
    root = tmp_path_factory.mktemp("workspace")
    write_project(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for number, p50_ms in ((1, 5.0), (2, 5.0), (3, 50.0)):
            write_version(root, number, p50_ms=p50_ms)
            register_jobs([toy_job(root)], workspace=root, checkout=root, settings=RegistrySettings.of({}))
    return root


@pytest.fixture(autouse=True)
def _in_the_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout


def test_from_the_first_champion_to_a_rollback() -> None:
    code, shown = run("promote", NAME, "--version", "1")
    assert code == 0
    assert shown.splitlines()[0] == f"{NAME} version 1: promoted"
    assert shown.splitlines()[-1] == "champion: none before, version 1 now"

    code, text = run("promote", NAME, "--version", "2", "--json")
    decision: dict[str, Any] = json.loads(text)
    assert (code, decision["decision"], decision["champion_after"]) == (0, "promoted", "2")

    code, shown = run("promote", NAME)  # the newest, which is too slow
    assert code == 1
    assert shown.splitlines()[0] == f"{NAME} version 3: refused"
    assert "latency_cpu_p50_ms 50 is above the limit 6" in shown
    assert shown.splitlines()[-1] == "champion: version 2 before, version 2 now"

    code, shown = run("rollback", NAME)
    assert code == 0
    assert shown.splitlines()[-1] == "champion: version 2 before, version 1 now"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("promote", "no-such-model"), "the registry has no version of no-such-model"),
        (("promote", NAME, "--version", "9"), f"{NAME} has no version 9; got: 9; expected: 1, 2, 3"),
        (("rollback", "no-such-model"), "the registry has no version of no-such-model"),
    ],
)
def test_what_the_registry_lacks_is_a_wrong_request(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, ConfigError)
    assert result.exception.exit_code == 2
    assert str(result.exception).startswith(message)
