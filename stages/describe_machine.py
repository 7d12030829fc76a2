"""Describe the machine, so that latencies are measured again on another one."""

from pathlib import Path
from typing import Annotated

from typer import Option

from detexport.benchmark.machine import describe_machine
from detexport.system.files import write_json
from detexport.system.script import run


def main(save_to: Annotated[Path, Option()]) -> None:
    """Write this machine's description to SAVE_TO."""
    write_json(save_to, describe_machine())


if __name__ == "__main__":
    run(main)
