"""Describe the environment, so that artifacts are exported and validated again in another one."""

from pathlib import Path
from typing import Annotated

from typer import Option

from detexport.system.environment import describe_environment
from detexport.system.files import write_json
from detexport.system.script import run


def main(save_to: Annotated[Path, Option()]) -> None:
    """Write the description of this environment to SAVE_TO."""
    write_json(save_to, describe_environment())


if __name__ == "__main__":
    run(main)
