"""Measure the coverage: every model x every target -> a table of cells, with the pipeline's own stages.

This is not a stage of dvc.yaml. It runs the stages of dvc.yaml, several at a time, for the models and targets
of conf/experiment/coverage.yaml. If one fails, it continues and records the failure in the cell.
"""

import os
import subprocess
import sys
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import yaml
from omegaconf import OmegaConf
from tqdm import tqdm
from typer import Exit, Option, echo

from coverage_table.cells import Cell, cell_of
from coverage_table.run import Outcome, Runner, alone
from coverage_table.steps import Step, needed, producers, read_steps
from detexport.config.composition import left_out
from detexport.config.params import PARAMS
from detexport.errors import ConfigError, did_you_mean, listed
from detexport.system.files import write_json
from detexport.system.script import run

PIPELINE = Path("dvc.yaml")
DECLARED = Path("conf/unsupported.yaml")
STAGES = (
    *(
        "describe_environment",
        "prepare_data",
        "build",
        "load_checkpoint",
        "sample",
        "reference",
        "noise_floor",
    ),
    *("export", "convert", "validate"),
)
LINKED = ("checkpoints", "conf", "hydra_plugins", "requirements.lock", "src", "stages", "tools")
"""The files and folders that the stages read and do not write."""

STEP_BYTES = 4 * 2**30
"""Expected peak memory of a step."""


def main(
    work_dir: Annotated[Path, Option(help="folder for outputs, logs and the results of earlier runs")],
    save_to: Annotated[Path, Option(help="JSON file for the cells")],
    only: Annotated[list[str] | None, Option(help="models, e.g. 'mask_rcnn*'; repeatable")] = None,
    target: Annotated[list[str] | None, Option(help="targets, e.g. 'openvino*'; repeatable")] = None,
    processes: Annotated[
        int, Option(help="parallel steps, one thread each; 0: one per core, as memory allows")
    ] = 0,
    time_limit_s: Annotated[float, Option(help="a step that takes longer fails")] = 600,
) -> None:
    """Measure every architecture x every target, write the cells to SAVE_TO; exit code 1 if one failed.

    A cell is a small model that is exported, run in a fresh process and compared with the PyTorch model.
    Results of earlier runs with the same code, options and packages are reused, also those of killed runs.
    Pairs declared in conf/unsupported.yaml are measured too: a declaration that no longer holds is reported.

        python tools/measure_coverage.py ... --only mask_rcnn --target onnx     one cell

        python tools/measure_coverage.py ... --only '*_C4' --target 'openvino*' some

    The steps' logs are in WORK_DIR/logs, the artifacts in WORK_DIR/outputs.
    """
    with alone(work_dir):
        params = prepare(work_dir)
        jobs = chosen(params, only, target)
        cells = measure(params, jobs, work_dir, processes or most_processes(), time_limit_s)
    write_json(save_to, [cells[name].to_json() for name in jobs])
    counts = Counter(cell.status for cell in cells.values())
    echo(f"{save_to}: {', '.join(f'{count} {status}' for status, count in counts.items())}")
    raise Exit(int(counts["failed"] > 0))


def prepare(work_dir: Path) -> dict[str, Any]:
    """Lay out WORK_DIR like the repository and compose its parameters; include unsupported pairs."""
    for name in LINKED:
        link = work_dir / name
        if not link.is_symlink():
            link.symlink_to(Path(name).resolve())
    compose = [sys.executable, "tools/compose.py", "experiment=coverage", "unsupported=[]"]
    done = subprocess.run(compose, cwd=work_dir, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError("the experiment coverage cannot be composed", got=done.stderr)
    params: dict[str, Any] = read_yaml(work_dir / PARAMS)
    return params


def chosen(
    params: dict[str, Any], models: list[str] | None, targets: list[str] | None
) -> dict[str, dict[str, str]]:
    """Return the jobs whose model and target each match one of the patterns; no patterns match all.

    Raises:
        ConfigError: there is none.
    """
    jobs = {
        name: job
        for name, job in params["jobs"].items()
        if matches(job["model"], models) and matches(job["target"], targets)
    }
    if not jobs:
        raise ConfigError(
            "no cell is selected",
            got=f"--only {models}, --target {targets}",
            expected=f"models: {listed(params['models'])}; targets: {listed(params['targets'], 10)}",
            remedy=_meant(params, models, targets) or "correct --only and --target",
        )
    return jobs


def _meant(params: dict[str, Any], models: list[str] | None, targets: list[str] | None) -> str:
    """Return a suggestion for the first pattern without a match; empty if no name is similar."""
    for patterns, names in ((models, params["models"]), (targets, params["targets"])):
        for pattern in patterns or ():
            if not any(matches(name, [pattern]) for name in names):
                return did_you_mean(pattern, names)
    return ""


def measure(
    params: dict[str, Any],
    jobs: dict[str, dict[str, str]],
    work_dir: Path,
    processes: int,
    time_limit_s: float,
) -> dict[str, Cell]:
    """Return the cells of ``jobs``; print each as soon as it is known."""
    steps = read_steps(read_yaml(PIPELINE)["stages"], params, STAGES)
    before = producers(steps)
    verdicts = {step.name: step.name.partition("@")[2] for step in steps if step.stage == "validate"}
    asked = needed([step for step in steps if verdicts.get(step.name) in jobs], before)
    declared = declared_unsupported(params)
    cells: dict[str, Cell] = {}
    outcomes: dict[str, Outcome] = {}
    with tqdm(total=len(asked), desc="coverage", unit="step", smoothing=0) as progress:

        def report(step: Step, outcome: Outcome, ran: bool) -> None:
            outcomes[step.name] = outcome
            progress.update()
            progress.set_postfix_str(f"{step.name} {outcome.status}, {outcome.seconds:.0f} s" if ran else "")
            name = verdicts.get(step.name)
            if name is not None:
                architecture = params["architectures"][jobs[name]["model"]]
                path = needed([step], before)
                cells[name] = cell_of(jobs[name], architecture, path, outcomes, work_dir, declared.get(name))
                progress.write(describe(cells[name]))

        Runner(work_dir, time_limit_s).run(asked, before, processes=processes, report=report)
    return cells


def matches(name: str, patterns: list[str] | None) -> bool:
    """Return whether a name matches one of the patterns; no patterns match all."""
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def declared_unsupported(params: dict[str, Any]) -> dict[str, str]:
    """Return the reasons of the declared pairs, by job."""
    root = OmegaConf.create({**params, "unsupported": read_yaml(DECLARED)["unsupported"]})
    return {
        str(name): f"{entry.reason} ({entry.upstream})" if entry.upstream else entry.reason
        for name, entry in left_out(_root_=root).items()
    }


def most_processes() -> int:
    """Return one process per core of this process, limited by the machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // STEP_BYTES))


def read_yaml(path: Path) -> Any:
    """Return a YAML file's value."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def describe(cell: Cell) -> str:
    """Describe a cell in one line."""
    worst = ", ".join(f"{name} {value:.1g}" for name, value in cell.errors.items() if value is not None)
    return f"{cell.status:<12}{cell.model}-{cell.target}  {cell.reason[:200] or worst}"


if __name__ == "__main__":
    run(main)
