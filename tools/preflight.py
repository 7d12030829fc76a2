"""Preflight: the checks of `make repro` before DVC runs."""

import json
import time
from collections.abc import Container
from pathlib import Path
from typing import Any

import psutil
from omegaconf import OmegaConf
from typer import echo

from detexport.benchmark.machine import describe_machine
from detexport.config.cfg import load_cfg
from detexport.config.composition import check_composition
from detexport.config.meta_architectures import pools_regions
from detexport.config.params import PARAMS, load_params, load_values
from detexport.errors import listed
from detexport.parity.settings import ParitySettings
from detexport.reference.resume import remove_abandoned
from detexport.system.atomic import remove_leftovers
from detexport.system.class_source import required_packages
from detexport.system.environment import changes, describe_environment
from detexport.system.files import read_json
from detexport.system.script import run
from detexport.targets.opsets import check_opset_version
from detexport.workflows.check_registered import outdated_receipt

# DVC's record of the processes that read and write each path.
LOCKS = Path(".dvc/tmp/rwlock")
PATIENCE_S = 15.0
# The folders that stages write to.
WRITTEN = ("checkpoints", "data", "downloads", "jobs", "outputs", "reports")
# Outputs that are about a machine or a registry, which may be another than when they were written.
MACHINE = Path("outputs/machine.json")
ENVIRONMENT = Path("outputs/environment.json")
RECEIPTS = Path("outputs/registered.json")
OF_RECEIPTS = (Path("outputs/promoted.json"), Path("outputs/published.json"))


def main(conf: Path = Path("conf")) -> None:
    """Fail if params.yaml is not composed from the current CONF, or requests what cannot run.

    Also cleans up after killed runs. A run killed while it writes DVC's lock file truncates it, and DVC
    cannot start again: such a file is removed. DVC does not start while a process in its lock file exists, so
    wait for a killed one to end; DVC reports one that stays. Temporary folders are removed; see ``sweep``.
    """
    check_composition(PARAMS, conf)
    parity: Any = OmegaConf.to_object(load_params("parity"))
    ParitySettings.of(parity, str(PARAMS))
    check_opsets()
    clean_up()


def clean_up() -> None:
    """Remove what killed runs and other machines left; see ``main``."""
    if broken():
        time.sleep(1.0)  # another run may be writing it
        if broken():
            echo(f"removing {LOCKS}, which a killed run left truncated")
            LOCKS.unlink(missing_ok=True)
    deadline = time.monotonic() + PATIENCE_S
    while holders() and time.monotonic() < deadline:
        if deadline - time.monotonic() > PATIENCE_S - 0.1:
            echo(f"waiting for the process {min(holders(), default=0)} of another run to end")
        time.sleep(0.2)
    sweep({str(job) for job in load_params("jobs")})
    remove_other_machine()
    remove_other_environment()
    remove_other_receipts()


def sweep(jobs: Container[str]) -> None:
    """Remove the temporary files of killed runs, also where the next run writes nothing.

    Args:
        jobs: names of the jobs whose progress the next run continues.
    """
    folders = [Path(folder) for folder in WRITTEN]
    left = remove_leftovers(PARAMS.parent, below=False)
    for folder in folders:
        left += [*remove_leftovers(folder), *remove_abandoned(folder, jobs)]
    for path in left:
        echo(f"removed {path}, which a killed run left")


def remove_other_machine() -> None:
    """Remove the description of another kind of machine, so that latencies are measured on this one."""
    if MACHINE.is_file() and read_json(MACHINE) != describe_machine():
        echo(f"{MACHINE} describes another kind of machine: latencies are measured again")
        MACHINE.unlink()


def remove_other_environment() -> None:
    """Remove the description of another environment, so that artifacts are exported again in this one."""
    if not ENVIRONMENT.is_file():
        return
    if changed := changes(read_json(ENVIRONMENT), describe_environment()):
        echo(f"the environment changed, artifacts are exported again: {listed(changed)}")
        ENVIRONMENT.unlink()


def remove_other_receipts() -> None:
    """Remove receipts of versions that the registry lacks, so that the jobs are registered again.

    Raises:
        RegistryError: the registry cannot be reached.
    """
    if not RECEIPTS.is_file():
        return
    reason = outdated_receipt(read_json(RECEIPTS), load_values("registry"))
    if reason:
        echo(f"{reason}: jobs are registered again")
        for path in (RECEIPTS, *OF_RECEIPTS):
            path.unlink(missing_ok=True)


def check_opsets() -> None:
    """Check the opsets that the jobs request, before anything is exported.

    Raises:
        ConfigError: the exporter cannot write one, or the installed ONNX Runtime cannot run it.
    """
    jobs, export_steps, targets, models = map(load_params, ("jobs", "export_steps", "targets", "models"))
    for job in jobs.values():
        steps, model = export_steps[job.artifact], models[job.model]
        classes = [targets[job.target].runtime._target_, *(maker._target_ for maker in steps.values())]
        for name, maker in steps.items():
            if "opset_version" in maker:
                cfg = load_cfg(Path(model.config_file))
                overrides: Any = OmegaConf.to_container(model.config)
                cfg.merge_from_tree(overrides, source=f"models.{job['model']}.config")
                check_opset_version(
                    name,
                    maker.opset_version,
                    maker.exporter,
                    rois=pools_regions(cfg),
                    runs_onnx=any("onnxruntime" in required_packages(path) for path in classes),
                    option=f"-S artifacts.{name}.method.opset_version",
                )


def broken() -> bool:
    """Return whether DVC's lock file exists and is not valid JSON, so that DVC cannot start."""
    try:
        json.loads(LOCKS.read_text())
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def holders() -> set[int]:
    """Return the processes in DVC's lock file that still exist."""
    try:
        locks = json.loads(LOCKS.read_text())
    except (OSError, ValueError):
        return set()
    entries = [
        entry
        for lock in locks.values()
        for held in lock.values()
        for entry in (held if isinstance(held, list) else [held])
    ]
    return {entry["pid"] for entry in entries if "pid" in entry and psutil.pid_exists(entry["pid"])}


if __name__ == "__main__":
    run(main)
