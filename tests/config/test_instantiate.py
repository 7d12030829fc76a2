"""What every stage does first and last, and the first stage as DVC calls it."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from detexport.config.instantiate import instantiate
from detexport.config.params import load_params
from detexport.data.coco import load_coco
from detexport.data.synthetic import SyntheticShapes
from detexport.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]
SHAPES = "detexport.data.synthetic.SyntheticShapes"
FOLDER = "detexport.data.coco_folder.CocoFolder"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_params(value: dict) -> None:
    OmegaConf.save(OmegaConf.create(value), "params.yaml")


def prepare_data(save_dir: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "stages/prepare_data.py", save_dir]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_prepare_data_writes_the_set() -> None:
    dataset = {"_target_": SHAPES, "train_images": 1, "val_images": 2, "sizes": [[64, 80]]}
    write_params({"data": {"dataset": dataset}})
    result = prepare_data("data/shapes")
    assert result.returncode == 0, result.stderr
    assert {(r.height, r.width) for r in load_coco(Path("data/shapes"), "val").images} == {(64, 80)}


def test_a_fault_of_the_user_is_one_line_and_leaves_nothing() -> None:
    splits = {"val": {"images": "images", "annotations": "instances.json"}}
    dataset = {"_target_": FOLDER, "source": "missing", "name": "own", "splits": splits}
    write_params({"data": {"dataset": dataset}})
    result = prepare_data("data/own")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(
        "error: the annotation file is missing; got: no file missing/instances.json"
    )
    assert result.stderr.count("\n") == 1
    assert not Path("data/own").exists()


def test_a_fault_of_ours_keeps_its_trace() -> None:
    write_params({"data": {"dataset": {"_target_": "builtins.dict"}}})
    result = prepare_data("data/shapes")
    assert result.returncode == 3
    assert "Traceback" in result.stderr
    assert "AttributeError" in result.stderr


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


def test_instantiate_gives_plain_values() -> None:
    node = OmegaConf.create({"_target_": SHAPES, "sizes": [[64, 80]]})
    shapes = instantiate(node, seed=5)
    assert isinstance(shapes, SyntheticShapes)
    assert shapes.seed == 5
    assert type(shapes.sizes) is list


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": SHAPES, "sede": 1}, r"do not fit .*SyntheticShapes; got: .*'sede'; expected: .*seed"),
        ({"_target_": FOLDER, "name": "x"}, r"do not fit .*CocoFolder; got: missing .*'source'"),
        (
            {"_target_": "detexport.data.nowhere.Shapes"},
            r"detexport\.data\.nowhere\.Shapes cannot be imported",
        ),
        ({"_target_": "detexport.data.synthetic.Nothing"}, "Nothing cannot be imported"),
        ({"a": {"_target_": SHAPES, "sede": 1}, "_target_": "builtins.dict"}, "'sede'"),
        ({"_target_": SHAPES, "seed": 0, "max_objects": 99}, "max_objects .* out of range"),
    ],
)
def test_instantiate_says_what_does_not_fit(node: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        instantiate(OmegaConf.create(node))


def test_instantiate_raises_what_the_constructor_raises() -> None:
    node = OmegaConf.create({"_target_": "detexport.data.coco.load_coco", "folder": ".", "split": "val"})
    with pytest.raises(DataError, match="annotation file is missing"):
        instantiate(node)
