"""Verify a registered version: every digest, the certificate, and the outputs on a stored sample."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from detexport.artifact import MANIFEST, Artifact, read_verified
from detexport.errors import ArtifactError, ConfigError, DetexportError, listed
from detexport.parity.certificate import certificate_faults, read_certificate
from detexport.parity.settings import default_settings
from detexport.parity.validate import validate
from detexport.reference.store import read_reference
from detexport.registry.content import PACKAGE, content_digest
from detexport.registry.download import ARTIFACT_TAG, MODEL_URI, TARGET, find_version, reading_registry
from detexport.registry.evidence import CERTIFICATE, VERDICT, evidence_sha256, read_run_latency
from detexport.registry.location import ADDRESS
from detexport.registry.provenance import (
    CERTIFICATE_TAG,
    PROVENANCE,
    PROVENANCE_TAG,
    file_digests,
)
from detexport.registry.registry import EVIDENCE, model_id_of
from detexport.registry.run_files import SAMPLE, sample_tolerance
from detexport.results.parity_report import read_parity_report
from detexport.runtime.session import Engine
from detexport.system.digests import sha256_file, sha256_json
from detexport.system.files import read_json
from detexport.system.progress import Step, silent

SHOWN_FILES = 3
UNREADABLE = (
    *(DetexportError, MlflowException, OSError, ValueError),
    *(KeyError, TypeError, AttributeError, yaml.YAMLError),
)
"""Errors of reading a file that was changed."""


@dataclass(frozen=True)
class Check:
    """One thing that was verified.

    Args:
        name: what.
        faults: why it failed, or was not done; empty if it passed.
        detail: what was compared.
        done: whether anything was compared; False if the check depends on one that failed.
    """

    name: str
    faults: tuple[str, ...] = ()
    detail: str = ""
    done: bool = True

    @property
    def holds(self) -> bool:
        """Whether there is no fault."""
        return not self.faults


@dataclass(frozen=True)
class Verification:
    """What was verified of a version.

    Args:
        name: registered name.
        version: its number.
        provenance_sha256: the digest of its provenance in the registry; empty if there is none.
        checks: in the order in which they were made.
    """

    name: str
    version: str
    provenance_sha256: str
    checks: tuple[Check, ...] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether every check passed."""
        return all(check.holds for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            "name": self.name,
            "version": self.version,
            "holds": self.holds,
            "provenance_sha256": self.provenance_sha256,
            "checks": [
                {
                    "name": one.name,
                    "done": one.done,
                    "holds": one.holds,
                    "detail": one.detail,
                    "faults": list(one.faults),
                }
                for one in self.checks
            ],
        }


def verify_version(
    uri: str,
    *,
    engine_of: Callable[[Artifact, dict[str, Any]], Engine] | None = None,
    device: str = "cpu",
    provenance_sha256: str = "",
    step: Step = silent,
) -> Verification:
    """Download a version's files, compare them with the registry, and run its stored sample.

    The digest of ``provenance.json`` is in the registry's tags, and the digests of all other files are in
    ``provenance.json``: a changed file is found even if every file was adjusted to it.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``, in the store that
            ``mlflow.set_tracking_uri`` or ``MLFLOW_TRACKING_URI`` names.
        engine_of: builds the runtime of an artifact from the options that it was registered with; None does
            not run the sample.
        device: device to run the sample on.
        provenance_sha256: the expected digest of the provenance, kept outside of the registry; empty accepts
            the registry's.
        step: reports the download and the comparisons.

    Raises:
        ConfigError: the URI names no version, or the registry has no such version.
        RegistryError: the store cannot be reached.
    """
    with reading_registry():
        version = _find(uri)
        with tempfile.TemporaryDirectory() as temporary:
            client = mlflow.MlflowClient()
            logged = client.get_logged_model(model_id_of(version))
            with step(f"download {version.name} version {version.version}"):
                model = _download(logged.artifact_location, Path(temporary) / "model")
                files_of_run = client.get_run(str(version.run_id)).info.artifact_uri
                run = _download(files_of_run, Path(temporary) / "run")
            with step("compare its files with their digests"):
                checks, stored = _check_files(version, model, run, provenance_sha256)
            if engine_of is not None and (stored is None or not all(one.holds for one in checks)):
                checks.append(Check("sample", ("a check of the files failed",), done=False))
            elif engine_of is not None and stored is not None:
                with step("load the model and run its sample"):
                    checks.append(_run_sample(model, run, partial(engine_of, stored), device))
    provenance = version.tags.get(PROVENANCE_TAG, "")
    return Verification(version.name, str(version.version), provenance, tuple(checks))


