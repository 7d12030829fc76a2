"""The model zoo: its names, and the number of parameters of its models."""

import pickle
import re
from collections.abc import Iterator
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
import torchvision
import yaml
from torch import nn

from detexport import model_zoo
from detexport.config import get_cfg
from detexport.errors import CheckpointError, ConfigError
from detexport.model_zoo import zoo
from detexport.modeling import build_model

MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
CONFIGS = Path(zoo.__file__).parent / "configs"
NAMES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
MODELS = [name for name in NAMES if not Path(name).name.startswith("Base-")]
CHECKPOINTS = yaml.safe_load((CONFIGS.parent / "checkpoints.yaml").read_text())


config = cache(model_zoo.get_config)


def build_on_meta(name: str) -> nn.Module:
    """Build a model of the zoo without memory for its parameters."""
    cfg = config(name).clone()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def parameters_without_norms(model: nn.Module) -> int:
    """Count the parameters as if batch normalization were frozen, which stores buffers."""
    norms = (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    return parameters(model) - sum(map(parameters, norms))


def distinct(names: list[str]) -> list[str]:
    """Return one name per model, as schedules and initial weights do not change the model."""
    seen = {}
    for name in names:
        node = config(name).MODEL.clone()
        node.WEIGHTS = ""
        seen.setdefault(node.dump(), name)
    return sorted(seen.values())


def test_the_zoo_is_packaged() -> None:
    families = {name.partition("/")[0] for name in MODELS}
    assert families == {
        "COCO-Detection",
        "COCO-InstanceSegmentation",
        "COCO-Keypoints",
        "COCO-PanopticSegmentation",
        "Cityscapes",
        "Detectron1-Comparisons",
        "LVISv0.5-InstanceSegmentation",
        "LVISv1-InstanceSegmentation",
        "Misc",
        "PascalVOC-Detection",
    }
    assert len(MODELS) == 59


def test_every_name_has_a_file_that_can_be_merged() -> None:
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(MASK_RCNN))
    assert cfg.dump() == config(MASK_RCNN).dump()
    for name in NAMES:
        assert config(name).DATASETS.TEST


@pytest.mark.parametrize("name", distinct(MODELS))
def test_every_model_is_built(name: str) -> None:
    assert parameters(build_on_meta(name)) > 1e7


@pytest.mark.parametrize(
    ("name", "twin", "difference"),
    [
        # torchvision counts the background as a class, and predicts boxes for it, too.
        ("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml", "fasterrcnn_resnet50_fpn", 4 * 1025),
        (MASK_RCNN, "maskrcnn_resnet50_fpn", 4 * 1025 + 257),
        ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml", "keypointrcnn_resnet50_fpn", 4 * 1025),
        # torchvision's p6 comes from p5 (256 channels), not from res5 (2048).
        ("COCO-Detection/retinanet_R_50_FPN_3x.yaml", "retinanet_resnet50_fpn", -9 * 256 * (2048 - 256)),
    ],
)
def test_the_number_of_parameters_is_that_of_torchvisions_models(
    name: str, twin: str, difference: int
) -> None:
    node = config(name).MODEL
    classes = node.RETINANET.NUM_CLASSES if "retinanet" in name else node.ROI_HEADS.NUM_CLASSES + 1
    with torch.device("meta"):
        other = torchvision.models.get_model(twin, weights=None, weights_backbone=None, num_classes=classes)
    assert parameters(build_on_meta(name)) == parameters_without_norms(other) - difference


def test_the_number_of_parameters_of_heads_without_a_pyramid() -> None:
    with torch.device("meta"):
        resnet = torchvision.models.resnet50(weights=None)
    backbone = parameters_without_norms(resnet) - parameters(resnet.fc)

    def rpn(channels: int) -> int:
        return 9 * channels**2 + channels + 15 * 5 * (channels + 1)

    predictor = (81 + 4 * 80) * 2049
    c4 = build_on_meta("COCO-Detection/faster_rcnn_R_50_C4_3x.yaml")
    assert parameters(c4) == backbone + rpn(1024) + predictor
    box_head = (49 * 2048 + 1) * 1024 + 1025 * 1024 + (81 + 4 * 80) * 1025
    dc5 = build_on_meta("COCO-Detection/faster_rcnn_R_50_DC5_3x.yaml")
    assert parameters(dc5) == backbone + rpn(2048) + box_head


