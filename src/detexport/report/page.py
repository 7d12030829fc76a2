"""Render the report: one self-contained HTML file."""

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detexport.contract import Contract
from detexport.parity.measures import MEASURES, limited_errors, unlimited_errors
from detexport.parity.verdict import read_drawn
from detexport.predictions.drawing import Overlay, draw, font_size, image_uri
from detexport.reference.store import read_reference
from detexport.report.collect import ReportedJob, ReportedModel, Results
from detexport.system.atomic import atomic_file
from detexport.system.extras import extra_imports
from detexport.system.redaction import public_uri

TEMPLATE = "page.html.jinja"
DRAWN_FROM = 0.5  # lowest score that is drawn; the verdicts cover all detections


@dataclass(frozen=True)
class Panel:
    """One side of a comparison: an image's outputs by the eager model or by an artifact.

    Args:
        title: ``eager``, or the target's name.
        overlay: the drawing; None if the artifact has no outputs to draw.
        passed: the sample's verdict; None for the eager model.
        note: the largest errors, or the first reason of a failure.
    """

    title: str
    overlay: Overlay | None
    passed: bool | None
    note: str


@dataclass(frozen=True)
class Comparison:
    """One validation image with the outputs of the eager model and of each target.

    Args:
        id: the sample's id, with its model.
        file: the image's file name.
        image: the image as a data URI.
        size: height and width of the output in px, in which everything is drawn.
        font_size: that of the labels, in px of the output.
        panels: the eager model first.
    """

    id: str
    file: str
    image: str
    size: tuple[int, int]
    font_size: float
    panels: tuple[Panel, ...]


def write_page(results: Results, path: Path) -> None:
    """Write the report.

    Args:
        results: from ``collect``.
        path: the HTML file, written atomically.

    Raises:
        MissingPackageError: the template engine is not installed.
    """
    page = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            results=results,
            tracking_uri=public_uri(results.tracking_uri),
            comparisons={model.name: list(draw_comparisons(model, results.jobs)) for model in results.models},
            differences=_differences(results),
            versions=_versions(results),
            drawn_from=DRAWN_FROM,
        )
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _differences(results: Results) -> dict[str, str]:
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


def draw_comparisons(model: ReportedModel, jobs: tuple[ReportedJob, ...]) -> Iterator[Comparison]:
    """Draw the samples whose outputs the model's jobs stored, next to the eager model's outputs."""
    own = [job for job in jobs if job.model == model.name]
    drawn = {job.target: _read_drawn(model, job.target) for job in own}
    wanted = {id for outputs in drawn.values() for id in outputs}
    if not wanted or not model.contract:
        return
    contract = Contract.from_json(model.contract)
    for sample in read_reference(model.folder / "reference").samples:
        meta = sample.meta
        if meta.id not in wanted:
            continue
        drawn_as = partial(draw, contract=contract, output_size=meta.output_size, min_score=DRAWN_FROM)
        panels = [Panel("eager", drawn_as(sample.expected()), None, "the reference")]
        for job in own:
            outputs = drawn[job.target].get(meta.id)
            overlay = drawn_as(outputs) if outputs else None
            panels.append(_panel(job, meta.id, overlay))
        yield Comparison(
            id=f"{model.name}-{meta.id}",
            file=meta.file,
            image=image_uri(sample.image(), contract.channel_order),
            size=meta.output_size,
            font_size=round(font_size(meta.output_size), 2),
            panels=tuple(panels),
        )


def _panel(job: ReportedJob, id: str, overlay: Overlay | None) -> Panel:
    measured = [sample for sample in job.parity.get("samples", []) if sample["id"] == id]
    if not measured:
        return Panel(job.target, overlay, False, job.reasons[0] if job.reasons else "not run")
    sample = measured[0]
    if sample["reasons"]:
        return Panel(job.target, overlay, False, sample["reasons"][0])
    notes = [
        f"{words} within {number(sample['errors'].get(name), unit)}"
        for name, words, unit in columns(job.parity)
    ]
    if sample["expected"]:
        notes.append(f"{sample['paired']} paired")
    return Panel(job.target, overlay, True, ", ".join(notes))


def _read_drawn(model: ReportedModel, target: str) -> dict[str, Any]:
    path = model.folder / "parity" / f"{target}_drawn.npz"
    return read_drawn(path) if path.is_file() else {}