def _find(uri: str) -> ModelVersion:
    match = MODEL_URI.fullmatch(uri)
    if match is None:
        raise ConfigError(
            "this is not a registered version",
            got=uri,
            expected="models:/NAME/VERSION or models:/NAME@ALIAS",
            remedy="copy the address from MLflow's page of the version",
        )
    return find_version(*match.groups())


def _download(uri: str, folder: Path) -> Path:
    """Download the files at a URI into a new folder; it is empty if there are none."""
    folder.mkdir()
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return folder


def _check_files(
    version: ModelVersion, model: Path, run: Path, expected: str
) -> tuple[list[Check], Artifact | None]:
    """Check the files of a downloaded version; return its artifact, too, unless it cannot be read.

    Args:
        version: the version, with its tags.
        model: the folder of its model.
        run: the folder of its run's files.
        expected: the expected digest of the provenance; empty accepts the registry's.
    """
    folders = {"the model": model, "the run": run}
    provenance = _check("provenance", lambda: _provenance_faults(version.tags, folders, expected))
    files = _read_listing(run if provenance.holds else model)
    artifact, stored = _check_artifact(version.tags, model)
    checks = [
        provenance,
        _check("model files", lambda: _file_faults(model, files["model"], closed=True)),
        _check("run files", lambda: _file_faults(run, files["run"], closed=False)),
        artifact,
    ]
    if stored:
        checks += [
            _check("content", lambda: _content_faults(version.tags, model, stored)),
            _check("certificate", lambda: _certificate_faults(version, model, run, stored)),
        ]
    else:
        unread = ("the artifact cannot be read",)
        checks += [Check(name, unread, done=False) for name in ("content", "certificate")]
    return checks, stored


def _check(name: str, faults: Callable[[], Iterator[str]]) -> Check:
    """Collect the faults of a check; files that cannot be read are one."""
    try:
        return Check(name, tuple(faults()))
    except UNREADABLE as error:
        return Check(name, (f"{type(error).__name__}: {error}",))


def model_faults(tags: Mapping[str, str], model: Path) -> tuple[str, ...]:
    """Return how a version's stored model differs from the registry: its provenance, then its files.

    Args:
        tags: the version's.
        model: the folder of its model.
    """
    folders = {"the model": model}
    provenance = _check("provenance", lambda: _provenance_faults(tags, folders))
    if not provenance.holds:
        return provenance.faults
    listing = _read_listing(model)["model"]
    return _check("model files", lambda: _file_faults(model, listing, closed=True)).faults


def _provenance_faults(
    tags: Mapping[str, str], folders: Mapping[str, Path], expected: str = ""
) -> Iterator[str]:
    tag = tags.get(PROVENANCE_TAG)
    if tag is None:
        yield f"the version has no tag {PROVENANCE_TAG}: register it again"
        return
    if expected and tag != expected:
        yield f"the registry's tag is {tag}, expected {expected}"
    for whose, folder in folders.items():
        path = folder / PROVENANCE
        if not path.is_file():
            yield f"{PROVENANCE} of {whose} is missing"
        elif (got := sha256_json(read_json(path))) != tag:
            yield f"{PROVENANCE} of {whose} has the digest {got}, the registry {tag}"


