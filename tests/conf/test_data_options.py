"""The options of the group ``data``."""

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from detexport.config.instantiation import instantiate
from detexport.data.coco_folder import CocoFolder
from detexport.data.synthetic import SyntheticShapes

ROOT = Path(__file__).parents[2]


def compose_data(option: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = compose(f"data/{option}", overrides=list(overrides))
    OmegaConf.resolve(config)
    return config.data


@pytest.mark.parametrize("option", ["shapes", "shapes_sparse"])
def test_a_synthetic_set_has_all_its_options_and_depends_on_the_code_that_draws_it(option: str) -> None:
    data = compose_data(option)
    assert isinstance(instantiate(data.dataset), SyntheticShapes)
    assert Path(inspect.getfile(SyntheticShapes)).is_relative_to(ROOT / data.source)


def test_a_folder_of_ones_own_needs_a_name_and_a_source() -> None:
    data = compose_data("coco_folder", "data.name=own", "data.source=/data/coco", "data.categories=[cat]")
    folder = instantiate(data.dataset)
    assert isinstance(folder, CocoFolder)
    assert (folder.name, folder.source, list(folder.categories or ())) == ("own", "/data/coco", ["cat"])
    open_keys = OmegaConf.missing_keys(compose_data("coco_folder"))
    assert open_keys == {"data.name", "data.source", "data.dataset.name", "data.dataset.source"}


def test_a_folder_without_a_training_split() -> None:
    given = ("data.name=own", "data.source=x", "data.dataset.splits.train=null")
    assert instantiate(compose_data("coco_folder", *given).dataset).splits["train"] is None
