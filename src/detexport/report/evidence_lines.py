"""The evidence of each verdict in short lines of text."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from detexport.parity.measures import MEASURES, limited_errors, unlimited_errors
from detexport.report.number_format import delta, metric, number, plural

SHOWN = 5
"""Most inputs that are named; the JSON file has all."""


def evidence_lines(parity: dict[str, Any], name: str) -> Iterator[str]:
    """Yield the evidence of one verdict.

    Args:
        parity: the parity report as JSON.
        name: ``contract``, ``numerics``, ``matching`` or ``accuracy``.
    """
    verdict = parity["verdicts"][name]
    if name == "contract":
        yield from _of_contract(parity)
    elif name == "numerics":
        yield from _of_numerics(parity)
    elif name == "matching":
        counts = parity["detections"]
        if counts["expected"] or counts["actual"]:
            yield f"{counts['paired']} of the eager model's {counts['expected']} detections paired"
            yield f"{len(parity['unmatched'])} unmatched"
        else:
            yield "no detections to compare"
        yield from (f"undetermined on {id}: {why}" for id, why in _first(parity["undetermined"]["why"]))
    elif parity["accuracy"]:
        yield from _of_accuracy(parity["accuracy"])
    if verdict["note"] and name != "contract":  # its note repeats the inputs above
        yield verdict["note"]


def _of_contract(parity: dict[str, Any]) -> Iterator[str]:
    run, unsupported = len(parity["samples"]), parity["unsupported_inputs"]
    yield f"ran on {run} of {plural(run + len(unsupported), 'input')}"
    for reason, count in Counter(unsupported.values()).items():
        yield f"{count} outside the declared support, not run: {reason}"
    coverage = parity["input_coverage"]
    yield from (f"not tested: {gap}" for gap in (coverage["gaps"] if coverage else ()))


def _of_numerics(parity: dict[str, Any]) -> Iterator[str]:
    errors = limited_errors({**parity, "accuracy": None})
    if errors:
        yield ", ".join(f"{measure.words} {number(worst, measure.unit)}" for measure, worst, _ in errors)
    else:
        without = (
            f"{measure.words} {number(worst, measure.unit)}" for measure, worst in unlimited_errors(parity)
        )
        yield f"no limits in reduced precision: {', '.join(without)}"
    for id, names in _first(
        {id: ", ".join(names) for id, names in parity["undetermined"]["noise_dominated"].items()}
    ):
        yield f"undetermined on {id}: {names}"


def _of_accuracy(accuracy: dict[str, Any]) -> Iterator[str]:
    yield f"{plural(accuracy['images'], 'annotated image')}, a loss of at most {accuracy['budget']:g} allowed"
    for name, difference in accuracy["differences"].items():
        interval = accuracy.get("intervals", {}).get(name)
        between = f", 95 % interval {interval[0]:+.4f} to {interval[1]:+.4f}" if interval else ""
        reached = accuracy["artifact"].get(name, 0.0)
        eager = metric(accuracy["eager"][name])
        yield f"{name} {metric(reached)}, eager {eager}: delta {delta(difference)}{between}"
        worst = accuracy.get("per_image", {}).get(name, {}).get("worst", [])
        if worst:
            yield f"largest losses on images {', '.join(f'{id} ({delta(loss)})' for id, loss in worst)}"


def _first(by_input: dict[str, str]) -> list[tuple[str, str]]:
    """Return the texts of the first inputs, and the number of other inputs."""
    left = len(by_input) - SHOWN
    more = [(f"{left} more inputs", "see the verdict's JSON file")] if left > 0 else []
    return [*list(by_input.items())[:SHOWN], *more]


def error_columns(parity: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, words and unit of each error that is measured on every input and has a limit."""
    return [
        (name, measure.words, measure.unit)
        for name, measure in MEASURES.items()
        if name in parity["max"] and measure.of_samples and measure.limit
    ]


def floor_columns(floor: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, words and unit of each error in the noise floor of a model."""
    found = {name for variant in floor["variants"].values() for name in variant["errors"]}
    return [(name, measure.words, measure.unit) for name, measure in MEASURES.items() if name in found]