def _read_listing(folder: Path) -> dict[str, dict[str, str]]:
    """Return the digests of files in a provenance; empty if it cannot be read, which is a fault already."""
    try:
        files = read_json(folder / PROVENANCE)["files"]
        return {"model": dict(files["model"]), "run": dict(files["run"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"model": {}, "run": {}}


def _file_faults(folder: Path, listed_files: Mapping[str, str], *, closed: bool) -> Iterator[str]:
    found = file_digests(folder)
    changed = [name for name, sha256 in listed_files.items() if name in found and found[name] != sha256]
    states = {
        "changed": changed,
        "missing": [name for name in listed_files if name not in found],
        # A run may hold files of earlier measurements.
        "not in the provenance": [name for name in found if closed and name not in listed_files],
    }
    for state, names in states.items():
        if names:
            yield f"{state}: {listed(sorted(names), SHOWN_FILES)}"


def _artifact_dir(model: Path) -> Path:
    folders = [path.parent for path in model.glob(f"artifacts/**/{MANIFEST}")]
    if len(folders) != 1:
        raise ArtifactError(
            "the model has not one artifact",
            got=len(folders),
            expected="one folder with artifact.json",
            remedy="register the model again",
        )
    return folders[0]


def _check_artifact(tags: Mapping[str, str], model: Path) -> tuple[Check, Artifact | None]:
    """Hash the artifact's files, compare its digests; return it, too, unless it cannot be read."""
    try:
        artifact = read_verified(_artifact_dir(model))
    except UNREADABLE as error:
        return Check("artifact", (f"{type(error).__name__}: {error}",)), None
    return Check("artifact", tuple(_artifact_faults(tags, artifact))), artifact


def _artifact_faults(tags: Mapping[str, str], artifact: Artifact) -> Iterator[str]:
    given = {
        ARTIFACT_TAG: artifact.sha256,
        "detexport.weights_sha256": artifact.weights_sha256,
        "detexport.config_sha256": artifact.config_sha256,
    }
    for tag, got in given.items():
        if tags.get(tag) != got:
            yield f"{tag.removeprefix('detexport.')} is {got}, in the registry {tags.get(tag)}"


def _content_faults(tags: Mapping[str, str], model: Path, stored: Artifact) -> Iterator[str]:
    """Compute the digest of the content again from the stored files."""
    target = read_json(model / "artifacts" / TARGET)
    code = {name: sha256_file(model / "code" / PACKAGE.name / name) for name in target["code"]}
    requirements = (model / "requirements.txt").read_text(encoding="utf-8").split()
    signature = mlflow.models.Model.load(str(model)).signature.to_dict()
    got = content_digest(stored, target["runtime"], code, requirements, signature)
    if got != tags.get(ADDRESS):
        yield f"artifact, runtime, code, requirements and signature have the digest {got}, " + (
            f"the registry {tags.get(ADDRESS)}"
        )


def _certificate_faults(version: ModelVersion, model: Path, run: Path, stored: Artifact) -> Iterator[str]:
    certificate = read_certificate(run / CERTIFICATE)
    tag = version.tags.get(CERTIFICATE_TAG)
    if certificate["sha256"] != tag:
        yield f"the certificate has the digest {certificate['sha256']}, the registry {tag}"
    if evidence_sha256(certificate, read_run_latency(run), version.tags) != version.tags.get(EVIDENCE):
        yield "the certificate or the latency is not the one that was registered"
    yield from certificate_faults(
        certificate,
        read_parity_report(run / VERDICT, registered=True),
        stored,
        job=version.name,
        runtime=read_json(model / "artifacts" / TARGET)["runtime"],
    )


def _run_sample(model: Path, run: Path, engine_of: Callable[[dict[str, Any]], Engine], device: str) -> Check:
    """Run the artifact on the stored sample, and compare with the eager model's outputs."""
    folder, verdict = _artifact_dir(model), read_parity_report(run / VERDICT, registered=True)
    runtime = read_json(model / "artifacts" / TARGET)["runtime"]
    reference = read_reference(run / SAMPLE)
    (sample,) = reference.samples
    limits = sample_tolerance(verdict, sample.meta.id)
    session = engine_of(runtime).open(folder, device)
    report = validate(
        session,
        reference,
        limits or default_settings().tolerance,
        job=verdict["job"],
        min_detections=0,
        reduced=limits is None,
    )
    result = report.to_json()
    errors = ", ".join(f"{name} {value:.3g}" for name, value in result["max"].items() if value is not None)
    detail = f"{sample.meta.id}: {result['detections']['paired']} detections paired; {errors}"
    return Check("sample", tuple(report.reasons), detail)
