"""Compose params.yaml from conf/ and overrides, or check that it is up to date."""

from pathlib import Path
from typing import Annotated

from dvc.utils.hydra import compose_and_dump
from typer import Argument, Option

from detexport.config.composition import check_composition
from detexport.config.params import PARAMS
from detexport.system.atomic import atomic_file
from detexport.system.script import run

CONF = Path("conf")


def main(
    overrides: Annotated[list[str] | None, Argument(help="Hydra overrides, e.g. 'export=[onnx]'")] = None,
    check: Annotated[bool, Option("--check", help="write nothing; fail if params.yaml is stale")] = False,
) -> None:
    """Write params.yaml from conf/ with OVERRIDES, as `dvc exp run -S` does before it runs.

    The plug-in in hydra_plugins/ lists the existing options in Hydra's errors.
    """
    if check:
        check_composition(PARAMS, CONF)
        return
    with atomic_file(PARAMS) as temporary:
        compose_and_dump(
            temporary,
            config_dir=str(CONF.resolve()),
            config_module=None,
            config_name="config",
            plugins_path=str(Path.cwd()),
            overrides=overrides or [],
        )


if __name__ == "__main__":
    run(main)
