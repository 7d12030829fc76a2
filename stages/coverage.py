"""Coverage: every model x every target -> a table of cells, run by the pipeline's own stages.

Not a stage of dvc.yaml: it runs those of dvc.yaml, several at a time, for the models and targets of
conf/experiment/coverage.yaml, and where one fails it goes on and says so in the cell.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import yaml
from omegaconf import OmegaConf
from tqdm import tqdm
from typer import Exit, Option, echo

from detexport.artifact import MANIFEST, read_artifact
from detexport.config.composition import unsupported
from detexport.coverage.cells import Cell, kinds_of, measured_in, status_of
from detexport.coverage.run import OK, Outcome, Runner
from detexport.coverage.steps import Step, needed, producers, read_steps
from detexport.errors import ConfigError
from detexport.files import read_json, write_json
from detexport.parity.reference import read_reference
from stage import PARAMS, run

PIPELINE = Path("dvc.yaml")
DECLARED = Path("conf/unsupported.yaml")
STAGES = ("prepare_data", "build", "load_checkpoint", "reference", "export", "convert", "validate")
LINKED = ("checkpoints", "conf", "hydra_plugins", "requirements.lock", "src", "stages")
"""What the stages read, beside what they write."""


def main(
    work_dir: Annotated[Path, Option(help="what is made, and what is known from earlier runs")],
    save_to: Annotated[Path, Option(help="the cells, as JSON")],
    only: Annotated[list[str] | None, Option(help="models, e.g. 'mask_rcnn*'; may be given again")] = None,
    target: Annotated[list[str] | None, Option(help="targets, e.g. 'openvino*'; may be given again")] = None,
    processes: Annotated[int, Option(help="steps at a time; each has one thread")] = os.cpu_count() or 1,
    time_limit_s: Annotated[float, Option(help="a step that takes longer has failed")] = 600,
) -> None:
    """Measure every architecture x every target and write the cells to SAVE_TO; exit code 1 if a cell failed.

    A cell is a small model, exported and run in a fresh process against the PyTorch model. What an earlier run
    measured with the same code, options and packages is not measured again, also where it was killed.

        python stages/coverage.py ... --only mask_rcnn --target onnx     one cell

        python stages/coverage.py ... --only '*_C4' --target 'openvino*' some

    Logs of the steps lie in WORK_DIR/logs, artifacts in WORK_DIR/outputs.
    """
    params = prepare(work_dir)
    jobs = {
        name: job
        for name, job in params["jobs"].items()
        if matches(job["model"], only) and matches(job["target"], target)
    }
    if not jobs:
        raise ConfigError(
            "no cell is asked for",
            got=f"--only {only}, --target {target}",
            expected=f"models: {', '.join(params['models'])}; targets: {', '.join(params['targets'])}",
        )
    steps = read_steps(read_yaml(PIPELINE)["stages"], params, STAGES)
    before = producers(steps)
    goals = {step.name: step for step in steps}
    asked = needed([goals[f"validate@{name}"] for name in jobs], before)
    declared = unsupported(_root_=OmegaConf.create({**params, "unsupported": read_yaml(DECLARED)["unsupported"]}))
    cells: dict[str, Cell] = {}
    with tqdm(total=len(asked), desc="coverage", unit="step", smoothing=0) as progress:

        def report(step: Step, outcome: Outcome, ran: bool) -> None:
            outcomes[step.name] = outcome
            progress.update()
            progress.set_postfix_str(f"{step.name} {outcome.status}, {outcome.seconds:.0f} s" if ran else "")
            if step.stage == "validate":
                name = step.name.partition("@")[2]
                cells[name] = cell(name, params, work_dir, needed([step], before), outcomes, declared.get(name))
                progress.write(describe(cells[name]))

        outcomes: dict[str, Outcome] = {}
        Runner(work_dir, time_limit_s).run(asked, before, processes=processes, report=report)
    write_json(save_to, [cells[name].to_json() for name in jobs])
    statuses = [each.status for each in cells.values()]
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    echo(f"{save_to}: {', '.join(f'{count} {status}' for status, count in counts.items())}")
    raise Exit(int("failed" in statuses))


def prepare(work_dir: Path) -> dict[str, Any]:
    """Lay WORK_DIR out like the repository and compose its parameters: all pairs, declared unsupported or not."""
    work_dir.mkdir(parents=True, exist_ok=True)
    for name in LINKED:
        link = work_dir / name
        if not link.is_symlink():
            link.symlink_to(Path(name).resolve())
    compose = [sys.executable, "stages/compose.py", "experiment=coverage", "unsupported=[]"]
    done = subprocess.run(compose, cwd=work_dir, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError("the experiment coverage cannot be composed", got=done.stderr)
    params: dict[str, Any] = read_yaml(work_dir / PARAMS)
    return params


def read_yaml(path: Path) -> Any:
    """A YAML file's value."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def matches(name: str, patterns: list[str] | None) -> bool:
    """Whether a name is asked for; without patterns every one is."""
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def cell(
    name: str,
    params: dict[str, Any],
    work_dir: Path,
    steps: Sequence[Step],
    outcomes: dict[str, Outcome],
    declared: str | None,
) -> Cell:
    """What became of the job NAME, whose verdict STEPS lead to."""
    model, target, artifact = (params["jobs"][name][key] for key in ("model", "target", "artifact"))
    folder = work_dir / "outputs/models" / model
    measured: dict[str, Any] = {}
    faults: list[str] = []
    made = [step for step in steps if step.stage in ("export", "convert") and outcomes[step.name].seconds]
    if made:
        measured |= {
            "export_s": round(sum(outcomes[step.name].seconds for step in made), 1),
            "peak_bytes": max(outcomes[step.name].peak_bytes for step in made),
        }
    if outcomes[steps[-1].name].status == OK:
        verdict, reference = read_json(work_dir / steps[-1].outs[-1]), read_reference(folder / "reference")
        manifest = read_artifact(folder / "artifacts" / artifact)
        faults = [*verdict["reasons"], *kinds_of(reference.samples, manifest.contract).gaps]
        measured |= measured_in(verdict, reference, manifest)
    status, reason = status_of(outcomes[steps[-1].name], faults, declared)
    return Cell(model, params["architectures"][model], target, status, reason, **measured)


def describe(cell: Cell) -> str:
    """A cell in a line."""
    worst = ", ".join(f"{name} {value:.1g}" for name, value in cell.errors.items() if value is not None)
    return f"{cell.status:<12}{cell.model}-{cell.target}  {cell.reason[:200] or worst}"


if __name__ == "__main__":
    run(main)
