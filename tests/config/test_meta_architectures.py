"""What a configuration says about a model that is not built."""

from pathlib import Path

import pytest

from detexport.config.cfg import load_cfg
from detexport.config.meta_architectures import configured_classes, pools_regions

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("config", "pools"),
    [
        ("detectron2/mask_rcnn.yaml", True),
        ("detectron2/panoptic_fpn.yaml", True),
        ("detectron2/retinanet.yaml", False),
        ("torchvision/keypoint_rcnn.yaml", True),
        ("torchvision/fcos.yaml", False),
    ],
)
def test_which_models_pool_regions(config: str, pools: bool) -> None:
    assert pools_regions(load_cfg(CONF / config)) == pools


@pytest.mark.parametrize(
    ("config", "classes"),
    [
        ("detectron2/mask_rcnn.yaml", 5),
        ("detectron2/retinanet.yaml", 5),
        ("detectron2/proposal_network.yaml", None),
        ("torchvision/fcos.yaml", None),
    ],
)
def test_how_many_classes_a_model_has(config: str, classes: int | None) -> None:
    assert configured_classes(load_cfg(CONF / config)) == classes


def test_the_number_of_classes_of_a_lazy_configuration_is_known_to_its_model(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("model: {_target_: detectron2.modeling.GeneralizedRCNN}\n")
    cfg = load_cfg(path)
    assert pools_regions(cfg)
    assert configured_classes(cfg) is None
