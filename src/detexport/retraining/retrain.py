"""Retrain and export: new data in, a promoted version out, or the reason why not.

A retraining run executes the project's DVC pipeline and decides nothing that a stage decides. It adds what an
unattended run needs: it fetches, checks the data before anything is trained on it, compares a re-export with
the champion, reports, and can be started again after a kill at any moment.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout

from detexport.config.params import PARAMS, load_values
from detexport.errors import BROKEN, REQUEST, VERDICT, DetexportError, fail
from detexport.registry.evidence import read_lineage
from detexport.retraining.data_checks import check_data
from detexport.retraining.notification import NotificationError, check_address, keep_pending, send_pending
from detexport.retraining.pipeline import Pipeline
from detexport.retraining.settings import RetrainingSettings, read_retraining_settings
from detexport.retraining.summary import (
    ACCEPTED,
    DIFFERS,
    FAILED,
    NOT_COMPARED,
    PARTLY_PROMOTED,
    PASSED,
    PROMOTED,
    REFUSED,
    UNCHANGED,
    Step,
    Summary,
    write_summary,
)
from detexport.retraining.time_limit import time_limit
from detexport.system.digests import sha256_file
from detexport.system.environment import changes, describe_environment
from detexport.system.files import read_json, write_json
from detexport.system.redaction import redact

if TYPE_CHECKING:
    from detexport.registry.champions import Champion

FOLDER = Path("outputs/retraining")
LOCK, STATE, PENDING = FOLDER / "lock", FOLDER / "state.json", FOLDER / "notifications"
"""The lock, the state of a run that is not complete, the notifications that were not received."""
REPORTS = Path("reports")
STATISTICS = Path("outputs/data_statistics.json")
RECEIPTS, DECISIONS = Path("outputs/registered.json"), Path("outputs/promoted.json")
ENVIRONMENT = Path("outputs/environment.json")
DATA_STAGE = "describe_data"
T = TypeVar("T")


class RunningError(DetexportError):
    """Another retraining run is active in this project."""

    exit_code = BROKEN


@dataclass(frozen=True)
class Options:
    """What a run does besides training, exporting and deciding.

    Args:
        fetch: update and pull data and results first.
        push: upload data and results in the end.
        accept_data: train on data that the checks refuse.
        accept_reexport: register artifacts that differ from their champion, of the same model.
        timeout_s: end the run as failed after this many seconds; None for no limit.
        notify: address that receives the summary; empty for none.
    """

    fetch: bool = True
    push: bool = True
    accept_data: bool = False
    accept_reexport: bool = False
    timeout_s: float | None = None
    notify: str = ""


def retrain(project: Path, options: Options) -> Summary:
    """Retrain, export, validate and promote once in a project.

    Returns:
        The summary, which is also in ``reports/``; its ``exit_code`` is 0 or 1.

    Raises:
        RunningError: another retraining run is active.
        TimeLimitError: the time was up; the next run continues.
        NotificationError: the summary was not received.
        DetexportError: a step failed, or the project is invalid; the summary has the error, too.
    """
    if options.notify:
        check_address(options.notify)
    pipeline = Pipeline(project.resolve())
    with contextlib.chdir(pipeline.root), _locked():
        run = _Run(pipeline, options)
        try:
            with time_limit(options.timeout_s):
                run.execute()
        except Exception as error:
            run.fail(error)
            try:
                run.report()
            except NotificationError as unsent:
                fail(unsent)
            raise
        run.report()
    return run.summary


@dataclass(frozen=True)
class State:
    """The state of a run from its first change to its summary; the next run of a killed one continues it.

    Args:
        champions: number of each champion's version before the run, by the registered name.
        decisions_sha256: digest of the file of decisions before the run; empty if there was none.
        environment: what changed in the environment.
        accepted_data: digest of the data that are trained on although the checks refuse them; empty for none.
    """

    champions: dict[str, str]
    decisions_sha256: str
    environment: list[str] = field(default_factory=list)
    accepted_data: str = ""

    @classmethod
    def read(cls) -> "State | None":
        """Return the state of the last run if it was interrupted or failed, else None."""
        return cls(**read_json(STATE)) if STATE.is_file() else None

    def write(self) -> None:
        """Store the state."""
        write_json(STATE, asdict(self))


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Hold the lock of the project's retraining; it ends with the process."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(LOCK, timeout=0):
            yield
    except Timeout as error:
        raise RunningError(
            "another retraining run is active in this project",
            got=f"{error.lock_file} is locked",
            expected="one retraining run at a time",
            remedy="wait until it ends",
        ) from error


@dataclass
class _Run:
    """One run.

    Args:
        pipeline: the project's pipeline.
        options: the caller's options.
        summary: what was done so far.
    """

    pipeline: Pipeline
    options: Options
    summary: Summary = field(init=False)

    def __post_init__(self) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.summary = Summary(str(self.pipeline.root), now)

    def execute(self) -> None:
        """Do all steps up to the first refusal."""
        pipeline, summary, options = self.pipeline, self.summary, self.options
        settings = read_retraining_settings(PARAMS)
        if options.fetch:
            self._step("update imports", pipeline.update_imports)
            self._step("pull", pipeline.pull)
        state = State.read()
        summary.resumed = state is not None
        # Preflight removes the description of another environment.
        summary.environment = _environment_changes() or (state.environment if state else [])
        self._step("preflight", pipeline.preflight)
        summary.stale = self._step("status", pipeline.stale)
        if not summary.stale and state is None:
            summary.outcome = UNCHANGED
            return
        from detexport.retraining.champions import champions_of_jobs  # imports MLflow: seconds

        champions = self._step("read champions", champions_of_jobs)
        state = state or State({name: one.version for name, one in champions.items()}, _decisions_sha256())
        state = replace(state, environment=summary.environment)
        state.write()
        if self._check_data(champions, state, settings) and self._export() and self._check_parity(champions):
            refusal = self._step("register, promote", pipeline.repro)
            if refusal:
                summary.refuse(*_refused_jobs(refusal.reason))
            self._read_decisions(state)
        if options.push:
            summary.pushed = self._step("push", pipeline.push)

    def fail(self, error: Exception) -> None:
        """End the run as failed."""
        self.summary.outcome, self.summary.reasons = FAILED, [redact(str(error))]
        self.summary.exit_code = error.exit_code if isinstance(error, DetexportError) else BROKEN

    def report(self) -> None:
        """Write the summary, and send it unless nothing changed.

        Raises:
            NotificationError: it was not received; the summary of a run that did not fail says so, too.
        """
        summary = self.summary
        write_summary(summary, REPORTS)
        if summary.outcome != UNCHANGED and self.options.notify:
            keep_pending(PENDING, summary.to_json())
        if summary.outcome != FAILED:
            STATE.unlink(missing_ok=True)
        if not self.options.notify:
            return
        try:
            send_pending(PENDING, self.options.notify)
        except NotificationError as unsent:
            if summary.outcome != FAILED:
                summary.exit_code = unsent.exit_code
            summary.reasons.append(str(unsent))
            write_summary(summary, REPORTS)
            raise

    def _check_data(
        self, champions: "Mapping[str, Champion]", state: State, settings: RetrainingSettings
    ) -> bool:
        """Compare the data with a champion's; return whether they may be trained on."""
        # A data set that cannot be read is an invalid request of its stage; in a nightly run it means that
        # the new data are bad, so it is a refusal.
        refusal = self._step(
            "prepare data", lambda: self.pipeline.repro(DATA_STAGE, refusals=(VERDICT, REQUEST))
        )
        if refusal:
            self.summary.refuse(f"data: {refusal.reason}")
            return False
        before = _newest_data(champions)
        if before is None:
            lacking = "no champion has statistics" if champions else "there is no champion"
            self.summary.reasons.append(f"data: not compared: {lacking}")
        self.summary.data = check_data(read_json(STATISTICS), before, settings.data)
        refused = [row.reason for row in self.summary.data if not row.passed]
        if not refused:
            return True
        accept = self._accepts_data(state)
        if accept:
            self.summary.reasons += [f"accepted: {reason}" for reason in refused]
        else:
            self.summary.refuse(*refused)
        return accept

    def _accepts_data(self, state: State) -> bool:
        """Return whether these data are accepted: by this run, or by the one that it completes."""
        digest = read_lineage(Path()).data_of(DATA_STAGE).get("md5", "")
        if self.options.accept_data:
            replace(state, accepted_data=digest).write()
        return self.options.accept_data or bool(digest and digest == state.accepted_data)

    def _export(self) -> bool:
        """Do all up to the registration; return whether nothing was refused."""
        names = load_values("jobs")
        refusal = self._step(
            "train, export, validate", lambda: self.pipeline.repro(*(f"metrics@{name}" for name in names))
        )
        if refusal:
            self.summary.refuse(f"{refusal.stage}: {refusal.reason}")
        return refusal is None

    def _check_parity(self, champions: "Mapping[str, Champion]") -> bool:
        """Compare new artifacts of a champion's own model with the champion; return whether they agree."""
        from detexport.retraining.champions import compare_reexports

        found = self._step("compare with the champions", lambda: compare_reexports(champions))
        accept, reasons = self.options.accept_reexport, []
        for job, one in found.items():
            champion = f"the champion's (version {champions[job].version}, same weights)"
            if one.not_compared:
                self.summary.parity[job] = NOT_COMPARED
                self.summary.reasons.append(
                    f"{job}: the new artifact was not compared with {champion}: {one.not_compared}"
                )
            elif one.differences:
                self.summary.parity[job] = ACCEPTED if accept else DIFFERS
                reasons += [
                    f"{job}: the new artifact differs from {champion}: {reason}" for reason in one.differences
                ]
            else:
                self.summary.parity[job] = PASSED
        if accept:
            self.summary.reasons += [f"accepted: {reason}" for reason in reasons]
        elif reasons:
            self.summary.refuse(*reasons)
        return accept or not reasons

    def _read_decisions(self, state: State) -> None:
        """Read what the stage ``promote`` decided in this run, or in the one that it completes.

        Only a version that is the champion now, and was not before, was promoted: the stage repeats decisions
        of the past, which a rollback may have revoked.
        """
        from detexport.retraining.champions import champions_of_jobs

        summary = self.summary
        if DECISIONS.is_file() and _decisions_sha256() != state.decisions_sha256:
            summary.decisions = read_json(DECISIONS)["decisions"]
        champions = champions_of_jobs() if summary.decisions else {}
        now = {name: one.version for name, one in champions.items()}
        for one in summary.decisions:
            is_new = one["version"] == now.get(one["name"]) != state.champions.get(one["name"])
            if one["decision"] == "promoted" and not is_new:
                one["decision"] = "unchanged"
        kinds = {one["decision"] for one in summary.decisions}
        if kinds & {"refused", "experiment"}:
            summary.refuse(
                *(
                    f"{one['name']}: {one['decision']}: {reason}"
                    for one in summary.decisions
                    if one["decision"] in ("refused", "experiment")
                    for reason in one["reasons"]
                )
            )
        if summary.outcome != REFUSED:
            summary.outcome = PROMOTED if "promoted" in kinds else UNCHANGED
        elif "promoted" in kinds:
            summary.outcome = PARTLY_PROMOTED

    def _step(self, name: str, work: Callable[[], T]) -> T:
        """Do a step and measure its duration."""
        began = time.monotonic()
        try:
            return work()
        finally:
            self.summary.steps.append(Step(name, round(time.monotonic() - began, 2)))


def _newest_data(champions: "Mapping[str, Champion]") -> Mapping[str, Any] | None:
    """Return the statistics of the newest champion that has some; None if none has."""
    known = [(one.created_ms, one.data) for one in champions.values() if one.data is not None]
    return max(known, key=lambda one: one[0])[1] if known else None


def _decisions_sha256() -> str:
    """Return the digest of the file of decisions; empty if there is none."""
    return sha256_file(DECISIONS) if DECISIONS.is_file() else ""


def _environment_changes() -> list[str]:
    """Return what changed in the environment since the pipeline described it."""
    return changes(read_json(ENVIRONMENT), describe_environment()) if ENVIRONMENT.is_file() else []


def _refused_jobs(reason: str) -> list[str]:
    """Return why jobs were not registered: the receipts of the stage ``register``, else its own error."""
    refused = read_json(RECEIPTS)["refused"] if RECEIPTS.is_file() else []
    return [f"{one['job']}: {why}" for one in refused for why in one["reasons"]] or [reason]
