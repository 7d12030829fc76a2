"""Recommend the artifact to ship: of each model the fastest job that passed, within a budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from detexport.errors import ConfigError
from detexport.report.collect import ReportedJob
from detexport.report.number_format import delta, number, size
from detexport.results.job_metrics import MEGABYTE


@dataclass(frozen=True)
class Budget:
    """The limits of a recommended artifact: the section ``report.budget`` of ``params.yaml``.

    Args:
        device: the device whose latency counts.
        latency_ms: largest median latency of one image; None is no limit.
        ap_loss: largest loss of a task metric against the eager model.
        size_mb: largest size of the artifact's files; None is no limit.
    """

    device: str
    latency_ms: float | None
    ap_loss: float
    size_mb: float | None

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ConfigError: a limit is not a positive number; the loss may be 0.
        """
        limits = {"latency_ms": self.latency_ms, "size_mb": self.size_mb}
        wrong = [f"{name}={limit}" for name, limit in limits.items() if limit is not None and not limit > 0]
        if not self.ap_loss >= 0:
            wrong.append(f"ap_loss={self.ap_loss}")
        if wrong:
            raise ConfigError(
                "the report's budget cannot be used",
                got=", ".join(wrong),
                expected="positive numbers, null for no limit; ap_loss may be 0",
                remedy="correct report.budget",
            )

    @property
    def words(self) -> str:
        """The limits in words."""
        limits = [f"a loss of AP of at most {self.ap_loss:g}"]
        if self.latency_ms is not None:
            limits.append(f"a median latency of at most {number(self.latency_ms, 'ms')} on {self.device}")
        if self.size_mb is not None:
            limits.append(f"at most {self.size_mb:g} MB")
        return ", ".join(limits)

    def obstacles(self, job: ReportedJob) -> Iterator[str]:
        """Yield why a job cannot be recommended; nothing if it can."""
        if not job.passed:
            yield "not validated" if not job.parity else "did not pass validation"
            return
        if not job.shipped:
            yield f"not registered: {job.reasons[0]}"
        runner = job.latency.get(self.device)
        if runner is None:
            yield f"latency on {self.device} not measured"
        elif self.latency_ms is not None and runner["p50_ms"] > self.latency_ms:
            yield f"{number(runner['p50_ms'], 'ms')}, over the budget of {number(self.latency_ms, 'ms')}"
        for headline in job.headlines:
            if -headline.difference > self.ap_loss:
                lost = f"{headline.words} {delta(headline.difference)}"
                yield f"{lost}, over the budget of {self.ap_loss:g}"
        if self.size_mb is not None and job.size_bytes and job.size_bytes > self.size_mb * MEGABYTE:
            yield f"{size(job.size_bytes)}, over the budget of {self.size_mb:g} MB"


@dataclass(frozen=True)
class Recommendation:
    """The job to ship of one model.

    Args:
        model: the model's name.
        job: the recommended job; None if no job is within the budget.
        candidates: number of jobs within the budget.
        others: the other jobs, each with the reason why it is not the one.
    """

    model: str
    job: ReportedJob | None
    candidates: int
    others: tuple[tuple[ReportedJob, str], ...]


def recommend(model: str, jobs: Sequence[ReportedJob], budget: Budget) -> Recommendation:
    """Recommend the fastest of a model's jobs within the budget; of equally fast ones the smaller.

    Args:
        model: the model's name.
        jobs: all jobs of the run.
        budget: the limits.
    """
    own = [job for job in jobs if job.model == model]
    obstacles = {job.name: list(budget.obstacles(job)) for job in own}
    candidates = [job for job in own if not obstacles[job.name]]

    def cost(job: ReportedJob) -> tuple[float, int, str]:
        return job.latency[budget.device]["p50_ms"], job.size_bytes or 0, job.name

    best = min(candidates, key=cost, default=None)
    others = []
    for job in own:
        if job is not best:
            reasons = obstacles[job.name] or [f"slower: {number(job.latency[budget.device]['p50_ms'], 'ms')}"]
            others.append((job, "; ".join(reasons)))
    return Recommendation(model, best, len(candidates), tuple(others))
