"""The promotion gate: whether a version may become the champion, from its evidence in the registry."""

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from detexport.artifact import read_verified
from detexport.errors import ArtifactError, DataError
from detexport.parity.certificate import certificate_faults, read_certificate
from detexport.parity.settings import ParitySettings
from detexport.parity.validation_plan import plan_weaknesses
from detexport.registry.download import ARTIFACT_TAG, find_artifact
from detexport.registry.evidence import CERTIFICATE, LATENCY, VERDICT, evidence_sha256, read_run_latency
from detexport.registry.registry import EVIDENCE, TARGET, Registry, model_id_of
from detexport.registry.settings import GateLimits, weaker_plan
from detexport.registry.verify import model_faults
from detexport.results.job_metrics import job_metrics
from detexport.results.latency import runners_of
from detexport.results.parity_report import read_parity_report
from detexport.system.redaction import redact

ROUNDING = 1e-9


@dataclass(frozen=True)
class Compared:
    """One metric of a version next to the champion's; None if not measured or not limited.

    Args:
        candidate: the version's.
        champion: the champion's.
        limit: the worst value to accept.
    """

    candidate: float | None
    champion: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Measured:
    """A version with its measurements.

    Args:
        version: its number.
        evidence_sha256: the digest of its evidence.
        metrics: see ``job_metrics``.
        machine: the machine that the latency was measured on; empty if none was measured.
        faults: why it is not acceptable, whatever the champion.
    """

    version: int
    evidence_sha256: str
    metrics: Mapping[str, float | bool]
    machine: Mapping[str, Any]
    faults: tuple[str, ...] = ()

    @property
    def accuracy(self) -> dict[str, float]:
        """The task metrics: those with a difference from the eager model's."""
        names = [name.removesuffix("_delta") for name in self.metrics if name.endswith("_delta")]
        return {name: float(self.metrics[name]) for name in names}

    @property
    def latency(self) -> dict[str, float]:
        """The median latency on each device, in ms."""
        return {
            name: float(value)
            for name, value in self.metrics.items()
            if name.startswith("latency_") and name.endswith("_p50_ms")
        }


@dataclass(frozen=True)
class Outcome:
    """The promotion gate's decision.

    Args:
        reasons: why the version must not become the champion; empty if it may.
        notes: what was not compared, and why.
        numbers: the compared metrics, by name.
    """

    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    numbers: dict[str, dict[str, float | None]]


def measure(registry: Registry, version: ModelVersion, required: ParitySettings | None = None) -> Measured:
    """Read a version's measurements from its run, and check its certificate and files.

    Args:
        registry: the registry that has it.
        version: the version.
        required: the weakest validation plan to accept. None for the champion, whose faults decide nothing:
            its files are neither downloaded nor checked.
    """
    number, evidence = int(version.version), version.tags.get(EVIDENCE, "")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            _download_evidence(registry, version, folder)
            verdict = read_parity_report(folder / VERDICT, registered=required is None)
            latency = read_run_latency(folder) or {}
            certificate = read_certificate(folder / CERTIFICATE)
        except DataError as error:
            return Measured(number, evidence, {}, {}, (redact(str(error)),))
    faults: tuple[str, ...] = ()
    if required is not None:
        faults = tuple(_faults(registry, version, verdict, certificate, required))
        if evidence_sha256(certificate, latency, version.tags) != evidence:
            faults = (*faults, "its certificate or its latency is not the one that was registered")
    metrics = job_metrics(verdict, runners_of(latency, version.tags.get(TARGET, "")))
    return Measured(number, evidence, metrics, latency.get("machine", {}), faults)


def _download_evidence(registry: Registry, version: ModelVersion, folder: Path) -> None:
    """Download the evidence in a version's run.

    Raises:
        DataError: the run or a file does not exist.
    """
    run_id, wanted = str(version.run_id), {CERTIFICATE, VERDICT, LATENCY}
    try:
        existing = {file.path for file in registry.client.list_artifacts(run_id)}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        existing = set()
    if missing := sorted(wanted - existing):
        raise DataError(
            f"{version.name} version {version.version} has no evidence",
            got=f"no {', no '.join(missing)} in the run {run_id}",
            expected="the files that the stage `register` stores",
            remedy="register it again: `dvc repro -f -s register`",
        )
    for name in wanted:
        mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name, dst_path=str(folder))