def test_a_trained_configuration_names_its_checkpoint() -> None:
    url = (
        "https://dl.fbaipublicfiles.com/detectron2/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/"
        "137849600/model_final_f10217.pkl"
    )
    assert model_zoo.get_checkpoint_url(MASK_RCNN) == url
    assert url == model_zoo.get_config(MASK_RCNN, trained=True).MODEL.WEIGHTS
    assert config(MASK_RCNN).MODEL.WEIGHTS == "detectron2://ImageNetPretrained/MSRA/R-50.pkl"


def test_every_published_checkpoint_belongs_to_a_configuration() -> None:
    assert {f"{name}.yaml" for name in CHECKPOINTS} <= set(MODELS)
    for file in CHECKPOINTS.values():
        assert re.fullmatch(r"\d{8,9}/model_(final|\d{7})_[0-9a-f]{6}\.pkl", file)
    assert len(set(CHECKPOINTS.values())) == len(CHECKPOINTS) == 52


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=re.escape(MASK_RCNN)):
        model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R50_FPN_3x.yaml")
    for wrong in ("", "/etc/hostname", "../zoo.py", "COCO-Detection", MASK_RCNN.removesuffix(".yaml")):
        with pytest.raises(ConfigError, match="no such configuration"):
            model_zoo.get_checkpoint_url(wrong)


def test_a_configuration_without_a_checkpoint_suggests_others() -> None:
    name = "Misc/mask_rcnn_R_50_FPN_1x_cls_agnostic.yaml"
    assert model_zoo.get_config(name).MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG
    with pytest.raises(CheckpointError, match=r"no trained checkpoint.*Misc/mask_rcnn_R_50_FPN_1x_dconv"):
        model_zoo.get_config(name, trained=True)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a folder in place of the published storage, with an empty cache."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "storage"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(zoo, "URL_PREFIX", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("DETEXPORT_CACHE", str(tmp_path / "cache"))
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield tmp_path / "storage"
        server.shutdown()
        thread.join()


def publish(model: nn.Module, name: str, storage: Path) -> None:
    """Write the weights of a model to the path of ``name``, in the format of the zoo's files."""
    file = storage / name / CHECKPOINTS[name]
    file.parent.mkdir(parents=True)
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    file.write_bytes(pickle.dumps({"model": state, "__author__": "zoo"}, protocol=4))


def test_a_trained_model_comes_with_its_weights(served: Path) -> None:
    name = "COCO-Detection/rpn_R_50_C4_1x"
    cfg = model_zoo.get_config(f"{name}.yaml")
    cfg.MODEL.DEVICE = "cpu"
    published = build_model(cfg)
    publish(published, name, served)
    model = model_zoo.get(f"{name}.yaml", trained=True, device="cpu")
    assert model.training
    assert model.device == torch.device("cpu")
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, published.state_dict()[key], rtol=0, atol=0)


def test_a_trained_checkpoint_of_another_model_is_refused(served: Path) -> None:
    name = "COCO-Detection/rpn_R_50_C4_1x"
    publish(nn.ModuleDict({"proposal_generator": nn.Linear(2, 2)}), name, served)
    with pytest.raises(CheckpointError, match="does not belong to this model"):
        model_zoo.get(f"{name}.yaml", trained=True, device="cpu")


def test_a_model_trained_from_scratch_needs_no_download(served: Path) -> None:
    model = model_zoo.get("Misc/scratch_mask_rcnn_R_50_FPN_3x_gn.yaml", device="cpu")
    assert model.training
    assert not served.exists()


@pytest.mark.parametrize("name", ["COCO", "Cityscapes", "PascalVOC"])
def test_a_model_has_as_many_classes_as_its_data_set_has_names(name: str) -> None:
    for path in (path for path in MODELS if path.startswith(name) and "rpn" not in path):
        cfg = config(path)
        names = model_zoo.get_class_names(cfg.DATASETS.TEST[0])
        heads = {"RetinaNet": cfg.MODEL.RETINANET, "SemanticSegmentor": None}
        head = heads.get(cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS)
        assert head is None or len(names["things"]) == head.NUM_CLASSES, path
        if "stuff" in names:
            assert len(names["stuff"]) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES


def test_class_names_of_an_unknown_data_set_are_empty() -> None:
    assert model_zoo.get_class_names("mine") == {}
