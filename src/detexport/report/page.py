"""Render the report: one HTML file that needs nothing beside it."""

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detexport.contract import Contract
from detexport.parity.measures import MEASURES, beside, tell
from detexport.parity.verdict import read_drawn
from detexport.predictions.drawing import Overlay, draw, font_size, image_uri
from detexport.reference.store import read_reference
from detexport.report.collect import Job, Model, Results
from detexport.system.atomic import atomic_file
from detexport.system.extras import extra_imports
from detexport.system.redaction import public_uri

TEMPLATE = "page.html.jinja"
DRAWN_FROM = 0.5  # the least score in the pictures; verdicts are on all detections


@dataclass(frozen=True)
class Panel:
    """One side of a comparison: an image's outputs by the eager model or by an artifact.

    Args:
        title: ``eager``, or the target's name.
        overlay: what is drawn; ``None`` where the artifact gave nothing to draw.
        passed: the sample's verdict; ``None`` for the eager model.
        note: the largest errors, or why nothing is drawn.
    """

    title: str
    overlay: Overlay | None
    passed: bool | None
    note: str


@dataclass(frozen=True)
class Comparison:
    """One validation image, drawn once a side.

    Args:
        id: the sample's.
        file: the image's file name.
        image: the image as a data URI.
        size: height and width of the frame that is drawn in, in px.
        font_size: of the labels, in that frame's px.
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
        results: what ``collect`` found.
        path: the HTML file; it is whole or absent.

    Raises:
        MissingPackageError: the template engine is not installed.
    """
    page = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            results=results,
            tracking_uri=public_uri(results.tracking_uri),
            comparisons={model.name: list(compare_by_eye(model, results.jobs)) for model in results.models},
            differences=_differences(results),
            versions=_versions(results),
            drawn_from=DRAWN_FROM,
        )
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _differences(results: Results) -> dict[str, str]:
    """The picture of each job's first divergence as a data URI, by the job's name."""
    folders = {model.name: model.folder for model in results.models}
    pictures = {
        job.name: folders[job.model] / "parity" / f"{job.target}_diagnosis" / "difference.png"
        for job in results.jobs
    }
    return {
        name: f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}"
        for name, path in pictures.items()
        if path.is_file()
    }


def compare_by_eye(model: Model, jobs: tuple[Job, ...]) -> Iterator[Comparison]:
    """Draw the samples that the model's jobs kept, the eager model's outputs beside theirs."""
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


def _panel(job: Job, id: str, overlay: Overlay | None) -> Panel:
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


def _read_drawn(model: Model, target: str) -> dict[str, Any]:
    path = model.folder / "parity" / f"{target}_drawn.npz"
    return read_drawn(path) if path.is_file() else {}


