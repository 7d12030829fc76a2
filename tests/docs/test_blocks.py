"""Every shell and Python block of the documentation runs, or names the reason why it does not."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import compose_and_dump, get_hydra_sweeps
from pages import EXECUTABLE, ROOT, SHOWN, Block, all_blocks, read_blocks
from scenes import PLACEHOLDER, SCENES, environment

BLOCKS = all_blocks()
# Names that the text around a Python block introduces.
GIVEN = """
import numpy as _numpy, torch as _torch
from PIL import Image as _Image
image = _torch.from_numpy(_numpy.asarray(_Image.open("photo.jpg")).transpose(2, 0, 1).copy())
"""


def execute(block: Block, folder: Path) -> None:
    code = block.code.replace(PLACEHOLDER, str(folder))
    if block.language == "sh":
        command = ["bash", "-euo", "pipefail", "-c", code]
    else:
        given = GIVEN if (folder / "photo.jpg").exists() else ""
        (folder / "block.py").write_text(given + code)
        command = [sys.executable, "-W", "ignore", "block.py"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block.name}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_a_block_is_run_or_says_why_not(block: Block) -> None:
    assert block.language in EXECUTABLE | SHOWN, f"{block.name}: name the language: {block.language!r}"
    if block.language in EXECUTABLE:
        assert block.scene or block.reason, (
            f"{block.name}: put <!-- run: SCENE --> or <!-- not run: REASON --> on the line before"
        )
        assert block.scene in {"", "bare", *SCENES}
    else:
        assert f"{block.scene}{block.reason}" == "", f"{block.name}: only shell and Python blocks are run"


def test_a_marker_stands_on_the_line_before_its_block() -> None:
    text = "<!-- run: model, slow -->\n```sh\na\n```\n\n<!-- not run: needs a GPU -->\n\n```python\nb\n```\n"
    first, second = read_blocks("page.md", text)
    assert (first.line, first.code, first.scene, first.slow) == (2, "a\n", "model", True)
    assert (second.line, second.language, second.reason) == (8, "python", "")


Templates = Callable[[str], Path]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    """The folder of a scene, made at its first block."""
    made: dict[str, Path] = {}

    def template(scene: str) -> Path:
        if scene not in made:
            folder = tmp_path_factory.mktemp(scene)
            SCENES[scene](folder)
            made[scene] = folder
        return made[scene]

    return template


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=block.name, marks=[pytest.mark.slow] if block.slow else [])
        for block in BLOCKS
        if block.scene in SCENES
    ],
)
def test_the_block_runs(block: Block, template: Templates, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(template(block.scene), folder, symlinks=True)
    execute(block, folder)


# The reader's folders.
FOLDERS = re.compile(r"/path/to|/data(?=/)")
# What the text leaves out of a command as "...": the reader's own model.
LEFT_OUT = ["models.mine.config_file=/path/to/config.yaml", "models.mine.weights=/path/to/model_final.pth"]


def experiments() -> Iterator[object]:
    """The overrides of every `dvc exp run`, whether its block is run or not."""
    for block in BLOCKS:
        lines = block.code.replace("\\\n", " ").splitlines() if block.language == "sh" else []
        for line in lines:
            words = shlex.split(line, comments=True)
            if words[:3] == ["dvc", "exp", "run"]:
                overrides = [word for before, word in pairwise(words) if before == "-S"]
                yield pytest.param(overrides, "..." in words, id=" ".join((block.name, *overrides)))


@pytest.mark.parametrize(("overrides", "shortened"), list(experiments()))
def test_the_overrides_of_an_experiment_compose(
    overrides: list[str], shortened: bool, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("MODEL: {ROI_HEADS: {NUM_CLASSES: 2}}\n")  # cat and dog
    for file in ("model.pth", "model_final.pth"):
        (tmp_path / file).touch()
    for folder in ("coco", "pets"):
        (tmp_path / folder).mkdir()
    whole = [FOLDERS.sub(str(tmp_path), one) for one in overrides + LEFT_OUT * shortened]
    for sweep in get_hydra_sweeps({"params.yaml": whole}):
        params = tmp_path / "params.yaml"
        compose_and_dump(str(params), str(ROOT / "conf"), None, "config", str(ROOT), sweep["params.yaml"])
        assert yaml.safe_load(params.read_text())["jobs"]
