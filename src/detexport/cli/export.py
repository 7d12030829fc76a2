"""``detexport export``: a model -> an artifact that was checked."""

from detexport.cli.checks import Request, check_export
from detexport.formats.image_files import find_images
from detexport.parity.accuracy import Accuracy
from detexport.parity.report_text import accuracy_lines, check_lines
from detexport.parity.verdict import ParityReport
from detexport.system.progress import say, step
from detexport.workflows.export_target import export_target
from detexport.workflows.load_model import load_model


def export(request: Request) -> None:
    """Check the request, export, check the artifact, and only then put it into the output folder.

    Raises:
        DetexportError: see ``check_export`` and ``make``.
    """
    make(check_export(request))


def make(request: Request) -> None:
    """Export a checked request: build the model, export it, print the result.

    Raises:
        CheckpointError: the weights are not the model's.
        ConfigError: the request does not fit the model.
        ExportError: the model cannot be exported, or the artifact does not pass the check.
    """
    with step("build the model and load its weights"):
        model = load_model(request.model)
    if exceptions := model.load_report.describe():
        say(f"{model.weights}: {exceptions}")
    artifact = export_target(
        model,
        request.target,
        request.output,
        options=request.options,
        images=find_images(request.samples),
        calibration=find_images(request.calibration),
        class_names=request.class_names,
        data=request.data,
        device=request.device,
        check=request.check,
        evaluate=request.run_eval,
        step=step,
        on_result=_say_result,
        on_warning=lambda text: say(f"warning: {text}"),
    )
    size = sum((request.output / name).stat().st_size for name in artifact.files)
    say(f"{request.output}: {artifact.format.value}, {size / 1e6:.1f} MB, sha256 {artifact.sha256}")
    if not request.check:
        say("not checked (--no-check)")


def _say_result(result: ParityReport | Accuracy) -> None:
    accuracy = result.accuracy if isinstance(result, ParityReport) else result
    lines = accuracy_lines(accuracy) if accuracy else []
    if isinstance(result, ParityReport):
        lines += check_lines(result)
    say("\n".join(lines))
