"""Pictures for ``dvc plots``: the report's charts of all jobs, each as an SVG file.

``dvc plots show`` and ``dvc plots diff`` show SVG files without a network.
"""

from pathlib import Path

from detexport.report.charts import kinds_of, trade_offs
from detexport.report.collect import Results
from detexport.report.rendering import environment
from detexport.system.atomic import atomic_file

PLOTS = ("accuracy_latency", "latency", "accuracy_by_class")


def write_plots(results: Results, folder: Path, *, ap_loss: float) -> None:
    """Write ``accuracy_latency.svg``, ``latency.svg`` and ``accuracy_by_class.svg``.

    The same results give the same bytes.

    Args:
        results: from ``collect``.
        folder: the folder of the files.
        ap_loss: largest loss of a task metric against the eager model: a line in the charts.

    Raises:
        MissingPackageError: the template engine is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    of_models = [
        (model, [job for job in results.jobs if job.model == model.name]) for model in results.models
    ]
    charts = [
        chart
        for model, jobs in of_models
        for device in model.latency.get("devices", {})
        for chart in trade_offs(model, jobs, None, device=device, ap_loss=ap_loss, latency_ms=None)
    ]
    models = [(model, jobs, kinds_of(jobs, None)) for model, jobs in of_models]
    engine = environment({}, {})
    for name in PLOTS:
        picture = engine.get_template(f"{name}.svg.jinja").render(charts=charts, models=models)
        with atomic_file(folder / f"{name}.svg") as temporary:
            temporary.write_text(picture, encoding="utf-8")
