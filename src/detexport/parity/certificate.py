"""The certificate: the digests of artifact, reference, runtime and environment, the plan, the verdicts.

The registry checks by the digests that the verdicts are about this artifact and were not edited. A
certificate is not a signature: it does not name who measured.
"""

import platform
from pathlib import Path
from typing import Any, TypedDict

from detexport.artifact import Artifact
from detexport.errors import DataError
from detexport.parity.validation_plan import ValidationPlan
from detexport.system.digests import sha256_json, sha256_tree
from detexport.system.files import read_json
from detexport.system.json_values import decode
from detexport.system.versions import package_versions


class CertifiedArtifact(TypedDict):
    """The entry ``artifact`` of a certificate; it has other keys."""

    sha256: str


class Certificate(TypedDict):
    """The entries of a certificate that are checked; it has others."""

    sha256: str
    job: str
    passed: bool
    artifact: CertifiedArtifact
    runtime: dict[str, Any]
    plan: dict[str, Any]
    report_sha256: str


def certify(
    verdict: dict[str, Any],
    artifact: Artifact,
    *,
    reference: Path,
    runtime: dict[str, Any],
    plan: ValidationPlan,
) -> dict[str, Any]:
    """Return the certificate of a verdict.

    Args:
        verdict: the parity report as JSON.
        artifact: the validated artifact.
        reference: folder of the eager model's outputs that it was compared with.
        runtime: the target's runtime, its class and options.
        plan: what it was validated with.
    """
    environment = describe_platform()
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
        "plan": plan.to_json(),
        "tolerance": verdict["tolerance"],
        "verdicts": verdict["verdicts"],
        "report_sha256": sha256_json(verdict),
    }
    return {**body, "sha256": sha256_json(body)}


def describe_platform() -> dict[str, Any]:
    """Return interpreter, system, architecture and package versions of this process."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "versions": package_versions(),
    }


def read_certificate(path: Path) -> dict[str, Any]:
    """Read a certificate, and check its digest.

    Raises:
        DataError: there is no certificate, or it was edited.
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
    """Return why a certificate does not accept an artifact as a job; empty if it does.

    Args:
        certificate: the job's certificate.
        verdict: the parity report as JSON.
        artifact: the artifact to accept.
        job: name of the job.
        runtime: the runtime that the artifact will run in.
    """
    if certificate["job"] != job:
        return [f"the certificate is about another job: {certificate['job']}"]
    if certificate["runtime"] != runtime:
        return [f"the certificate is about another runtime: {certificate['runtime']}, not {runtime}"]
    if certificate["artifact"]["sha256"] != artifact.sha256:
        digests = f"certified {certificate['artifact']['sha256']}, exported {artifact.sha256}"
        return [f"the certificate is about another artifact: {digests}"]
    if certificate["report_sha256"] != sha256_json(verdict):
        return ["the certificate is about another verdict: validate again"]
    return [] if certificate["passed"] else ["did not pass", *verdict["reasons"]]
