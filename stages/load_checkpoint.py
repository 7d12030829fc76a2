"""Load checkpoint: any supported file, checked against the built model -> safetensors and a load report."""

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from detexport.checkpoint import match_weights, read_state_dict, write_state_dict
from detexport.files import atomic_dir, read_json, sha256_file, write_json
from stage import run


def main(
    build: Annotated[Path, Option()],
    checkpoint: Annotated[Path, Option()],
    save_dir: Annotated[Path, Option()],
) -> None:
    """Write the weights of CHECKPOINT that the model of BUILD needs into SAVE_DIR; all of them or none."""
    fitting, report = match_weights(read_state_dict(checkpoint), read_json(build / "parameters.json"))
    report.raise_if_incomplete(str(checkpoint))
    with atomic_dir(save_dir) as folder:
        write_state_dict(fitting, folder / "model.safetensors")
        source = {"file": checkpoint.name, "sha256": sha256_file(checkpoint)}
        write_json(folder / "load.json", {"source": source, **report.to_json()})
    echo(f"{checkpoint}: {len(report.loaded)} tensors, nothing missing, nothing left over")


if __name__ == "__main__":
    run(main)