def columns(parity: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, words and unit of each error with a limit for every sample."""
    return [
        (name, measure.words, measure.unit)
        for name, measure in MEASURES.items()
        if name in parity["max"] and measure.of_samples and measure.limit
    ]


def floor_columns(floor: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, words and unit of each error in the noise floor of a model."""
    found = {name for variant in floor["variants"].values() for name in variant["errors"]}
    return [(name, measure.words, measure.unit) for name, measure in MEASURES.items() if name in found]


def evidence_lines(parity: dict[str, Any], name: str) -> Iterator[str]:
    """Yield the evidence of a verdict in short lines of text."""
    verdict = parity["verdicts"][name]
    if name == "contract":
        yield f"{len(parity['samples'])} inputs"
        coverage = parity["input_coverage"]
        if coverage:
            yield ", ".join(f"{count} {kind}" for kind, count in coverage["kinds"].items())
            yield from (f"not tested: {gap}" for gap in coverage["gaps"])
        for reason, count in Counter(parity["unsupported_inputs"].values()).items():
            yield f"{count} inputs outside the declared support: {reason}"
    elif name == "numerics":
        for measure, worst, limit in limited_errors({**parity, "accuracy": None}):
            yield f"{measure.words} {number(worst, measure.unit)}, limit {limit}"
        errors = unlimited_errors(parity)
        if errors:
            words = ", ".join(f"{measure.words} {number(worst, measure.unit)}" for measure, worst in errors)
            yield f"without a limit: {words}"
        if parity["tolerance"] and parity["limits"]:
            noise = ", ".join(f"{limit['name']} {number(limit['floor'])}" for limit in parity["limits"])
            yield f"noise floor: {noise}"
        noise_dominated = {
            id: ", ".join(names) for id, names in parity["undetermined"]["noise_dominated"].items()
        }
        yield from (f"undetermined on {id}: {names}" for id, names in _first(noise_dominated))
    elif name == "matching":
        counts = parity["detections"]
        yield f"{counts['paired']} of the eager model's {counts['expected']} detections paired"
        yield f"{len(parity['unmatched'])} unmatched"
        yield from (f"undetermined on {id}: {why}" for id, why in _first(parity["undetermined"]["why"]))
    elif name == "accuracy" and parity["accuracy"]:
        yield from _of_metric(parity["accuracy"])
    if verdict["note"] and name != "contract":  # its note repeats the inputs above
        yield verdict["note"]


def _first(by_input: dict[str, str], limit: int = 5) -> list[tuple[str, str]]:
    """Return the texts of the first inputs, and the number of other inputs."""
    left = len(by_input) - limit
    more = [(f"{left} more inputs", "see the verdict's JSON file")] if left > 0 else []
    return [*list(by_input.items())[:limit], *more]


def _of_metric(accuracy: dict[str, Any]) -> Iterator[str]:
    yield f"{accuracy['images']} annotated images"
    for name, difference in accuracy["differences"].items():
        interval = accuracy.get("intervals", {}).get(name)
        between = f", 95 % interval {interval[0]:+.4f} to {interval[1]:+.4f}" if interval else ""
        reached = accuracy["artifact"].get(name, 0.0)
        yield f"{name} {reached:.4f}, eager {accuracy['eager'][name]:.4f}: delta {difference:+.4f}{between}"
    yield f"budget {accuracy['budget']:g}"


def number(value: float | None, unit: str = "") -> str:
    """Return a measured value with its unit in few digits; a dash if it is None."""
    if value is None:
        return "\u2013"
    return f"{_short(value)} {unit}".rstrip()


def _short(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def size(size_bytes: float) -> str:
    """Return a file's size in MB, or in kB below 1 MB."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.1f} kB"


def speed(ratio: float) -> str:
    """Return a ratio of latencies in words."""
    if 0.98 <= ratio <= 1.02:
        return "as fast as eager"
    return f"{1 / ratio:.2f}\u00d7 faster" if ratio < 1 else f"{ratio:.2f}\u00d7 slower"


def longest_ms(measured: dict[str, Any]) -> float:
    """Return the end of a device's latency axis in ms, at most 1.5 times the largest p90, to cut outliers."""
    runners = measured["runners"].values()
    p90s = [runner["p90_ms"] for runner in runners]
    return min(max((runner["p99_ms"] for runner in runners), default=1), 1.5 * max(p90s, default=1))


def is_noisy(measured: dict[str, Any]) -> bool:
    """Return whether any p90 is more than twice its median, which other load on the machine causes."""
    return any(runner["p90_ms"] > 2 * runner["p50_ms"] for runner in measured["runners"].values())


def share(value: float, longest: float) -> str:
    """Return a value as a percentage of the latency axis, at most 100 %."""
    return f"{100 * min(value / longest, 1):.2f}%"


def _versions(results: Results) -> dict[str, str]:
    """Return the package versions of the artifacts and of the eager model, and its environment."""
    versions: dict[str, str] = {}
    for job in results.jobs:
        versions |= job.artifact.get("versions", {})
    for model in results.models:
        environment = model.reference.get("environment", {})
        versions |= {name: str(value) for name, value in environment.items() if not isinstance(value, dict)}
        versions |= environment.get("versions", {})
    return dict(sorted(versions.items()))


def _environment() -> Any:
    with extra_imports():
        from jinja2 import Environment, PackageLoader, StrictUndefined
    environment = Environment(
        loader=PackageLoader("detexport.report", "."),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name is an error, not an empty string
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "limited_errors": limited_errors,
        "columns": columns,
        "floor_columns": floor_columns,
        "evidence_lines": evidence_lines,
        "size": size,
        "speed": speed,
        "longest_ms": longest_ms,
        "is_noisy": is_noisy,
        "share": share,
    }
    return environment
