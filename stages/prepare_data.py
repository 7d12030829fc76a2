"""Prepare data: the synthetic set or the user's own, in the standard layout."""

from pathlib import Path

from stage import instantiate, load_params, run


def main(save_dir: Path) -> None:
    """Write the data set of ``data.dataset`` into SAVE_DIR."""
    instantiate(load_params("data.dataset")).write(save_dir)


if __name__ == "__main__":
    run(main)
