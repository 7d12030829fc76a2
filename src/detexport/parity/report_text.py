"""A parity report in lines of text: what commands and stages print of it."""

from detexport.errors import LONGEST_MESSAGE, listed, printable, shortened
from detexport.parity.accuracy import Quality
from detexport.parity.measures import tell
from detexport.parity.verdict import ParityReport

MOST_FLIPS = 10
MOST_REASONS = 10


def check_lines(report: ParityReport) -> list[str]:
    """Describe the check of a fresh artifact: verdict, errors beside their limits, what is undetermined."""
    verdict = report.to_json()
    counts = verdict["detections"]
    passed = "passed" if report.passed else "did not pass"
    paired = f"{counts['paired']} of {counts['expected']} detections paired"
    lines = [f"{report.job} beside the model on {len(report.samples)} inputs: {passed}; {paired}"]
    if report.lacks_detections:
        lines.append(
            "warning: the model detects nothing on these inputs, so no detection was compared; give --sample"
        )
    for measure, largest, limit in tell(verdict):
        shown = "nothing to compare" if largest is None else f"{largest:.2g} {measure.unit}".rstrip()
        lines.append(f"  {measure.words:22} {shown:20} (limit {limit})")
    return [*lines, *(f"  {line}" for line in undetermined_lines(report))]


def quality_lines(quality: Quality) -> list[str]:
    """Describe the task metrics of the model and of the artifact, and the differences."""
    lines = [f"on {quality.images} annotated images {'model':>10} {'artifact':>10} {'difference':>11}"]
    for name, value in quality.eager.items():
        found = quality.artifact.get(name, 0.0)
        lines.append(f"  {name:24} {value:10.4f} {found:10.4f} {found - value:+11.4f}")
    return lines


def report_lines(report: ParityReport) -> list[str]:
    """Describe each verdict, what it rests on, and why it failed."""
    lines = [f"{report.job}: {'passed' if report.passed else 'did not pass'}"]
    for name, verdict in report.verdicts.items():
        answer = "not judged" if not verdict.judged else "passed" if verdict.passed else "FAILED"
        lines.append(f"  {name:9} {answer:11} {verdict.question} {verdict.note}".rstrip())
        lines += [f"    {_one_line(reason)}" for reason in verdict.reasons[:MOST_REASONS]]
        if len(verdict.reasons) > MOST_REASONS:
            lines.append(f"    and {len(verdict.reasons) - MOST_REASONS} more reasons")
    lines += [f"  {line}" for line in undetermined_lines(report)]
    flips = [flip for flip in report.to_json()["flips"] if not flip["undetermined"]]
    for flip in flips[:MOST_FLIPS]:
        side = "only the other side" if flip["side"] == "missing" else "only this artifact"
        what = f"class {flip['pred_class']}, score {flip['score']:.4f}"
        edge = "at the edge: " if flip["excused"] else ""
        where = f"{edge}{flip['distance']:.2g} from {flip['decider']}"
        lines.append(f"  flip in {flip['sample']}, {side}: {what}, {where}")
    if len(flips) > MOST_FLIPS:
        lines.append(f"  and {len(flips) - MOST_FLIPS} more flips")
    return lines


def _one_line(reason: str) -> str:
    """Return a reason in one line; what an engine raised may be many."""
    return shortened(printable(reason), LONGEST_MESSAGE)


def undetermined_lines(report: ParityReport) -> list[str]:
    """Describe what the model's own runs leave undetermined; empty where that is nothing."""
    left_open = report.undetermined
    lines = []
    if left_open.why:
        counts = f"{left_open.missing} of {left_open.expected} detections missing, {left_open.extra} extra"
        lines.append(f"undetermined: {counts}, on {listed(list(left_open.why))}")
    if left_open.unproved:
        given = [f"{id} ({', '.join(names)})" for id, names in left_open.unproved.items()]
        lines.append(
            f"undetermined numbers, where the model's own error is far beyond the table: {listed(given)}"
        )
    return lines
