"""Preflight: what `make repro` looks at before DVC runs."""

import json
import time
from collections.abc import Container
from pathlib import Path
from typing import Any

import psutil
from omegaconf import OmegaConf
from typer import echo

from detexport.config.cfg import load_cfg
from detexport.config.composition import check_composition
from detexport.config.params import PARAMS, load_params
from detexport.parity.settings import Rules
from detexport.reference.progress import remove_abandoned
from detexport.system.atomic import remove_leftovers
from detexport.system.script import run
from detexport.targets.opsets import check_opset_version
from detexport.targets.table import ONNX_RUNTIME

# Where DVC notes which process is writing what.
LOCKS = Path(".dvc/tmp/rwlock")
PATIENCE_S = 15.0
# Where stages write.
WRITTEN = ("checkpoints", "data", "downloads", "outputs", "reports")


def main(conf: Path = Path("conf")) -> None:
    """Fail if params.yaml is not a composition of CONF as it is now, or asks for what cannot run.

    A run that is killed while it writes DVC's notes leaves them cut short, and nothing runs again. And DVC
    refuses to run beside a process that it finds in its notes, also one that was killed a moment ago and
    is not yet gone. A process that lives on is DVC's to report. Half-written folders of killed runs are
    removed; see ``sweep``.
    """
    check_composition(PARAMS, conf)
    parity: Any = OmegaConf.to_object(load_params("parity"))
    Rules.of(parity, str(PARAMS))
    check_opsets()
    if broken():
        time.sleep(1.0)  # another run may be about to write them
        if broken():
            echo(f"removing {LOCKS}, which a killed run left cut short")
            LOCKS.unlink(missing_ok=True)
    deadline = time.monotonic() + PATIENCE_S
    while holders() and time.monotonic() < deadline:
        if deadline - time.monotonic() > PATIENCE_S - 0.1:
            echo(f"waiting for the process {min(holders(), default=0)} of another run to end")
        time.sleep(0.2)
    sweep({str(job) for job in load_params("jobs")})


def sweep(jobs: Container[str]) -> None:
    """Remove what killed runs left half written, also where the next run writes nothing.

    Args:
        jobs: names of those that the next run goes on with.
    """
    folders = [Path(folder) for folder in WRITTEN]
    left = remove_leftovers(PARAMS.parent, below=False)
    for folder in folders:
        left += [*remove_leftovers(folder), *remove_abandoned(folder, jobs)]
    for path in left:
        echo(f"removed {path}, which a killed run left")


def check_opsets() -> None:
    """Check the versions of ONNX's operators that the jobs ask for, before anything is exported.

    Raises:
        ConfigError: the exporter does not write one, or the installed ONNX Runtime does not run it.
    """
    params: Any = OmegaConf.to_container(load_params("jobs"))
    for job in params.values():
        makers = load_params(f"makers.{job['artifact']}")
        runtime = load_params(f"targets.{job['target']}.runtime")._target_
        model = load_params(f"models.{job['model']}")
        for one in makers:
            if "opset_version" in one.maker:
                cfg = load_cfg(Path(model.config_file))
                overrides: Any = OmegaConf.to_container(model.config)
                cfg.merge_from_tree(overrides, source=f"models.{job['model']}.config")
                check_opset_version(
                    one.name,
                    one.maker.opset_version,
                    one.maker.exporter,
                    meta_arch=cfg.MODEL.META_ARCHITECTURE,
                    runs_onnx=runtime == ONNX_RUNTIME.path
                    or any(other.name == "onnx_int8" for other in makers),
                    option=f"-S artifacts.{one.name}.method.opset_version",
                )


def broken() -> bool:
    """Whether DVC's notes are there and cannot be read: DVC would refuse to run for ever."""
    try:
        json.loads(LOCKS.read_text())
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def holders() -> set[int]:
    """Processes in DVC's notes that the system still knows."""
    try:
        notes = json.loads(LOCKS.read_text())
    except (OSError, ValueError):
        return set()
    entries = [
        entry
        for note in notes.values()
        for held in note.values()
        for entry in (held if isinstance(held, list) else [held])
    ]
    return {entry["pid"] for entry in entries if "pid" in entry and psutil.pid_exists(entry["pid"])}


if __name__ == "__main__":
    run(main)
