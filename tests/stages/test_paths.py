"""Paths of any characters go through the Makefile and dvc.yaml."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
# Composing params.yaml checks these names, or quotes the path for a shell.
SAFE = re.compile(
    r"key|data\.name|item\.(model|target|artifact|source)|item\.quoted\.(config_file|weights)|item(?=$)"
)


def test_make_in_a_folder_with_blanks_makes_one_environment_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "My Drive (1) $HOME"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    # The suite may itself run below make, which hands its level and its flags down.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-n", "setup"], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    commands = done.stdout.splitlines()
    assert [line for line in commands if "-m venv" in line] == ['"python3" -m venv .venv']
    assert commands[-1] == "touch .venv/.ready"
    (notice,) = [number for number, line in enumerate(commands) if line.startswith('echo "set-up: install')]
    assert notice < min(number for number, line in enumerate(commands) if "-m venv" in line)
    assert not any("My Drive" in line for line in commands)


def test_commands_of_the_pipeline_hold_names_and_quoted_paths_alone() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        command = stage.get("do", stage)["cmd"]
        for reference in re.findall(r"\$\{([^}]*)\}", command):
            assert SAFE.fullmatch(reference), f"{name}: {reference}"


def test_the_one_bare_item_is_a_path_of_ours() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    bare = [name for name, stage in stages.items() if "${item}" in stage.get("do", stage)["cmd"]]
    assert bare == ["download"]
    assert "downloads: ${downloads:}" in (ROOT / "conf/config.yaml").read_text()
