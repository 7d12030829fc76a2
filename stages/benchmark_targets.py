"""Benchmark targets: those that the benchmark of a model measures, each with its artifact and runtime."""

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from detexport.artifact import read_artifact
from detexport.config.params import load_values
from detexport.system.files import remove_others, write_json
from detexport.system.script import run


def main(
    model: Annotated[str, Option()],
    artifacts_dir: Annotated[Path, Option(help="artifacts of other selections are removed")],
    save_to: Annotated[Path, Option()],
) -> None:
    """Write the targets of MODEL's jobs, with the digest of each one's artifact, to SAVE_TO."""
    jobs, exports, conversions = (
        [one for one in load_values(name).values() if one["model"] == model]
        for name in ("jobs", "exports", "conversions")
    )
    for path in remove_others(artifacts_dir, [one["artifact"] for one in exports + conversions]):
        echo(f"removed {path}, of another selection; DVC's cache has it")
    targets = {
        job["target"]: {
            "artifact": job["artifact"],
            "sha256": read_artifact(artifacts_dir / job["artifact"]).sha256,
            "runtime": load_values(f"targets.{job['target']}.runtime"),
        }
        for job in jobs
    }
    write_json(save_to, targets)


if __name__ == "__main__":
    run(main)
