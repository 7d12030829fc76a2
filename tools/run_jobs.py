"""Run the jobs of params.yaml in parallel on the engine that it selects: build, export, validate, benchmark.

DVC runs one stage at a time. This program runs the out-of-date stages of single models and jobs in parallel,
and records the results with ``dvc commit``. ``dvc repro`` then runs the stages over all jobs.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import yaml
from tqdm import tqdm
from typer import Exit, Option, echo

from coverage_table.run import OK, Outcome, Runner, alone, digest
from coverage_table.steps import Step, needed, producers, read_steps
from detexport.config.instantiation import instantiate
from detexport.config.params import PARAMS, load_params, load_values
from detexport.errors import BROKEN, DetexportError
from detexport.execution.engine import Execution, Local, Resources
from detexport.system.files import read_json, write_json
from detexport.system.script import run

PIPELINE = Path("dvc.yaml")
CHAIN = (
    *("build", "load_checkpoint", "sample", "reference", "noise_floor", "export", "convert", "validate"),
    *("diagnose", "benchmark_targets", "benchmark", "metrics"),
)
"""The stages of one model or one job."""
GOALS = ("benchmark", "metrics")
ALONE = ("benchmark",)
"""Stages that measure time; each runs alone on its machine."""
COMMITTED_AT_ONCE = 500
COMMIT_S, COMMIT_SHARE = 60.0, 0.1
"""Least time in seconds between two commits, and the largest share of the time that they may take. A run that
is killed loses what it did since the last one."""
LOGS = Path("outputs/logs")
OUTCOMES = "outcomes.json"


class DvcError(DetexportError):
    """A command of DVC failed."""

    exit_code = BROKEN


class DvcRecords:
    """Which steps are out of date: those that DVC lists, and those whose inputs have changed since.

    Args:
        stale: names of the stages that ``dvc status`` lists.
    """

    def __init__(self, stale: set[str]) -> None:
        self.stale = stale
        self.before: dict[str, dict[str, str]] = {}
        self.changed: set[str] = set()

    def recall(self, step: Step, before: Sequence[Step], outcomes: Mapping[str, Outcome]) -> Outcome | None:
        """Return the outcome of a step that is up to date, else None."""
        is_stale = step.name in self.stale or any(other.name in self.changed for other in before)
        return None if is_stale else Outcome("", OK)

    def key(self, step: Step, before: Sequence[Step], outcomes: Mapping[str, Outcome]) -> str:
        """Return an empty key: DVC computes its own."""
        return ""

    def begin(self, step: Step) -> None:
        """Record the digests of the outputs of a step before it runs."""
        self.before[step.name] = {out: digest(Path(out)) for out in step.outs if Path(out).exists()}

    def keep(self, step: Step, outcome: Outcome) -> None:
        """Record whether the outputs of a step have changed."""
        if outcome.outs != self.before.pop(step.name):
            self.changed.add(step.name)


class Results:
    """The stages that ran: DVC and ``outcomes.json`` learn of them while others run.

    Attributes:
        ran: number of the stages that succeeded.
    """

    def __init__(self) -> None:
        self.ran = 0
        self._new: dict[str, Outcome] = {}
        self._next_commit = time.monotonic() + COMMIT_S

    def add(self, step: Step, outcome: Outcome) -> None:
        """Note a stage that was run; commit if it is time."""
        if outcome.status == OK:
            self.ran += 1
            self._new[step.name] = outcome
        if time.monotonic() > self._next_commit:
            self.commit()

    def commit(self) -> None:
        """Record the stages that were run since the last call.

        Raises:
            DvcError: DVC failed.
        """
        began, names = time.monotonic(), list(self._new)
        for start in range(0, len(names), COMMITTED_AT_ONCE):  # as many names as fit on a command line
            dvc("commit", "--force", "--quiet", *names[start : start + COMMITTED_AT_ONCE])
        if names:
            path = LOGS / OUTCOMES
            known = read_json(path) if path.is_file() else {}
            write_json(path, known | {name: asdict(outcome) for name, outcome in self._new.items()})
        self._new.clear()
        now = time.monotonic()
        self._next_commit = now + max(COMMIT_S, (now - began) / COMMIT_SHARE)


def main(
    time_limit_s: Annotated[float, Option(help="a stage that takes longer fails")] = 6 * 3600,
    processes: Annotated[int, Option(help="number of stages in parallel; 0: one per CPU of the engine")] = 0,
) -> None:
    """Run the out-of-date stages of all jobs; exit code 1 if a stage failed.

    The engine is that of params.yaml; `python tools/compose.py engine=ray` selects Ray. The logs are in
    outputs/logs, with the time and the memory of each stage in outcomes.json.
    """
    params = load_all_values()
    stages = yaml.safe_load(PIPELINE.read_text(encoding="utf-8"))["stages"]
    steps = read_steps(stages, params, list(stages))
    before = producers(steps)
    wanted = needed([step for step in steps if step.stage in GOALS], before)
    chain = [step for step in wanted if step.stage in CHAIN]
    if first := [step.name for step in wanted if step.stage not in CHAIN]:
        dvc("repro", *first)
    records = DvcRecords(stale_of(chain))
    execution: Execution = instantiate(load_params("engine"))
    results = Results()
    try:
        outcomes = run_chain(
            chain, before, records, execution, processes or processes_of(execution), time_limit_s, results
        )
    finally:
        results.commit()
    ran = results.ran
    failed = {name: outcome for name, outcome in outcomes.items() if outcome.status != OK}
    echo(f"{ran} stages run, {len(outcomes) - ran - len(failed)} up to date, {len(failed)} failed")
    for name, outcome in failed.items():
        echo(f"{name}: {outcome.status}, {outcome.reason}")
    raise Exit(int(bool(failed)))


def run_chain(
    chain: Sequence[Step],
    before: Mapping[str, tuple[Step, ...]],
    records: DvcRecords,
    execution: Execution,
    processes: int,
    time_limit_s: float,
    results: Results,
) -> dict[str, Outcome]:
    """Run the steps that are out of date, each after the steps that it depends on."""
    names = {step.name for step in chain}
    within = {step.name: tuple(other for other in before[step.name] if other.name in names) for step in chain}
    runner = Runner(
        Path(),
        time_limit_s,
        records=records,
        execution=execution,
        environment={},
        resources=lambda step: resources_of(step, execution),
        logs=LOGS,
    )
    with alone(LOGS), tqdm(total=len(chain), desc="jobs", unit="stage") as progress:

        def report(step: Step, outcome: Outcome, ran: bool) -> None:
            if ran:
                results.add(step, outcome)
            progress.update()
            progress.set_postfix_str(f"{step.name} {outcome.status}" if ran else "")

        return runner.run(chain, within, processes=processes, report=report)


def resources_of(step: Step, execution: Execution) -> Resources:
    """Return what a step occupies.

    A validation on another engine waits for its shards, which occupy CPUs and GPUs themselves.
    """
    if step.stage == "validate" and not isinstance(execution, Local):
        return Resources(cpus=0)
    return Resources(gpus=int(on_gpu(step.params)), alone=step.stage in ALONE)


def on_gpu(value: Any) -> bool:
    """Return whether parameters name a CUDA device."""
    if isinstance(value, Mapping):
        return str(value.get("device", "")).startswith("cuda") or any(map(on_gpu, value.values()))
    return False


def processes_of(execution: Execution) -> int:
    """Return how many stages run at a time: one on this machine, or as many as another engine has CPUs."""
    if isinstance(execution, Local):
        return 1
    engine: Any = execution
    return int(engine.cpus_of_the_cluster())


def stale_of(chain: Sequence[Step]) -> set[str]:
    """Return the names of the stages that DVC calls out of date."""
    if not chain:
        return set()
    done = dvc("status", "--json", *(step.name for step in chain), shown=False)
    found: dict[str, Any] = json.loads(done.strip().splitlines()[-1])
    return set(found)


def dvc(*words: str, shown: bool = True) -> str:
    """Run a command of DVC; return what it printed.

    Raises:
        DvcError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        stdout=None if shown else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DvcError(
            f"dvc {words[0]} failed",
            got=f"exit code {done.returncode}",
            expected="exit code 0",
            remedy="see its output above",
        )
    return done.stdout or ""


def load_all_values() -> dict[str, Any]:
    """Return all parameters."""
    return {name: load_values(name) for name in yaml.safe_load(PARAMS.read_text(encoding="utf-8"))}


if __name__ == "__main__":
    run(main)
