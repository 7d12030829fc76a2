"""A project's section ``parity`` from outside: settings, or one line that says what is wrong."""

from pathlib import Path
from typing import Any

import yaml
from hypothesis import given

from detexport.errors import ConfigError
from detexport.parity.settings import read_parity_settings
from fuzzing import check, fuzzed, mutated_bytes, mutated_trees

TEXT = (Path(__file__).parents[2] / "conf/parity/default.yaml").read_text()
PARAMS = {"parity": yaml.safe_load(TEXT)}


def use(path: Path) -> None:
    """Read the settings, and make of them what a reference is made by."""
    settings = read_parity_settings(path)
    assert settings.plan.scales
    assert settings.noise_floor_images > 0


def test_sections_with_wrong_parts(tmp_path: Path) -> None:
    read = []

    @fuzzed()
    @given(mutated_trees(PARAMS))
    def property_of(value: Any) -> None:
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(value, allow_unicode=False))
        read.append(check(lambda: use(tmp_path / "params.yaml"), ConfigError))

    property_of()
    assert any(read)
    assert not all(read)


def test_sections_with_wrong_bytes(tmp_path: Path) -> None:
    text = yaml.safe_dump(PARAMS).encode()

    @fuzzed()
    @given(mutated_bytes(text))
    def property_of(data: bytes) -> None:
        (tmp_path / "params.yaml").write_bytes(data)
        check(lambda: use(tmp_path / "params.yaml"), ConfigError)

    property_of()
