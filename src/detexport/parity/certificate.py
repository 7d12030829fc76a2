"""The certificate: which artifact was held against which model on which inputs, where, with what verdicts.

It names everything by its digest, its own body too, so that whoever lets an artifact through can check that
the verdicts are about this artifact and were not edited. It is no signature: it does not say who measured.
"""

import platform
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict

from detexport.artifact import Artifact
from detexport.errors import DataError
from detexport.system.digests import sha256_json, sha256_tree
from detexport.system.files import read_json
from detexport.system.json_values import decode

PACKAGES = (
    "detexport",
    "numpy",
    "scipy",
    "pycocotools",
    "torch",
    "torchvision",
    "onnxruntime",
    "openvino",
)
"""What a verdict may depend on; those that are installed are named."""


class CertifiedArtifact(TypedDict):
    """What a certificate says of its artifact, among other things."""

    sha256: str


class Certificate(TypedDict):
    """The entries of a certificate that decide whether an artifact passes; it has others."""

    sha256: str
    job: str
    passed: bool
    artifact: CertifiedArtifact
    runtime: dict[str, Any]
    report_sha256: str


def certify(
    verdict: dict[str, Any], artifact: Artifact, *, reference: Path, runtime: dict[str, Any]
) -> dict[str, Any]:
    """The certificate of a verdict.

    Args:
        verdict: the parity report as JSON.
        artifact: the one that the verdict is about.
        reference: folder of the eager model's outputs that it was held against.
        runtime: the target's runtime, its class and options.
    """
    environment = describe_environment()
    body = {
        "job": verdict["job"],
        "passed": verdict["passed"],
        "artifact": {
            "sha256": artifact.sha256,
            "format": artifact.format.value,
            "method": artifact.method,
            "files": artifact.files,
            "source_sha256": artifact.source_sha256,
        },
        "weights_sha256": artifact.weights_sha256,
        "config_sha256": artifact.config_sha256,
        "inputs_sha256": sha256_tree(reference),
        "runtime": runtime,
        "environment": environment,
        "environment_sha256": sha256_json(environment),
        "tolerance": verdict["tolerance"],
        "verdicts": verdict["verdicts"],
        "report_sha256": sha256_json(verdict),
    }
    return {**body, "sha256": sha256_json(body)}


def describe_environment() -> dict[str, Any]:
    """Interpreter, architecture and versions that a verdict was made with."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def read_certificate(path: Path) -> dict[str, Any]:
    """Read a certificate whose body is the one that was written.

    Raises:
        DataError: there is none, or it was edited.
    """
    try:
        certificate: dict[str, Any] = decode(read_json(path), Certificate, path.name)
        written = certificate["sha256"]
        body = {name: value for name, value in certificate.items() if name != "sha256"}
        digest = sha256_json(body)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not a certificate",
            got=f"{type(error).__name__}: {error}",
            expected="the file that the stage `validate` writes",
            remedy="validate the artifact",
        ) from error
    if digest != written:
        raise DataError(
            f"{path} was edited",
            got=f"a body of sha256 {digest}",
            expected=written,
            remedy="validate the artifact again",
        )
    return certificate


def certificate_faults(
    certificate: dict[str, Any],
    verdict: dict[str, Any],
    artifact: Artifact,
    *,
    job: str,
    runtime: dict[str, Any],
) -> list[str]:
    """Why a certificate does not let an artifact through as a job; empty where it does.

    Args:
        certificate: the one that is shown.
        verdict: the parity report as JSON.
        artifact: what is to be let through.
        job: as which.
        runtime: with which it is to run.
    """
    if certificate["job"] != job:
        return [f"the certificate is about another job: {certificate['job']}"]
    if certificate["runtime"] != runtime:
        return [f"the certificate is about another runtime: {certificate['runtime']}, not {runtime}"]
    if certificate["artifact"]["sha256"] != artifact.sha256:
        judged = f"certified {certificate['artifact']['sha256']}, exported {artifact.sha256}"
        return [f"the certificate is about another artifact: {judged}"]
    if certificate["report_sha256"] != sha256_json(verdict):
        return ["the certificate is about another verdict: validate again"]
    return [] if certificate["passed"] else ["did not pass", *verdict["reasons"]]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
