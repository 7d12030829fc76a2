"""A project's own limits: read from its parameters, with every fault in one message."""

from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import yaml

from detexport.errors import ConfigError
from detexport.parity.settings import RANGES, ParitySettings, default_settings, read_parity_settings
from detexport.reference.input_kinds import Plan
from tolerances import TOLERANCE

ROOT = Path(__file__).parents[2]


def test_the_defaults_are_those_of_the_configuration() -> None:
    section = yaml.safe_load((ROOT / "conf/parity/default.yaml").read_text())
    settings = default_settings()
    assert (
        asdict(settings.tolerance) | {"_target_": "detexport.parity.compare.Tolerance"}
        == section["tolerance"]
    )
    assert section.keys() == {one.name for one in fields(ParitySettings)}
    for name in section.keys() - {"tolerance", "scales", "accuracy_precisions"}:
        assert getattr(settings, name) == section[name]
    assert settings == ParitySettings.of(section)
    assert ParitySettings.of({"images": 2}) == replace(settings, images=2)


def test_a_projects_limits_are_read(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("parity: {tolerance: {score: 1e-3}, scales: [1, 2], inputs: {mosaics: 1}}\ndata: {}\n")
    params.write_text(params.read_text().replace("1e-3", "0.001"))
    settings = read_parity_settings(params)
    assert settings.tolerance == replace(TOLERANCE, score=0.001)
    assert (settings.plan.scales, settings.plan.mosaics) == ((1.0, 2.0), 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("parity: {tolerence: {}}", "tolerence: no such key"),
        ("parity: {tolerance: {scores: 1}}", "tolerance.scores: no such key"),
        ("parity: {tolerance: {score: high}}", "tolerance.score: 'high', expected a number"),
        ("parity: {tolerance: {score: .nan}}", "tolerance.score: nan"),
        ("parity: {tolerance: 3}", "tolerance: 3 is not a mapping"),
        ("parity: {images: 2.5}", "images: 2.5, expected a whole number"),
        ("parity: {scales: []}", r"scales: \[\], expected a list"),
        ("parity: {budgets: {int8: -1}}", "budgets.int8: -1"),
        ("parity: {images: yes, draw: x}", "images: True.*; draw: 'x'"),
        (
            "parity: {noise_floor_images: 0}",
            "noise_floor_images: 0, expected a whole number from 1 to 1000000",
        ),
        ("parity: {images: 0}", "images: 0, expected a whole number from 1"),
        ("parity: {scales: [1, 0]}", r"scales: \[1, 0\], expected a list, each a number from 0.01 to 100"),
        ("parity: {scales: [1.0e+9]}", "scales: .*each a number from 0.01 to 100"),
        ("parity: {min_accuracy: 2}", "min_accuracy: 2, expected a number from 0 to 1"),
        ("parity: {budgets: {int8: 2}}", "budgets.int8: 2, expected a number from 0 to 1"),
        ("parity: {inputs: {mosaic_area: 0}}", "inputs.mosaic_area: 0, expected a number from 0.01"),
        (
            "parity: {inputs: {threshold_distance: 2}}",
            "inputs.threshold_distance: 2, expected a number from 0 to 1",
        ),
        ("parity: {draw: -1}", "draw: -1, expected a whole number from 0"),
        (f"parity: {{tolerance: {{score: 1{'0' * 400}}}}}", "tolerance.score: 1000"),
        ("parity: {accuracy_precisions: [fp4]}", "accuracy_precisions: 'fp4' has no budget"),
        ("parity: {tolerance: {pair_iou: 2}}", "pair_iou=2"),
        ("parity: [1]", "no section parity"),
        ("data: {}", "got: data; expected: a mapping parity"),
        ("- 1", "no section parity"),
        ("a: [", "cannot be read"),
    ],
)
def test_what_is_no_rule_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_parity_settings(tmp_path / "params.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read.*FileNotFoundError"):
        read_parity_settings(tmp_path / "nowhere.yaml")


def test_a_key_has_a_range_or_is_the_tolerances() -> None:
    """A new key needs one."""
    numbers = [
        name
        for name in asdict(default_settings())
        if name not in ("tolerance", "inputs", "accuracy_precisions")
    ]
    numbers += [f"inputs.{one.name}" for one in fields(Plan) if one.name not in ("scales", "kinds")]
    assert sorted(numbers) == sorted(RANGES)


def test_given_numbers_of_images_override_the_settings() -> None:
    project = replace(default_settings(), images=2, accuracy_images=3, accuracy_precisions=("int8",))

    def numbers(settings: ParitySettings, precision: str, *given: int | None) -> tuple[int, int]:
        chosen = settings.with_images(*(given or (None, None)), precision)
        return chosen.images, chosen.accuracy_images

    assert numbers(default_settings(), "float32") == (8, 100)
    assert numbers(project, "int8") == (2, 3)
    assert numbers(project, "float32") == (2, 0)
    assert numbers(project, "bf16") == (2, 3)
    assert numbers(project, "float32", 5, 7) == (5, 7)
    assert "float32" in project.with_images(None, 7, "float32").accuracy_precisions
    assert numbers(project, "int8", None, 0) == (2, 0)
