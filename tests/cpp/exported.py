"""The small trained models as the artifacts of conf/export."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from torch import nn

from detexport.artifact import read_artifact
from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.contract import Contract
from detexport.data.coco import read_image
from detexport.data.image_samples import ImageSamples
from detexport.export import Provenance
from detexport.modeling import build_model
from detexport.targets.table import artifacts
from synthetic_shapes import synthetic_shapes

ROOT = Path(__file__).parents[2]
# A single shape is then seen as one thing.
SCORE_THRESHOLD = 0.3


class Exports:
    """A folder of artifacts, each made when it is first asked for; one that cannot be made fails once."""

    def __init__(self, folder: Path, pictures: list[Path]) -> None:
        self.folder = folder
        self.pictures = pictures
        self.models: dict[str, nn.Module] = {}

    def get(self, model: str, artifact: str) -> Path:
        """The folder of a model's artifact."""
        folder = self.folder / model / artifact
        if folder.is_dir():
            return folder
        recipe = artifacts()[artifact]
        if not recipe.source:
            net = self._model(model)
            sample = read_image(self.pictures[-1], net.contract(()).channel_order)
            provenance = Provenance(weights_sha256="w", config_sha256="c")
            recipe.maker.build().export(net, sample, folder, contract=_named(net), provenance=provenance)
        else:
            source = self.get(model, recipe.source)
            contract = read_artifact(source).contract
            samples = ImageSamples(self.pictures, contract.channel_order, contract.resize)
            recipe.maker.build().convert(source, samples, folder)
        return folder

    def _model(self, name: str) -> nn.Module:
        if name not in self.models:
            cfg = load_cfg(ROOT / f"conf/detectron2/{name}.yaml")
            cfg.MODEL.DEVICE = "cpu"
            cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = SCORE_THRESHOLD
            cfg.MODEL.RETINANET.SCORE_THRESH_TEST = SCORE_THRESHOLD
            net = build_model(cfg).eval()
            load_weights(net, read_state_dict(ROOT / f"checkpoints/{name}.safetensors"))
            self.models[name] = net
        return self.models[name]


def draw_pictures(folder: Path) -> list[Path]:
    """PNG files of different sizes with none, one and many things."""
    synthetic_shapes(train_images=0, val_images=3).write(folder / "shapes")
    shapes = sorted((folder / "shapes/images/val").iterdir())
    with Image.open(shapes[2]) as image:
        image.convert("RGB").resize((251, 187)).save(folder / "odd.png")
    blank = Image.new("RGB", (131, 97), (90, 90, 90))
    blank.save(folder / "none.png")
    ImageDraw.Draw(blank).rectangle((20, 18, 62, 52), fill=(230, 220, 40))
    blank.save(folder / "one.png")
    return [folder / "none.png", folder / "one.png", folder / "odd.png", shapes[0], shapes[1]]


def _named(net: Any) -> Contract:
    """The contract with a name for each class."""
    contract = net.contract(())
    outputs = {spec.name: spec.shape for spec in contract.outputs}
    if "pred_classes" in outputs:
        contract = replace(contract, class_names=tuple(f"thing {i}" for i in range(net.num_classes)))
    if "sem_seg" in outputs:
        names = tuple(f"stuff {i}" for i in range(outputs["sem_seg"][0]))
        contract = replace(contract, stuff_class_names=names)
    return contract
