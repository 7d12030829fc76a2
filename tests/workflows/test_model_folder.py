"""The pipeline's folder of a model, found from the folder of its artifact."""

from pathlib import Path

import pytest

from detexport.errors import ConfigError
from detexport.workflows.model_folder import REFERENCE, model_folder, require_other_side


def test_the_folder_is_two_above_the_artifact_also_by_a_relative_path_or_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = tmp_path / "m/artifacts/onnx"
    artifact.mkdir(parents=True)
    (tmp_path / "link").symlink_to(artifact)
    monkeypatch.chdir(artifact)
    for path in (artifact, Path(), tmp_path / "link", artifact / ".." / "onnx"):
        assert model_folder(path) == (tmp_path / "m").resolve()


def test_an_artifact_is_compared_with_what_is_given_or_stored(tmp_path: Path) -> None:
    artifact = tmp_path / "m/artifacts/onnx"
    require_other_side(artifact, is_given=True, data=tmp_path)
    with pytest.raises(ConfigError, match=r"got: no --data; .*--config-file"):
        require_other_side(artifact, is_given=True, data=None)
    for data in (None, tmp_path):
        with pytest.raises(ConfigError, match=r"got: no model, no other artifact, and .*m/reference"):
            require_other_side(artifact, is_given=False, data=data)
    (tmp_path / "m" / REFERENCE).mkdir(parents=True)
    require_other_side(artifact, is_given=False, data=None)
