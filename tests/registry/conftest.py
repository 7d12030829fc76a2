import shutil
from pathlib import Path

import pytest
from toy_project import write_project

from detexport.registry.store import open_store


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workspace's own store, whatever the caller's environment names."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
    write_project(root)
    with open_store(root, experiment="detexport"):
        pass
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """A workspace with one job that passed and a store that is empty; as if it was moved here."""
    return Path(shutil.copytree(template, tmp_path / "workspace"))
