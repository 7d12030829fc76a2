"""Render the report: one self-contained HTML file."""

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from detexport.contract import ResizeRule
from detexport.reference.input_kinds import KINDS
from detexport.report.charts import PrecisionRecall, TradeOff, kinds_of, precision_recall, trade_offs
from detexport.report.collect import ReportedJob, ReportedModel, Results
from detexport.report.comparisons import DRAWN_FROM, Comparison, ModelComparisons
from detexport.report.error_table import error_rows, largest_fraction
from detexport.report.evidence_lines import error_columns, evidence_lines, floor_columns
from detexport.report.glossary import TERMS
from detexport.report.number_format import number
from detexport.report.recommend import Budget, Recommendation, recommend
from detexport.report.rendering import environment
from detexport.results.latency import NOISY, is_noisy
from detexport.system.atomic import atomic_file
from detexport.system.redaction import public_uri

TEMPLATE = "page.html.jinja"
SHOWN = 8
"""Most reasons and rows that are shown; the JSON files have all."""


@dataclass(frozen=True)
class InputRow:
    """The inputs of one kind.

    Args:
        kind: the kind.
        meaning: what they are.
        run: number of inputs that the job ran on.
        unsupported: number of inputs outside its declared support.
    """

    kind: str
    meaning: str
    run: int
    unsupported: int


@dataclass(frozen=True)
class ModelSection:
    """What the report shows of one model.

    Args:
        model: its results.
        jobs: its jobs.
        recommendation: the job to ship.
        kinds: how eager and each target are marked in charts, see ``kinds_of``.
        trade_offs: accuracy against latency.
        curves: precision-recall curves.
        comparisons: the worst images of each job, by its name.
        images: the images to embed: data URI and size (height, width), by id.
        truth_faults: why ground truth of the worst images is not drawn.
    """

    model: ReportedModel
    jobs: tuple[ReportedJob, ...]
    recommendation: Recommendation
    kinds: dict[str, str]
    trade_offs: tuple[TradeOff, ...]
    curves: tuple[PrecisionRecall, ...]
    comparisons: dict[str, list[Comparison]]
    images: dict[str, tuple[str, tuple[int, int]]]
    truth_faults: tuple[str, ...]


def write_page(
    results: Results,
    path: Path,
    *,
    budget: Budget,
    data_dir: Path | None = None,
    categories: Sequence[str] | None = None,
) -> None:
    """Write the report; the same results give the same bytes.

    Args:
        results: from ``collect``.
        path: the HTML file, written atomically.
        budget: the limits of a recommended artifact.
        data_dir: the data set, for the ground truth; without it the page says why there is none.
        categories: names of the data set's classes to keep; None keeps all.

    Raises:
        MissingPackageError: the template engine is not installed.
    """
    sections = [_section(model, results, budget, data_dir, categories) for model in results.models]
    page = (
        environment(GLOBALS, FILTERS)
        .get_template(TEMPLATE)
        .render(
            results=results,
            sections=sections,
            budget=budget,
            tracking_uri=public_uri(results.tracking_uri),
            first_divergences=_first_divergences(results),
        )
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _section(
    model: ReportedModel,
    results: Results,
    budget: Budget,
    data_dir: Path | None,
    categories: Sequence[str] | None,
) -> ModelSection:
    recommendation = recommend(model.name, results.jobs, budget)
    own = tuple(job for job in results.jobs if job.model == model.name)
    compared = ModelComparisons(model, data_dir, categories)
    comparisons = {job.name: list(compared.of(job)) for job in own}
    charts = trade_offs(
        model,
        own,
        recommendation.job,
        device=budget.device,
        ap_loss=budget.ap_loss,
        latency_ms=budget.latency_ms,
    )
    return ModelSection(
        model=model,
        jobs=own,
        recommendation=recommendation,
        kinds=kinds_of(own, recommendation.job),
        trade_offs=tuple(charts),
        curves=tuple(precision_recall(model, own, recommendation.job)),
        comparisons=comparisons,
        images=compared.images,
        truth_faults=compared.faults,
    )


def _first_divergences(results: Results) -> dict[str, str]:
    """Return the image of each job's first divergence as a data URI, by the job's name."""
    folders = {model.name: model.folder for model in results.models}
    images = {
        job.name: folders[job.model] / "parity" / f"{job.target}_diagnosis" / "difference.png"
        for job in results.jobs
    }
    return {
        name: f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}"
        for name, path in images.items()
        if path.is_file()
    }


def input_rows(job: ReportedJob, model: ReportedModel) -> list[InputRow]:
    """Return the inputs of each kind: those that a job ran on, and those outside its declared support."""
    kinds = {sample["id"]: sample["kind"] for sample in model.reference.get("samples", [])}
    run = Counter(kinds.get(sample["id"], "") for sample in job.parity["samples"])
    unsupported = Counter(kinds.get(id, "") for id in job.parity["unsupported_inputs"])
    present = dict.fromkeys(kinds.values())
    return [InputRow(kind, KINDS.get(kind, ""), run[kind], unsupported[kind]) for kind in present]


def coverage_table(results: Results) -> tuple[list[str], dict[str, dict[str, dict[str, Any]]]]:
    """Return the targets, and the cells by architecture and target, of the measured coverage."""
    targets = list(dict.fromkeys(cell["target"] for cell in results.coverage))
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in results.coverage:
        rows.setdefault(cell["architecture"], {})[cell["target"]] = cell
    return targets, rows


def headline_words(jobs: Sequence[ReportedJob]) -> list[str]:
    """Return the task metrics of any of the jobs, in words."""
    return list(dict.fromkeys(headline.words for job in jobs for headline in job.headlines))


def metric_terms(jobs: Sequence[ReportedJob]) -> list[str]:
    """Return the terms of the task metrics of any of the jobs: AP, AR, PQ, mIoU."""
    names = (headline.name.rpartition("/")[2] for job in jobs for headline in job.headlines)
    return list(dict.fromkeys("AR" if name == "AR100" else name for name in names))


def day(time: str) -> str:
    """Return the day and the minute of an ISO 8601 time in UTC, for people."""
    return f"{datetime.fromisoformat(time):%-d %B %Y, %H:%M} UTC"


def value(number_or_flag: Any) -> str:
    """Return a value of a decision: a number in few digits, or another value as it is."""
    if isinstance(number_or_flag, bool) or not isinstance(number_or_flag, int | float | None):
        return str(number_or_flag)
    return number(number_or_flag)


GLOBALS: dict[str, Any] = {"TERMS": TERMS, "SHOWN": SHOWN, "NOISY": NOISY, "drawn_from": DRAWN_FROM}
FILTERS: dict[str, Callable[..., Any]] = {
    "columns": error_columns,
    "coverage_table": coverage_table,
    "day": day,
    "error_rows": error_rows,
    "evidence_lines": evidence_lines,
    "floor_columns": floor_columns,
    "headline_words": headline_words,
    "input_rows": input_rows,
    "is_noisy": is_noisy,
    "largest_fraction": largest_fraction,
    "metric_terms": metric_terms,
    "resize_rule": lambda rule: ResizeRule(**rule).text,
    "value": value,
}