def _faults(
    registry: Registry,
    version: ModelVersion,
    verdict: dict[str, Any],
    certificate: dict[str, Any],
    required: ParitySettings,
) -> Iterator[str]:
    """Yield why the certificate does not accept the version's files, or its plan is too weak."""
    try:
        with registry.files(model_id_of(version)) as folder:
            stored = find_artifact(folder, version.name)
            artifact = read_verified(stored.folder)
            runtime = stored.runtime
            changed = model_faults(version.tags, folder)
    except ArtifactError as error:
        yield redact(str(error))
        return
    tagged = version.tags.get(ARTIFACT_TAG)
    if artifact.sha256 != tagged:
        yield f"its files are another artifact: {artifact.sha256}, registered {tagged}"
    yield from certificate_faults(certificate, verdict, artifact, job=version.name, runtime=runtime)
    yield from (f"its files are not those that were registered: {fault}" for fault in changed)
    for weakness in plan_weaknesses(certificate["plan"], required):
        yield weaker_plan([weakness])


def compare(candidate: Measured, champion: Measured | None, limits: GateLimits) -> Outcome:
    """Compare a version with the champion.

    Args:
        candidate: the version.
        champion: the champion; None if there is none yet, then only the candidate's own faults count.
        limits: how much worse it may be.
    """
    numbers = {name: Compared(value) for name, value in (candidate.accuracy | candidate.latency).items()}
    if champion is None:
        return _outcome(candidate.faults, (), numbers)
    reasons: list[str] = [*candidate.faults]
    notes: list[str] = []
    if not champion.metrics:
        remedy = "take the alias champion off it to begin again"
        reasons.append(f"the champion, version {champion.version}, has no evidence to compare with: {remedy}")
    for name, value in champion.accuracy.items():
        numbers[name] = Compared(candidate.accuracy.get(name), value, value - limits.ap_decrease)
    if champion.latency and candidate.latency and candidate.machine != champion.machine:
        said = (
            f"latency was measured on another kind of machine than version {champion.version}'s: "
            f"{_describe(candidate.machine, champion.machine)}"
        )
        (reasons if limits.same_machine else notes).append(said)
    else:
        for name, value in champion.latency.items():
            limit = value * (1 + limits.latency_increase)
            numbers[name] = Compared(candidate.latency.get(name), value, limit)
    reasons += _exceeded(numbers, champion.version)
    return _outcome(tuple(reasons), tuple(notes), numbers)


def _outcome(reasons: tuple[str, ...], notes: tuple[str, ...], numbers: dict[str, Compared]) -> Outcome:
    return Outcome(reasons, notes, {name: asdict(compared) for name, compared in numbers.items()})


def _exceeded(numbers: Mapping[str, Compared], champion: int) -> Iterator[str]:
    for name, compared in numbers.items():
        if compared.limit is None:
            continue
        if compared.candidate is None or math.isnan(compared.candidate):
            yield f"{name} was not measured; version {champion} has {compared.champion:.4g}"
        elif name.endswith("_ms") and compared.candidate > compared.limit + ROUNDING:
            yield f"{name} {compared.candidate:.4g} is above {_limit(compared, champion)}"
        elif not name.endswith("_ms") and compared.candidate < compared.limit - ROUNDING:
            yield f"{name} {compared.candidate:.4f} is below {_limit(compared, champion)}"


def _limit(compared: Compared, champion: int) -> str:
    return f"the limit {compared.limit:.4g}; version {champion} has {compared.champion:.4g}"


def _describe(machine: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return the entries in which two machines differ."""
    differing = [name for name in {**machine, **other} if machine.get(name) != other.get(name)]
    return "; ".join(f"{name} {machine.get(name)}, not {other.get(name)}" for name in differing)
