"""A parity report in lines of text, as commands and stages print it."""

from detexport.errors import LONGEST_MESSAGE, listed, printable, shortened
from detexport.parity.accuracy import Accuracy
from detexport.parity.measures import limited_errors
from detexport.parity.verdict import ParityReport

MOST_UNMATCHED = 10
MOST_REASONS = 10


def check_lines(report: ParityReport) -> list[str]:
    """Describe the check of an export: verdict, errors with limits, undetermined detections."""
    verdict = report.to_json()
    counts = verdict["detections"]
    passed = "passed" if report.passed else "did not pass"
    paired = f"{counts['paired']} of {counts['expected']} detections paired"
    lines = [f"{report.job} compared with the model on {len(report.samples)} inputs: {passed}; {paired}"]
    if report.lacks_detections:
        lines.append(
            "warning: the model detects nothing on these inputs, so no detection was compared; give --sample"
        )
    for measure, largest, limit in limited_errors(verdict):
        shown = "not measured" if largest is None else f"{largest:.2g} {measure.unit}".rstrip()
        lines.append(f"  {measure.words:22} {shown:20} (limit {limit})")
    return [*lines, *(f"  {line}" for line in undetermined_lines(report))]


def accuracy_lines(accuracy: Accuracy) -> list[str]:
    """Describe the metrics of the model and of the artifact, and their differences."""
    lines = [f"on {accuracy.images} annotated images {'model':>10} {'artifact':>10} {'difference':>11}"]
    for name, value in accuracy.eager.items():
        actual = accuracy.artifact.get(name, 0.0)
        lines.append(f"  {name:24} {value:10.4f} {actual:10.4f} {actual - value:+11.4f}")
    return lines


def report_lines(report: ParityReport) -> list[str]:
    """Describe each verdict with its reasons, and the unmatched detections."""
    lines = [f"{report.job}: {'passed' if report.passed else 'did not pass'}"]
    for name, verdict in report.verdicts.items():
        answer = "not evaluated" if not verdict.evaluated else "passed" if verdict.passed else "FAILED"
        lines.append(f"  {name:9} {answer:13} {verdict.question} {verdict.note}".rstrip())
        lines += [f"    {_one_line(reason)}" for reason in verdict.reasons[:MOST_REASONS]]
        if len(verdict.reasons) > MOST_REASONS:
            lines.append(f"    and {len(verdict.reasons) - MOST_REASONS} more reasons")
    lines += [f"  {line}" for line in undetermined_lines(report)]
    unmatched = [one for one in report.to_json()["unmatched"] if not one["undetermined"]]
    for one in unmatched[:MOST_UNMATCHED]:
        what = f"class {one['pred_class']}, score {one['score']:.4f}"
        edge = "at the edge: " if one["excused"] else ""
        where = f"{edge}{one['distance']:.2g} from {one['decider']}"
        lines.append(f"  {one['side']} in {one['sample']}: {what}, {where}")
    if len(unmatched) > MOST_UNMATCHED:
        lines.append(f"  and {len(unmatched) - MOST_UNMATCHED} more unmatched detections")
    return lines


def _one_line(reason: str) -> str:
    """Return a reason in one line; a message of a runtime may have many."""
    return shortened(printable(reason), LONGEST_MESSAGE)


def undetermined_lines(report: ParityReport) -> list[str]:
    """Describe the undetermined detections and numbers; empty if there are none."""
    counts = report.undetermined
    lines = []
    if counts.why:
        unmatched = f"{counts.missing} of {counts.expected} detections missing, {counts.extra} extra"
        lines.append(f"undetermined: {unmatched}, on {listed(list(counts.why))}")
    if counts.noise_dominated:
        inputs = [f"{id} ({', '.join(names)})" for id, names in counts.noise_dominated.items()]
        lines.append(
            f"undetermined numbers (the model's own error exceeds the tolerance by far): {listed(inputs)}"
        )
    return lines
