"""Pictures over all jobs: accuracy against latency, latency distributions, AP per class.

They are SVG files: ``dvc plots show`` and ``dvc plots diff`` show them without a network.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detexport.results.job_metrics import accuracy_name, job_metrics, job_summary
from detexport.results.latency import read_latency, runners_of
from detexport.results.verdict import read_verdict
from detexport.system.atomic import atomic_file

EAGER = "eager"
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "detexport",  # the same input gives the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "figure.constrained_layout.use": True,
}
COLORS = ("#4c6a92", "#c8553d", "#588157", "#8d5a97", "#d08c2f", "#3a8f8f", "#7a6652", "#b23a68")
EAGER_COLOR = "#8a8f98"
BOX = {"whislo": 5, "q1": 25, "med": 50, "q3": 75, "whishi": 95}
"""The percentile of each part of a box."""
STEP = 5
"""Percent between two of a runner's ``percentiles_ms``."""


@dataclass(frozen=True)
class PlottedJob:
    """One job, and what is drawn of it.

    Args:
        model: the model's name.
        target: the target's name.
        verdict: the parity report, as JSON.
        latency: the model's latency report, as JSON.
    """

    model: str
    target: str
    verdict: Mapping[str, Any]
    latency: Mapping[str, Any]

    def runners(self, target: str) -> dict[str, dict[str, Any]]:
        """Return the latency of one of the model's targets, or of eager, by device."""
        return runners_of(self.latency, target)


def read_jobs(jobs: Mapping[str, Mapping[str, str]], models_dir: Path) -> list[PlottedJob]:
    """Read what is drawn of the jobs.

    Args:
        jobs: the requested jobs: ``{name: {model, target, artifact}}``.
        models_dir: the folder with one folder per model.

    Raises:
        DataError: a report is missing or is not one.
    """
    return [
        PlottedJob(
            job["model"],
            job["target"],
            read_verdict(models_dir / job["model"] / "parity" / f"{job['target']}.json"),
            read_latency(models_dir / job["model"] / "latency.json"),
        )
        for job in jobs.values()
    ]


def draw_plots(jobs: Sequence[PlottedJob], folder: Path) -> None:
    """Draw ``accuracy_latency.svg``, ``latency.svg`` and ``ap_per_class.svg`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, draw in (
            ("accuracy_latency", draw_accuracy_latency),
            ("latency", draw_latencies),
            ("ap_per_class", draw_ap_per_class),
        ):
            with atomic_file(folder / f"{name}.svg") as temporary:
                draw(jobs).savefig(temporary, format="svg", metadata={"Date": None})


def draw_accuracy_latency(jobs: Sequence[PlottedJob]) -> Figure:
    """Draw each job, and each eager model, at its median latency and its accuracy; one panel per device."""
    devices = list(dict.fromkeys(device for job in jobs for device in job.runners(job.target)))
    figure, panels = _panels(max(len(devices), 1), height=4.6)
    colors = _colors(job.model for job in jobs)
    for device, axes in zip(devices, panels, strict=False):
        for model, color in colors.items():
            of_model = [job for job in jobs if job.model == model and device in job.runners(job.target)]
            points = [
                (job.target, _accuracy(job.verdict), job.runners(job.target)[device]) for job in of_model
            ]
            points += [
                (EAGER, _accuracy(job.verdict, EAGER), job.runners(EAGER)[device])
                for job in of_model[:1]
                if device in job.runners(EAGER)
            ]
            for target, accuracy, runner in points:
                if accuracy is None:
                    continue
                face = "white" if target == EAGER else color
                axes.plot(runner["p50_ms"], accuracy, "o", ms=8, color=color, mfc=face, label=model)
                axes.annotate(
                    target, (runner["p50_ms"], accuracy), (6, 5), textcoords="offset points", fontsize=9
                )
        axes.set_xlabel(f"median latency on {device} (ms)")
        axes.set_ylabel("accuracy (AP, PQ or mIoU)")
        axes.margins(x=0.15, y=0.25)
        if len(colors) > 1:
            named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
            axes.legend(named.values(), named.keys(), fontsize=8)
        else:
            axes.set_title(", ".join(colors), fontsize=10)
    _say_if_empty(panels[0], bool(devices), "no target was measured")
    figure.suptitle("Accuracy against latency: upper left is better")
    return figure


def draw_latencies(jobs: Sequence[PlottedJob]) -> Figure:
    """Draw the latency distribution of the eager models and of each target."""
    rows = list(_latency_rows(jobs))
    figure, (axes,) = _panels(1, height=1.4 + 0.42 * max(len(rows), 2))
    for row, (label, target, percentiles) in enumerate(reversed(rows)):
        color = EAGER_COLOR if target == EAGER else COLORS[0]
        quartiles = {name: percentiles[percent // STEP] for name, percent in BOX.items()}
        box: dict[str, Any] = {**quartiles, "fliers": []}
        axes.bxp(
            [{**box, "label": label}],
            positions=[row],
            orientation="horizontal",
            widths=0.55,
            patch_artist=True,
            boxprops={"facecolor": color, "edgecolor": color, "alpha": 0.55},
            medianprops={"color": "black"},
            showfliers=False,
        )
        axes.plot(percentiles[-1], row, ".", color=color)
    axes.set_xlabel("latency of one image (ms)")
    axes.set_xlim(left=0)
    _say_if_empty(axes, bool(rows), "no latency distribution was measured")
    figure.suptitle("Latencies: box 25 % to 75 %, line the median, whiskers 5 % and 95 %, dot the slowest")
    return figure


def draw_ap_per_class(jobs: Sequence[PlottedJob]) -> Figure:
    """Draw the AP of each class, eager and in each target; one panel per model and metric."""
    panels_of = list(_class_panels(jobs))
    figure, panels = _panels(max(len(panels_of), 1), height=3.6, vertical=True)
    for (title, classes, series), axes in zip(panels_of, panels, strict=False):
        width = 0.8 / len(series)
        colors = _colors(name for name in series if name != EAGER) | {EAGER: EAGER_COLOR}
        for index, (name, values) in enumerate(series.items()):
            places = [place - 0.4 + (index + 0.5) * width for place in range(len(classes))]
            axes.bar(places, values, width * 0.92, label=name, color=colors[name])
        axes.set_xticks(range(len(classes)), classes, rotation=30 if len(classes) > 8 else 0)
        axes.set_ylim(0, 1)
        axes.set_ylabel("AP")
        axes.set_title(title, fontsize=10)
        axes.legend(fontsize=8, ncols=min(len(series), 4), loc="upper right")
    _say_if_empty(panels[0], bool(panels_of), "no AP per class was measured")
    figure.suptitle("AP per class")
    return figure


def _panels(count: int, *, height: float, vertical: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` panels, in one row or one column."""
    rows, columns = (count, 1) if vertical else (1, count)
    figure = Figure(figsize=(7.5 * columns, height * rows))
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _colors(names: Iterator[str]) -> dict[str, str]:
    return {name: COLORS[index % len(COLORS)] for index, name in enumerate(dict.fromkeys(names))}


