"""Where a version comes from: ``provenance.json``, which also lists the digest of each of its files.

It is stored with the model and with its run. The registry's tag ``detexport.provenance_sha256`` holds its
digest.
"""

from pathlib import Path
from typing import Any

from detexport.registry.card import CODE_LICENSE
from detexport.registry.content import Content
from detexport.registry.evidence import Evidence
from detexport.system.digests import sha256_file, sha256_json

PROVENANCE = "provenance.json"
PROVENANCE_TAG = "detexport.provenance_sha256"
CERTIFICATE_TAG = "detexport.certificate_sha256"
# MLflow writes the first into a downloaded model; Python writes the second when the model's code runs.
NOT_OF_THE_VERSION = ("registered_model_meta", "__pycache__")


def describe_provenance(
    name: str, content: Content, evidence: Evidence, *, model_files: Path, run_files: Path
) -> dict[str, Any]:
    """Return the provenance of a version as JSON.

    Args:
        name: the registered name.
        content: the version's content.
        evidence: its measurements and its lineage.
        model_files: the folder of the logged model.
        run_files: the folder of the run's artifacts.
    """
    artifact, lineage = content.artifact, evidence.lineage
    return {
        "name": name,
        "git": {
            "revision": lineage["git.revision"],
            "clean": {"false": True, "true": False}.get(lineage.get("git.dirty", "")),
        },
        "dvc_lock": dict(evidence.entries),
        "data": dict(evidence.data),
        "sha256": {
            "content": content.sha256,
            "artifact": artifact.sha256,
            "source_artifact": artifact.source_sha256 or None,
            "weights": artifact.weights_sha256,
            "config": artifact.config_sha256,
            "reference": evidence.certificate["inputs_sha256"],
            "parity": evidence.certificate["report_sha256"],
            "certificate": evidence.certificate["sha256"],
            "latency": sha256_json(evidence.latency) if evidence.latency else None,
        },
        "versions": dict(evidence.versions),
        "requirements": list(content.requirements),
        "license": {"code": CODE_LICENSE, "weights": evidence.license or None},
        "files": {"model": file_digests(model_files), "run": file_digests(run_files)},
    }


def file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 digest of each of a version's files in a folder, except ``provenance.json``."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder): path for path in paths}
    return {
        name.as_posix(): sha256_file(path)
        for name, path in names.items()
        if name.as_posix() != PROVENANCE and not set(name.parts) & set(NOT_OF_THE_VERSION)
    }
