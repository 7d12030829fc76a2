"""The table of the documentation, made from the cells."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from detexport.parity.measures import MEASURES

Cells = Sequence[Mapping[str, Any]]

HEAD = """\
# Architectures and targets

`make coverage-docs` writes this page from `coverage.json`, the result of `make coverage`; do not edit it.
Each cell is a small model that was exported. Its artifact ran in a fresh process, without the model's code,
and was compared with the PyTorch model: at the exported size, a smaller, a larger and an odd size, on images
with no, one and many detections. `conf/parity/default.yaml` holds the tolerances.

"""
LEGEND = """
`ok`: the artifact passed on all of these images. **failed**: it did not pass. `n/a`: the pair is unsupported;
the reason has that number below. `skipped`: the machine lacked what the target needs.
"""
OF_TARGETS = """
## Targets

`yes`: the outputs are within the tolerances. `runs`: the outputs fulfil the contract; targets of reduced
precision are validated by the task metric over all images, not number by number.

"""
WORDS = {"ok": "ok", "failed": "**failed**", "skipped": "skipped"}


def render(cells: Cells) -> str:
    """Render the page in Markdown.

    Args:
        cells: plain JSON values, from ``Cell.to_json``.
    """
    reasons = list(dict.fromkeys(cell["reason"] for cell in cells if cell["status"] == "unsupported"))
    by_pair = {(cell["architecture"], cell["target"]): cell for cell in cells}
    targets = _names(cells, "target")

    def word(architecture: str, target: str) -> str:
        cell = by_pair.get((architecture, target))
        if cell is None:
            return ""
        if cell["status"] == "unsupported":
            return f"n/a ({reasons.index(cell['reason']) + 1})"
        return WORDS[cell["status"]]

    rows = [[name, *(word(name, target) for target in targets)] for name in _names(cells, "architecture")]
    parts = [HEAD, markdown_table(["", *targets], rows), LEGEND]
    if reasons:
        parts += ["\n", *(f"{number}. {reason}\n" for number, reason in enumerate(reasons, start=1))]
    others = [cell for cell in cells if cell["status"] != "unsupported" and cell["reason"]]
    parts += ["\n", *(f"- {cell['architecture']}, {cell['target']}: {cell['reason']}\n" for cell in others)]
    parts += [OF_TARGETS, markdown_table(["", *targets], list(_of_targets(cells, targets)))]
    parts += ["\n## Largest errors\n\n", markdown_table(["", *targets], list(_errors(cells, targets)))]
    return "".join(parts).replace("\n\n\n", "\n\n")


def _of_targets(cells: Cells, targets: Sequence[str]) -> Iterator[list[str]]:
    """Yield the rows with each target's capabilities, over all of its cells."""
    questions: dict[str, Callable[[Cells], str]] = {
        "Any height and width": lambda own: _answer(own, "dynamic_size"),
        "No detections": lambda own: _answer(own, "zero_detections"),
        "In a fresh process": lambda own: _answer(own, "fresh_process", "yes"),
        "Batch size": lambda own: " or ".join(_names(own, "batch")),
        "Export, median": lambda own: f"{median(cell['export_s'] for cell in own):.0f} s",
        "Memory, at most": lambda own: f"{max(cell['peak_bytes'] for cell in own) / 2**30:.1f} GiB",
    }
    for words, answer in questions.items():
        yield [words, *_by_target(cells, targets, answer)]


def _errors(cells: Cells, targets: Sequence[str]) -> Iterator[list[str]]:
    """Yield the rows with the largest absolute error by measure."""
    for name in dict.fromkeys(name for cell in cells for name in cell["errors"]):
        measure = MEASURES.get(name)
        words = f"{measure.words}{', ' + measure.unit if measure.unit else ''}" if measure else name

        def largest(own: Cells, name: str = name) -> str:
            values = [cell["errors"][name] for cell in own if cell["errors"].get(name) is not None]
            return f"{max(values, key=abs):.1g}" if values else ""

        yield [words, *_by_target(cells, targets, largest)]


def _by_target(cells: Cells, targets: Sequence[str], answer: Callable[[Cells], str]) -> list[str]:
    """Return an answer for each target, from its cells that are ``ok``."""
    own = [[cell for cell in cells if cell["target"] == t and cell["status"] == "ok"] for t in targets]
    return [answer(cells_of_target) if cells_of_target else "" for cells_of_target in own]


def _answer(cells: Cells, question: str, by_task: str = "runs") -> str:
    """Return whether a field holds for all cells; ``by_task`` is the word for cells without error limits."""
    known = [cell for cell in cells if cell[question] is not None]
    if not all(cell[question] for cell in known):
        return "**no**"
    return " or ".join(dict.fromkeys(by_task if _by_task(cell) else "yes" for cell in known))


def _by_task(cell: Mapping[str, Any]) -> bool:
    """Return whether the task metric alone decided the cell, so that its errors are that metric's deltas."""
    return any(name not in MEASURES for name in cell["errors"])


def _names(cells: Cells, key: str) -> list[str]:
    """Return the values of a field, each once."""
    return list(dict.fromkeys(cell[key] for cell in cells))


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Render a Markdown table, one line per row."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