def columns(parity: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, words and unit of each error that a verdict holds every sample to."""
    return [
        (name, measure.words, measure.unit)
        for name, measure in MEASURES.items()
        if name in parity["max"] and measure.of_samples and measure.limit
    ]


def floor_columns(floor: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, words and unit of each error that a model was found to have against itself."""
    found = {name for variant in floor["variants"].values() for name in variant["errors"]}
    return [(name, measure.words, measure.unit) for name, measure in MEASURES.items() if name in found]


def grounds(parity: dict[str, Any], name: str) -> Iterator[str]:
    """What a verdict rests on, in short lines of text."""
    verdict = parity["verdicts"][name]
    if name == "contract":
        yield f"{len(parity['samples'])} inputs"
        coverage = parity["input_coverage"]
        if coverage:
            yield ", ".join(f"{count} {kind}" for kind, count in coverage["kinds"].items())
            yield from (f"not shown: {gap}" for gap in coverage["gaps"])
        for reason, count in Counter(parity["unsupported_inputs"].values()).items():
            yield f"{count} inputs left out: {reason}"
    elif name == "numerics":
        for measure, worst, limit in tell({**parity, "accuracy": None}):
            yield f"{measure.words} {number(worst, measure.unit)} of {limit}"
        unheld = [f"{measure.words} {number(worst, measure.unit)}" for measure, worst in beside(parity)]
        if unheld:
            yield f"without a limit: {', '.join(unheld)}"
        if parity["tolerance"] and parity["limits"]:
            noise = ", ".join(f"{limit['name']} {number(limit['floor'])}" for limit in parity["limits"])
            yield f"the model's own noise: {noise}"
        noise_dominated = {
            id: ", ".join(names) for id, names in parity["undetermined"]["noise_dominated"].items()
        }
        yield from (f"undetermined on {id}: {names}" for id, names in _first(noise_dominated))
    elif name == "matching":
        counts = parity["detections"]
        yield f"{counts['paired']} of the model's {counts['expected']} detections paired"
        yield f"{len(parity['unmatched'])} on one side only"
        yield from (f"undetermined on {id}: {why}" for id, why in _first(parity["undetermined"]["why"]))
    elif name == "accuracy" and parity["accuracy"]:
        yield from _of_metric(parity["accuracy"])
    if verdict["note"] and name != "contract":  # whose inputs are told above
        yield verdict["note"]


def _first(by_input: dict[str, str], limit: int = 5) -> list[tuple[str, str]]:
    """The first few inputs and what is said of each, and how many more there are."""
    left = len(by_input) - limit
    more = [(f"{left} more inputs", "see the verdict's file")] if left > 0 else []
    return [*list(by_input.items())[:limit], *more]


def _of_metric(accuracy: dict[str, Any]) -> Iterator[str]:
    yield f"{accuracy['images']} annotated images"
    for name, difference in accuracy["differences"].items():
        interval = accuracy.get("intervals", {}).get(name)
        between = f", 95 % of resamples from {interval[0]:+.4f} to {interval[1]:+.4f}" if interval else ""
        reached = accuracy["artifact"].get(name, 0.0)
        yield f"{name} {reached:.4f}, eager {accuracy['eager'][name]:.4f}: {difference:+.4f}{between}"
    yield f"may differ by {accuracy['budget']:g}"


def number(value: float | None, unit: str = "") -> str:
    """A measured value, short, with its unit; a dash where nothing could be measured."""
    if value is None:
        return "\u2013"
    return f"{_short(value)} {unit}".rstrip()


def _short(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def size(size_bytes: float) -> str:
    """A file's size in MB, or kB below one."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.1f} kB"


def speed(ratio: float) -> str:
    """A ratio of latencies in words."""
    if 0.98 <= ratio <= 1.02:
        return "as fast as eager"
    return f"{1 / ratio:.2f}\u00d7 faster" if ratio < 1 else f"{ratio:.2f}\u00d7 slower"


def longest_ms(measured: dict[str, Any]) -> float:
    """Where a device's picture of latencies ends: a rare hiccup of the machine must not flatten the bars."""
    runners = measured["runners"].values()
    p90s = [runner["p90_ms"] for runner in runners]
    return min(max((runner["p99_ms"] for runner in runners), default=1), 1.5 * max(p90s, default=1))


def unsteady(measured: dict[str, Any]) -> bool:
    """Whether a tenth of an engine's calls took more than twice its median: something else was at work."""
    return any(runner["p90_ms"] > 2 * runner["p50_ms"] for runner in measured["runners"].values())


def share(value: float, longest: float) -> str:
    """A length in a picture, as a percentage of its width."""
    return f"{100 * min(value / longest, 1):.2f}%"


def _versions(results: Results) -> dict[str, str]:
    """Versions of the packages that shaped the artifacts, and of those that the eager model ran with."""
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
        undefined=StrictUndefined,  # a misspelt name is an error and not a hole in the page
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "tell": tell,
        "columns": columns,
        "floor_columns": floor_columns,
        "grounds": grounds,
        "size": size,
        "speed": speed,
        "longest_ms": longest_ms,
        "unsteady": unsteady,
        "share": share,
    }
    return environment
