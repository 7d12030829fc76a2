"""Show DVC's experiments within the width of a terminal: the metrics of each job, and the parameters.

`dvc exp show` has one column for each metric of each job, each parameter and each dependency: hundreds.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from textwrap import shorten, wrap
from typing import Annotated, Any

from typer import Argument, Exit, echo

from detexport.config.composition import resolvers
from detexport.config.params import PARAMS
from detexport.system.script import run

WIDTH = 120
"""Columns of an output that is not a terminal."""
INDENT, GAP = "  ", "  "
MISSING = "-"
WORKSPACE = "workspace"
"""DVC's name of the revision that is not committed."""


@dataclass(frozen=True)
class Experiment:
    """The workspace, a commit or an experiment.

    Args:
        name: its name, and its state unless it has ended well.
        metrics: those of each job.
        changed: the chosen parameters that differ from those of the commit that it is based on, as
            ``name=value``, or ``no name`` for a target or another option that is not selected any more.
    """

    name: str
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    changed: Sequence[str] = ()


def main(
    options: Annotated[list[str] | None, Argument(help="options of `dvc exp show`, after --")] = None,
) -> None:
    """Print what `dvc exp show` finds with OPTIONS, such as --num 3 or --all-branches."""
    command = ["dvc", "exp", "show", "--json", *(options or ())]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Exit(done.returncode)
    found = list(experiments(json.loads(done.stdout)))
    for line in lines_of(found, shutil.get_terminal_size((WIDTH, 24)).columns):
        echo(line)


def experiments(states: Sequence[Mapping[str, Any]]) -> Iterator[Experiment]:
    """Yield the workspace and each commit, each followed by its experiments."""
    head = next((parameters(one) for one in states if one["rev"] != WORKSPACE), {})
    for state in states:
        base = head if state["rev"] == WORKSPACE else parameters(state)
        yield experiment(name_of(state), state, base)
        for one in state["experiments"] or ():
            ended = (one["executor"] or {}).get("state") or "success"
            name = one["name"] or name_of(one["revs"][0])
            yield experiment(name if ended == "success" else f"{name} ({ended})", one["revs"][0], base)


def name_of(state: Mapping[str, Any]) -> str:
    """Return the name of a branch, else the short digest of a commit."""
    return str(state["name"] or (WORKSPACE if state["rev"] == WORKSPACE else state["rev"][:7]))


def experiment(name: str, state: Mapping[str, Any], base: Mapping[str, Any]) -> Experiment:
    """Return an experiment; without metrics and parameters if DVC has none, since it failed or waits."""
    metrics = ((state["data"] or {}).get("metrics") or {}).items()
    of_jobs = {PurePosixPath(path).stem: one["data"] for path, one in metrics if one.get("data")}
    own = parameters(state)
    if not own:
        return Experiment(name, of_jobs)
    changed = [f"{key}={value}" for key, value in own.items() if key not in base or base[key] != value]
    # Two words name what was selected: targets.onnx.
    left = dict.fromkeys(f"no {'.'.join(key.split('.')[:2])}" for key in base if key not in own)
    return Experiment(name, of_jobs, [*changed, *left])


def parameters(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chosen parameters by dotted name, without those that the composition computes from them."""
    files = (state["data"] or {}).get("params") or {}
    values = files.get(str(PARAMS), {}).get("data") or {}
    return dict(_dotted({name: value for name, value in values.items() if name not in resolvers()}))


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def lines_of(found: Sequence[Experiment], width: int) -> Iterator[str]:
    """Yield a table for each job, then the parameters of each experiment; no line is wider than ``width``."""
    for job in dict.fromkeys(job for one in found for job in one.metrics):
        rows = [(one.name, one.metrics[job]) for one in found if job in one.metrics]
        yield shorten(job, width, placeholder="...")
        yield from _table(rows, width)
        yield ""
    for one in found:
        if one.changed:
            yield f"parameters of {one.name}"[:width]
            yield from wrap(", ".join(one.changed), width, initial_indent=INDENT, subsequent_indent=INDENT)
    if not any(one.metrics for one in found):
        yield "no metrics: run `make repro` or `dvc exp run` first"


def _table(rows: Sequence[tuple[str, Mapping[str, Any]]], width: int) -> Iterator[str]:
    """Yield the metrics of one job, one line per experiment; the names of experiments are cut to fit."""
    names = list(dict.fromkeys(name for _, metrics in rows for name in metrics))
    columns = [[name, *(str(metrics.get(name, MISSING)) for _, metrics in rows)] for name in names]
    widths = [max(map(len, column)) for column in columns]
    left = width - len(INDENT) - sum(len(GAP) + one for one in widths)
    titles = ["experiment", *(name for name, _ in rows)]
    first = min(max(map(len, titles)), left)
    for title, *values in zip(titles, *columns, strict=True):
        cells = [title[:first].ljust(first), *map(str.rjust, values, widths)]
        yield (INDENT + GAP.join(cells)).rstrip()


if __name__ == "__main__":
    run(main)
