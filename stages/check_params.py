"""Check params: params.yaml must be a composition of conf/ as it is now; no edit is ignored."""

from pathlib import Path

from detexport.config.composition import check_composition
from stage import PARAMS, run


def main(conf: Path = Path("conf")) -> None:
    """Hold params.yaml against CONF; exit with 1 and say what to run if it is stale."""
    check_composition(PARAMS, conf)


if __name__ == "__main__":
    run(main)
