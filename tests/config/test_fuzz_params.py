"""``params.yaml`` with random damage: a value, or one line that says what is wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from detexport.config.params import load_params
from detexport.errors import ConfigError
from fuzzing import check, fuzzed, mutated_bytes, mutated_trees

PARAMS = {
    "data": {"name": "shapes", "categories": None, "source": "${data.name}"},
    "models": {"m": {"config_file": "a.yaml", "config": {"MODEL": {"DEVICE": "cpu"}}, "weights": "???"}},
    "jobs": {"m-onnx": {"model": "m", "target": "onnx", "artifact": "onnx"}},
    "parity": {"scales": [1.0, 0.75], "images": 8},
}
KEYS = st.sampled_from(
    ["data", "data.name", "data.source", "models.m", "jobs", "jobs.m-onnx.target", "parity.scales"]
)
TEXT = yaml.safe_dump(PARAMS).encode() + b"a: &a [1]\nb: *a\nc: ${oc.env:HOME}\nd: !!python/tuple [1]\n"


def use(key: str) -> None:
    """Load a value, as plain ones."""
    value = load_params(key)
    if OmegaConf.is_config(value):
        OmegaConf.to_container(value, resolve=True)


def test_values_with_wrong_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    @fuzzed()
    @given(mutated_trees(PARAMS), KEYS)
    @example({"data": {"source": "${data.name}"}}, "data")
    def property_of(value: Any, key: str) -> None:
        Path("params.yaml").write_text(yaml.safe_dump(value, allow_unicode=False))
        check(lambda: use(key), ConfigError)

    property_of()


def test_files_with_wrong_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    @fuzzed()
    @given(mutated_bytes(TEXT), KEYS)
    def property_of(data: bytes, key: str) -> None:
        Path("params.yaml").write_bytes(data)
        check(lambda: use(key), ConfigError)

    property_of()