def _accuracy(verdict: Mapping[str, Any], side: str = "artifact") -> float | None:
    """Return ``ap`` of the artifact, or of the eager model; None if it was not measured."""
    if not verdict.get("accuracy"):
        return None
    accuracy = verdict["accuracy"]
    if side == EAGER:
        verdict = {**verdict, "accuracy": {**accuracy, "artifact": accuracy[EAGER]}}
    found = job_summary(job_metrics(verdict, {})).get("ap")
    return None if found is None else float(found)


def _latency_rows(jobs: Sequence[PlottedJob]) -> Iterator[tuple[str, str, Sequence[float]]]:
    """Yield label, target and percentiles of each measured runner, by model, the eager model first."""
    for model in dict.fromkeys(job.model for job in jobs):
        of_model = [job for job in jobs if job.model == model]
        for target in (EAGER, *(job.target for job in of_model)):
            for device, runner in of_model[0].runners(target).items():
                if "percentiles_ms" in runner:
                    yield f"{model} {target} ({device})", target, runner["percentiles_ms"]


def _class_panels(
    jobs: Sequence[PlottedJob],
) -> Iterator[tuple[str, list[str], dict[str, list[float]]]]:
    """Yield title, classes and the AP of each target, the eager model first, by model and metric."""
    for model in dict.fromkeys(job.model for job in jobs):
        of_model = [
            (job.target, (job.verdict.get("accuracy") or {}).get("per_class", {}))
            for job in jobs
            if job.model == model
        ]
        for metric in dict.fromkeys(metric for _, found in of_model for metric in found):
            measured = [(target, found[metric]) for target, found in of_model if metric in found]
            classes = [name for name, one in measured[0][1].items() if one[EAGER] is not None]
            series = {EAGER: [measured[0][1][name][EAGER] for name in classes]}
            series |= {
                target: [found[name]["artifact"] or 0.0 for name in classes] for target, found in measured
            }
            if classes:
                yield f"{model}, {accuracy_name(metric)}", classes, series


def _say_if_empty(axes: Axes, drawn: bool, words: str) -> None:
    if not drawn:
        axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
