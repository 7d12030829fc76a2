"""``detexport validate``: compare an artifact with its model, or with another artifact."""

from pathlib import Path

from detexport.cli.output import print_json
from detexport.parity.report_text import report_lines
from detexport.parity.settings import read_parity_settings
from detexport.parity.verdict import ParityReport
from detexport.system.progress import say, step
from detexport.workflows.model_source import ModelSource
from detexport.workflows.validate_against import CERTIFICATE, REPORT, validate_against


def validate(
    artifact_dir: Path,
    other: ModelSource | Path | None,
    *,
    data: Path | None,
    target: str,
    other_target: str,
    images: int | None,
    accuracy_images: int | None,
    device: str,
    params: Path | None,
    save_dir: Path | None,
    as_json: bool,
) -> ParityReport:
    """Validate an artifact, and print the verdicts; see ``detexport validate --help``.

    Raises:
        DetexportError: see ``validate_against``.
    """
    report = validate_against(
        artifact_dir,
        other,
        data=data,
        target=target,
        other_target=other_target,
        images=images,
        accuracy_images=accuracy_images,
        device=device,
        settings=read_parity_settings(params) if params else None,
        save_dir=save_dir,
        step=step,
    )
    if save_dir is not None:
        say(f"{save_dir}: {REPORT}, {CERTIFICATE}")
    if as_json:
        print_json(report.to_json())
    else:
        print("\n".join(report_lines(report)))
    return report
