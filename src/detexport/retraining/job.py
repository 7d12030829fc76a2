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
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock, Timeout

from detexport.config.params import load_values
from detexport.errors import BROKEN, REQUEST, VERDICT, DetexportError, fail
from detexport.retraining.data_checks import check_data
from detexport.retraining.notification import NotificationError, check_address, keep_pending, send_pending
from detexport.retraining.pipeline import Pipeline
from detexport.retraining.settings import RetrainingSettings
from detexport.retraining.summary import FAILED, PROMOTED, REFUSED, UNCHANGED, Step, Summary, write_summary
from detexport.system.files import read_json, write_json
from detexport.system.redaction import redact

if TYPE_CHECKING:
    from detexport.registry.champions import Champion

FOLDER = Path("outputs/retraining")
LOCK, STATE, PENDING = FOLDER / "lock", FOLDER / "state.json", FOLDER / "notification.json"
"""The lock, the state of a run that is not complete, a notification that was not received."""
REPORTS = Path("reports")
STATISTICS = Path("outputs/data_statistics.json")
RECEIPTS, DECISIONS = Path("outputs/registered.json"), Path("outputs/promoted.json")
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
        notify: address that receives the summary; empty for none.
    """

    fetch: bool = True
    push: bool = True
    accept_data: bool = False
    notify: str = ""


def retrain(project: Path, options: Options) -> Summary:
    """Retrain, export, validate and promote once in a project.

    Returns:
        The summary, which is also in ``reports/``; its ``exit_code`` is 0 or 1.

    Raises:
        RunningError: another retraining run is active.
        DetexportError: a step failed, or the project is invalid; the summary has the error, too.
    """
    if options.notify:
        check_address(options.notify)
    pipeline = Pipeline(project.resolve())
    with contextlib.chdir(pipeline.root), _locked():
        run = _Run(pipeline, options)
        try:
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
        accept_data: whether data that the checks refuse are trained on.
    """

    champions: dict[str, str]
    accept_data: bool = False

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
        if options.fetch:
            self._step("update imports", pipeline.update_imports)
            self._step("pull", pipeline.pull)
        self._step("preflight", pipeline.preflight)
        summary.stale = self._step("status", pipeline.stale)
        state = State.read()
        summary.resumed = state is not None
        if not summary.stale and state is None:
            summary.outcome = UNCHANGED
            return
        from detexport.retraining.champions import champions_of_jobs  # imports MLflow: seconds

        champions = self._step("read champions", champions_of_jobs)
        state = state or State({name: one.version for name, one in champions.items()})
        state = replace(state, accept_data=state.accept_data or options.accept_data)
        state.write()
        if (
            self._check_data(champions, state.accept_data)
            and self._export()
            and self._check_parity(champions)
        ):
            refusal = self._step("register, promote", pipeline.repro)
            if refusal:
                summary.refuse(*_refused_jobs(refusal.reason))
            self._read_decisions(state.champions)
        if options.push:
            summary.pushed = self._step("push", pipeline.push)

    def fail(self, error: Exception) -> None:
        """End the run as failed."""
        self.summary.outcome, self.summary.reasons = FAILED, [redact(str(error))]
        self.summary.exit_code = error.exit_code if isinstance(error, DetexportError) else BROKEN

    def report(self) -> None:
        """Write the summary, and send it unless nothing changed.

        Raises:
            NotificationError: it was not received.
        """
        summary = self.summary
        write_summary(summary, REPORTS)
        if summary.outcome != UNCHANGED and self.options.notify:
            keep_pending(PENDING, summary.to_json())
        if summary.outcome != FAILED:
            STATE.unlink(missing_ok=True)
        if self.options.notify:
            send_pending(PENDING, self.options.notify)

    def _check_data(self, champions: "Mapping[str, Champion]", accept: bool) -> bool:
        """Compare the data with the newest champion's; return whether they may be trained on."""
        # A data set that cannot be read is an invalid request of its stage; in a nightly run it means that
        # the new data are bad, so it is a refusal.
        refusal = self._step(
            "prepare data", lambda: self.pipeline.repro(DATA_STAGE, refusals=(VERDICT, REQUEST))
        )
        if refusal:
            self.summary.refuse(f"data: {refusal.reason}")
            return False
        newest = max(champions.values(), key=lambda one: one.created_ms, default=None)
        limits = RetrainingSettings.of(load_values("retraining")).data
        before = newest.data if newest else None
        self.summary.data = check_data(read_json(STATISTICS), before, limits)
        refused = [row.reason for row in self.summary.data if not row.passed]
        if accept:
            self.summary.reasons += [f"accepted: {reason}" for reason in refused]
        elif refused:
            self.summary.refuse(*refused)
        return accept or not refused

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
        self.summary.parity = {job: not reasons for job, reasons in found.items()}
        reasons = [
            f"{job}: the new artifact differs from the champion's "
            f"(version {champions[job].version}, same weights): {reason}"
            for job, faults in found.items()
            for reason in faults
        ]
        if reasons:
            self.summary.refuse(*reasons)
        return not reasons

    def _read_decisions(self, before: Mapping[str, str]) -> None:
        """Read the stage's decisions; a version that was the champion before the run is unchanged."""
        summary = self.summary
        summary.decisions = read_json(DECISIONS)["decisions"] if DECISIONS.is_file() else []
        for one in summary.decisions:
            if one["decision"] == "promoted" and before.get(one["name"]) == one["version"]:
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
        elif summary.outcome != REFUSED:
            summary.outcome = PROMOTED if "promoted" in kinds else UNCHANGED

    def _step(self, name: str, work: Callable[[], T]) -> T:
        """Do a step and measure its duration."""
        began = time.monotonic()
        try:
            return work()
        finally:
            self.summary.steps.append(Step(name, round(time.monotonic() - began, 2)))


def _refused_jobs(reason: str) -> list[str]:
    """Return why jobs were not registered: the receipts of the stage ``register``, else its own error."""
    refused = read_json(RECEIPTS)["refused"] if RECEIPTS.is_file() else []
    return [f"{one['job']}: {why}" for one in refused for why in one["reasons"]] or [reason]
