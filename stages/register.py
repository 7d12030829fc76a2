"""Register: what passed becomes versions in the model registry, what did not is named with its reasons."""

import os
from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf
from typer import Option, echo

from detexport.config.params import load_params
from detexport.registry.jobs import Job, register_jobs
from detexport.system.files import write_json
from detexport.system.script import run


def main(models_dir: Annotated[Path, Option()], receipts: Annotated[Path, Option()]) -> None:
    """Register the jobs of MODELS_DIR and write RECEIPTS."""
    jobs, targets, options, conversions = map(to_dict, ("jobs", "targets", "registry", "conversions"))
    outcome = register_jobs(
        [
            Job(
                name,
                **job,
                runtime=targets[job["target"]]["runtime"],
                folder=models_dir / job["model"],
                made_by=tuple(made_by(job["model"], job["artifact"], conversions)),
            )
            for name, job in jobs.items()
        ],
        workspace=workspace(),
        checkout=Path.cwd(),
        **options,
    )
    write_json(receipts, outcome)
    for entry in outcome["registered"]:
        echo(f"{entry['job']}: {entry['name']} version {entry['version']}")
    for entry in outcome["refused"]:
        echo(f"{entry['job']}: refused: {entry['reasons'][0]}")


def made_by(model: str, artifact: str, conversions: dict[str, Any]) -> list[str]:
    """The stages that made an artifact, the export first."""
    conversion = conversions.get(f"{model}-{artifact}")
    if conversion is None:
        return [f"export@{model}-{artifact}"]
    return [*made_by(model, conversion["source"], conversions), f"convert@{model}-{artifact}"]


def to_dict(key: str) -> dict[str, Any]:
    """Parameters as plain values."""
    value: Any = OmegaConf.to_object(load_params(key))
    return dict(value)


def workspace() -> Path:
    """The checkout that the user works in, also where DVC runs an experiment in a temporary clone of it.

    DVC tells a stage in ``DVC_ROOT`` where the user's checkout is, and keeps its clones inside; elsewhere the
    variable is left over from another repository's pipeline.
    """
    here, told = Path.cwd(), os.environ.get("DVC_ROOT")
    return Path(told).resolve() if told and here.is_relative_to(Path(told).resolve() / ".dvc") else here


if __name__ == "__main__":
    run(main)
