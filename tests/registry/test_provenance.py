"""The digests of a version's files."""

from pathlib import Path

from detexport.registry.provenance import PROVENANCE, file_digests
from detexport.system.digests import sha256_file


def test_every_file_of_a_version_has_a_digest_but_the_provenance(tmp_path: Path) -> None:
    for name in ("MLmodel", "code/a.py", "artifacts/onnx/model.onnx", f"sub/{PROVENANCE}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    # Of the version itself, of MLflow's download, and of Python.
    for name in (PROVENANCE, "registered_model_meta", "code/__pycache__/a.cpython-311.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    names = ["MLmodel", "artifacts/onnx/model.onnx", "code/a.py", f"sub/{PROVENANCE}"]
    assert file_digests(tmp_path) == {name: sha256_file(tmp_path / name) for name in names}
