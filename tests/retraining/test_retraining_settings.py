from dataclasses import replace
from pathlib import Path

import pytest

from detexport.errors import ConfigError
from detexport.retraining.settings import RetrainingSettings, read_retraining_settings

ROOT = Path(__file__).parents[2]


def test_the_defaults_are_those_of_the_configuration() -> None:
    assert read_retraining_settings(ROOT / "params.yaml") == RetrainingSettings.of({})


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"dato": {}}, "dato"),
        ({"data": {"label_shift": "much"}}, "label_shift"),
        ({"data": {"label_shift": 1.5}}, "share from 0 to 1"),
        ({"data": {"boxes_outside": -0.1}}, "boxes_outside"),
    ],
)
def test_a_wrong_section_is_one_error(section: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RetrainingSettings.of(section)


def test_parameters_without_the_section_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("data: {}\n")
    with pytest.raises(ConfigError, match="no section retraining"):
        read_retraining_settings(tmp_path / "params.yaml")


def test_missing_keys_have_their_defaults() -> None:
    default = RetrainingSettings.of({}).data
    found = RetrainingSettings.of({"data": {"label_shift": 0.5}}).data
    assert found == replace(default, label_shift=0.5) != default
