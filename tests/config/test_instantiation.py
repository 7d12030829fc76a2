"""Build an object from its node in the parameters."""

import sys

import pytest
from omegaconf import OmegaConf

from detexport.config.instantiation import instantiate
from detexport.data.synthetic import SyntheticShapes
from detexport.errors import ConfigError, DataError, MissingPackageError
from synthetic_shapes import shapes_options

ALL = shapes_options()
FOLDER = "detexport.data.coco_folder.CocoFolder"


def test_instantiate_gives_plain_values() -> None:
    node = OmegaConf.create({**ALL, "sizes": [[64, 80]]})
    shapes = instantiate(node, seed=5)
    assert isinstance(shapes, SyntheticShapes)
    assert shapes.seed == 5
    assert type(shapes.sizes) is list


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({**ALL, "sede": 1}, r"do not fit .*SyntheticShapes; got: .*'sede'; expected: .*seed"),
        ({"_target_": FOLDER, "name": "x"}, r"do not fit .*CocoFolder; got: missing .*'source'"),
        (
            {"_target_": "detexport.data.nowhere.Shapes"},
            r"detexport\.data\.nowhere\.Shapes cannot be imported",
        ),
        ({"_target_": "detexport.data.synthetic.Nothing"}, "Nothing cannot be imported"),
        ({"a": {**ALL, "sede": 1}, "_target_": "builtins.dict"}, "'sede'"),
        ({**ALL, "max_objects": 99}, "max_objects .* out of range"),
    ],
)
def test_instantiate_says_what_does_not_fit(node: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        instantiate(OmegaConf.create(node))


def test_instantiate_raises_what_the_constructor_raises() -> None:
    node = OmegaConf.create({"_target_": "detexport.data.coco.load_coco", "folder": ".", "split": "val"})
    with pytest.raises(DataError, match="annotation file is missing"):
        instantiate(node)


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "detexport.execution.ray_engine", raising=False)
    monkeypatch.delattr("detexport.execution.ray_engine", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    node = OmegaConf.create({"_target_": "detexport.execution.ray_engine.Ray"})
    with pytest.raises(MissingPackageError, match=r"ray is not installed; remedy: pip install '.*\[ray\]'$"):
        instantiate(node)
