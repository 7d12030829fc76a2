"""The description of a registered version, as Markdown: what it is, how it was validated, how to use it."""

from collections.abc import Iterator
from typing import Any

from detexport.artifact import Artifact
from detexport.contract import Contract
from detexport.errors import listed
from detexport.parity.measures import limited_errors
from detexport.registry.content import Content
from detexport.registry.evidence import Evidence
from detexport.results.latency import NOISY, is_noisy
from detexport.results.runtime_names import engine_name

QUANTILES = ("p50_ms", "p90_ms", "p99_ms")
WORDS = {
    "pred_boxes": "boxes",
    "scores": "scores",
    "pred_classes": "classes",
    "pred_masks": "masks",
    "pred_keypoints": "keypoints",
    "proposal_boxes": "proposal boxes",
    "objectness_logits": "objectness logits",
    "sem_seg": "semantic segmentation",
    "panoptic_seg": "panoptic segmentation",
}
SHOWN_CLASSES = 20
CODE_LICENSE = "Apache-2.0"
"""The licence of this package, which a version contains."""


def describe_version(name: str, content: Content, evidence: Evidence) -> str:
    """Return a version's card: what it is, classes, input, validation, latency, limits of use, licence."""
    sections = {
        f"# {name}": _what(content, evidence),
        "## Input": _input(content.contract),
        "## Validation": describe_validation(evidence),
        "## Latency": describe_latency(evidence),
        "## Limits of use": _limits(content.artifact, evidence),
        "## Licence": _license(evidence),
    }
    return "\n".join(line for title, lines in sections.items() for line in (title, "", *lines, "")).rstrip()


def _what(content: Content, evidence: Evidence) -> Iterator[str]:
    contract, artifact = content.contract, content.artifact
    given = [WORDS[one] for one in (*contract.output_names, *contract.results) if one in WORDS]
    engine = engine_name(content.runtime["_target_"])[0].rpartition(".")[2]
    torch = "with" if any(one.startswith("torch==") for one in content.requirements) else "without"
    yield f"A detector: {listed(given, len(given))} of each image, as {artifact.format.value}."
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| format | {artifact.format.value}, by the method `{artifact.method}` |"
    yield f"| runtime | {engine.rpartition('.')[2]}, {torch} torch |"
    for what, names in (("classes", contract.class_names), ("stuff classes", contract.stuff_class_names)):
        if names:
            yield f"| {what} | {len(names)}: {_escaped(listed(names, SHOWN_CLASSES))} |"
    if evidence.dataset:
        yield f"| validated on | {_escaped(evidence.dataset)} |"
    yield f"| commit | {evidence.lineage.get('git.revision', 'not known')} |"


def _input(contract: Contract) -> Iterator[str]:
    yield (
        "A column `image` with one image per row: a PNG or JPEG file as bytes, or in base64 over HTTP, or an "
        f"array (height, width, 3) uint8, RGB. Images may have any size. Resize: {contract.resize.text}. "
        f"The graph itself takes {contract.channel_order}."
    )
    if "scores" in contract.output_names:
        yield ""
        yield (
            "Parameters of a call: `score_threshold` (0 to 1; the model itself drops scores up to "
            f"{contract.score_threshold:g})"
            + (", `masks` (false leaves them out)." if "pred_masks" in contract.output_names else ".")
        )


def describe_validation(evidence: Evidence) -> Iterator[str]:
    """Yield the verdict: inputs, and the largest errors with their limits."""
    verdict = evidence.verdict
    samples = verdict["samples"]
    passed = sum(sample["passed"] for sample in samples)
    paired = f", {verdict['detections']['paired']} detections paired"
    yield (
        f"Parity with the eager model: **{'passed' if verdict['passed'] else 'failed'}**, "
        f"{passed} of {len(samples)} inputs{paired if 'box_error_px' in verdict['max'] else ''}."
    )
    yield ""
    yield "| largest error | measured | limit |"
    yield "|---|---|---|"
    for measure, worst, limit in limited_errors(verdict):
        yield f"| {measure.words} | {_number(worst, measure.unit)} | {limit} |"
    accuracy = verdict.get("accuracy")
    if accuracy:
        yield ""
        yield "| task metric | artifact | difference from the eager model |"
        yield "|---|---|---|"
        for metric, difference in accuracy["differences"].items():
            yield f"| {metric} | {accuracy['artifact'].get(metric, 0.0):.4f} | {difference:+.4f} |"


def describe_latency(evidence: Evidence) -> Iterator[str]:
    """Yield the latency on each device, and the machine."""
    if not evidence.runners or evidence.latency is None:
        yield "Not measured."
        return
    yield "| latency | image | p50 | p90 | p99 | time relative to eager |"
    yield "|---|---|---|---|---|---|"
    for device, runner in evidence.runners.items():
        height, width = evidence.latency["devices"][device]["image_size"]
        quantiles = " | ".join(f"{runner[name]:.1f} ms" for name in QUANTILES)
        ratio = f"{runner['ratio_to_eager']:.2f}" if "ratio_to_eager" in runner else "not measured"
        yield f"| {device} | {height} x {width} | {quantiles} | {ratio} |"
    if any(is_noisy(evidence.latency["devices"][device]) for device in evidence.runners):
        yield ""
        yield f"Measured on a busy machine: a tenth of the calls took more than {NOISY} times the median."
    machine = evidence.latency.get("machine")
    if machine:
        yield ""
        yield f"Machine: {_escaped(', '.join(f'{name} {_plain(value)}' for name, value in machine.items()))}."


def _limits(artifact: Artifact, evidence: Evidence) -> Iterator[str]:
    contract, verdict = artifact.contract, evidence.verdict
    if verdict["tolerance"] is None:
        yield "- Computes in reduced precision: only its task metric was compared with the eager model's."
    smallest, largest = artifact.image_sides
    yield f"- The resized image has sides of {smallest} to {largest} px" + (
        "." if artifact.batch == "any" else "; one image per call of the graph."
    )
    if contract.max_detections >= 0 and "scores" in contract.output_names:
        yield f"- At most {contract.max_detections} detections per image; scores are not calibrated."
    yield "- Accuracy is known for the data set above only, latency for the machine above only."
    for gap in (verdict.get("input_coverage") or {}).get("gaps", []):
        yield f"- Not validated: {_escaped(gap)}."


def _license(evidence: Evidence) -> Iterator[str]:
    weights = evidence.license or "not stated"
    yield f"Code in this version: {CODE_LICENSE}. Weights: {_escaped(weights)}."


def _number(value: float | None, unit: str = "") -> str:
    return "nothing to compare" if value is None else f"{value:.3g} {unit}".rstrip()


def _plain(value: Any) -> str:
    return listed(value, len(value)) or "none" if isinstance(value, list) else str(value)


def _escaped(text: str) -> str:
    """Return text that is one cell of a Markdown table, and no markup."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
