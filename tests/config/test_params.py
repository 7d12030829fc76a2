"""Read a part of params.yaml by its dotted key."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from detexport.config.params import load_params
from detexport.errors import ConfigError


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_params(value: dict) -> None:
    OmegaConf.save(OmegaConf.create(value), "params.yaml")


def test_load_params_selects_a_dotted_key() -> None:
    write_params({"jobs": {"a-b": {"model": "a"}}, "registry": None})
    assert load_params("jobs.a-b") == {"model": "a"}
    assert load_params("registry") is None


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("nothing", "no nothing; got: no 'nothing'; expected: jobs, data"),
        ("jobs.c", "no jobs.c; got: no 'c'; expected: a"),
        ("jobs.a.b", "no jobs.a.b; got: no 'b'; expected: a mapping"),
        ("data", "open; got: data.x.source: "),
    ],
)
def test_load_params_of_what_is_not_there(key: str, message: str) -> None:
    write_params({"jobs": {"a": 1}, "data": {"x": {"source": "???"}}})
    with pytest.raises(ConfigError) as error:
        load_params(key)
    assert message in str(error.value)


def test_load_params_without_a_file() -> None:
    with pytest.raises(ConfigError, match=r"no file .*params\.yaml"):
        load_params("data")
