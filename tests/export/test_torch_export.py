"""torch.export of every architecture: what eager computes, at every size, with any number of detections."""

import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detexport.artifact import Format, read_artifact
from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.contract import IMAGE, Contract, ResizeRule, TensorSpec
from detexport.data.coco import read_image
from detexport.data.resize import resize_image
from detexport.errors import ArtifactError, ExportError
from detexport.export import Provenance
from detexport.export.record_program import RECORDED_SIZES, record_program
from detexport.formats.pt2 import load_program, save_program
from detexport.modeling import build_model
from detexport.runtime.exported_program import ExportedProgram
from makers import maker
from small_architectures import NUM_CLASSES, small_cfg
from synthetic_shapes import synthetic_shapes
from tiny_artifacts import tiny_contract

ROOT = Path(__file__).parents[2]
PROVENANCE = Provenance(weights_sha256="w", config_sha256="c")
SAMPLE = np.zeros((3, 64, 80), np.uint8)
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")),
]
TRAINED = [
    "mask_rcnn",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "faster_rcnn",
            "keypoint_rcnn",
            "retinanet",
            "cascade_mask_rcnn",
            "pointrend",
            "panoptic_fpn",
        )
    ),
]
DC5 = {
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res5"],
    "MODEL.RESNETS.RES5_DILATION": 2,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 32, 64]],
    "MODEL.RPN.IN_FEATURES": ["res5"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["res5"],
}
UNTRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "C4": ("mask_rcnn_c4", {}),
    "DC5": ("mask_rcnn", DC5),
    "ProposalNetwork": ("proposal_network", {}),
    "SemanticSegmentor": ("semantic_segmentor", {}),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """Validation images with several shapes."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=3).write(folder)
    return [read_image(path, "RGB") for path in sorted((folder / "images/val").iterdir())]


def export(model: Any, folder: Path) -> Path:
    contract = model.contract(tuple("abcde"[: getattr(model, "num_classes", NUM_CLASSES)]))
    maker("torch_export").export(model, SAMPLE, folder, contract=contract, provenance=PROVENANCE)
    return folder


@pytest.fixture(scope="module", params=TRAINED)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A small model as it was trained, and its artifact."""
    model = build_model(load_cfg(ROOT / f"conf/detectron2/{request.param}.yaml")).eval()
    load_weights(model, read_state_dict(ROOT / f"checkpoints/{request.param}.safetensors"))
    return model, export(model, tmp_path_factory.mktemp("artifacts") / request.param)


def eager(model: Any, picture: np.ndarray) -> dict[str, np.ndarray]:
    with torch.no_grad():
        fields = model.detect([torch.from_numpy(picture)])[0]
    return {name: value.numpy() for name, value in fields.items()}


def require_equal(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], atol: float) -> None:
    assert actual.keys() <= expected.keys()
    for field, value in actual.items():
        np.testing.assert_allclose(value, expected[field], rtol=0, atol=atol, err_msg=field)


@pytest.mark.parametrize("device", DEVICES)
def test_an_artifact_computes_what_the_model_computes(
    trained: tuple[Any, Path], pictures: list[np.ndarray], device: str
) -> None:
    model, folder = trained
    session = ExportedProgram().open(folder, device)
    sizes = [RECORDED_SIZES, (64, 64), (131, 97), (33, 250), (512, 700), (16, 16), (1, 1), (1, 70)]
    many = [resize_image(pictures[0], size) for size in sizes]
    none = np.zeros((3, 16, 16), np.uint8)
    candidates = (
        resize_image(picture, (height, width))
        for picture in pictures
        for height in range(8, 40, 4)
        for width in range(8, 40, 4)
    )
    one = next(picture for picture in candidates if len(eager(model, picture)["scores"]) == 1)
    counts = []
    for picture in (*many, none, one):
        expected = eager(model, picture)
        counts.append(len(expected["scores"]))
        require_equal(session(picture), expected, atol=1e-5 if device == "cpu" else 2e-3)
    assert min(counts) == 0, "an image was chosen to have no detection"
    assert 1 in counts
    assert max(counts) > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", UNTRAINED)
def test_an_untrained_architecture_keeps_free_sizes(
    name: str, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    base, overrides = UNTRAINED[name]
    cfg = small_cfg(base)
    cfg.merge_from_list([part for item in overrides.items() for part in item])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    session = ExportedProgram().open(export(model, tmp_path / "artifact"))
    for size in [RECORDED_SIZES, (64, 64), (131, 97), (33, 250), (16, 16), (1, 1)]:
        picture = resize_image(pictures[1], size)
        require_equal(session(picture), eager(model, picture), atol=1e-5)


def test_the_file_says_nothing_of_this_machine(trained: tuple[Any, Path]) -> None:
    _, folder = trained
    artifact = read_artifact(folder)
    assert (artifact.format, artifact.method, artifact.batch) == (
        Format.EXPORTED_PROGRAM,
        "torch_export",
        "1",
    )
    content = (folder / artifact.main_file).read_bytes()
    assert str(ROOT).encode() not in content
    assert b".py" not in content
    with zipfile.ZipFile(folder / artifact.main_file) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        # The device of a computation; that of the recorded values is part of the format and decides nothing.
        assert b'"as_device"' not in archive.read("model/models/model.json")


def test_a_fresh_process_without_the_models_code_runs_it(trained: tuple[Any, Path]) -> None:
    _, folder = trained
    code = f"""
import sys
from pathlib import Path
import numpy as np
from detexport.runtime.exported_program import ExportedProgram
found = ExportedProgram(threads=1).open(Path({str(folder)!r}))(np.zeros((3, 16, 16), np.uint8))
assert not [name for name in sys.modules if name.startswith(("detexport.modeling", "detexport.export"))]
print(len(found["scores"]), found["pred_boxes"].shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 (0, 4)"


def test_a_changed_file_is_refused(trained: tuple[Any, Path], tmp_path: Path) -> None:
    _, folder = trained
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "model.pt2").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ArtifactError, match="not the file that was exported"):
        ExportedProgram().open(tmp_path)


class OwnModel(nn.Module):
    """A model of somebody else, around a module that takes an image."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        return self.graph

    def batch_graph(self) -> nn.Module:
        raise NotImplementedError


OWN_CONTRACT = Contract(
    inputs=(IMAGE,),
    outputs=(TensorSpec("scores", "float32", ("R",), "of each bright pixel"),),
    channel_order="RGB",
    resize=ResizeRule(0, 0),
    pixel_mean=(0.0, 0.0, 0.0),
    pixel_std=(1.0, 1.0, 1.0),
    size_divisibility=0,
    class_names=(),
    score_threshold=0.0,
    nms_threshold=1.0,
    max_detections=-1,
)


class Bright(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor]:
        grey = image.to(torch.float32).mean(dim=0).flatten()
        return (grey[grey > 100] / 255,)


class OnlyWide(Bright):
    def forward(self, image: Tensor) -> tuple[Tensor]:
        return super().forward(image if image.shape[2] > 40 else image[:, :1])


class AsksForAValue(Bright):
    def forward(self, image: Tensor) -> tuple[Tensor]:
        return super().forward(image if image.sum() > 0 else image[:, :1])


def test_a_model_of_ones_own_is_exported(tmp_path: Path) -> None:
    maker("torch_export").export(
        OwnModel(Bright()).eval(), SAMPLE, tmp_path / "a", contract=OWN_CONTRACT, provenance=PROVENANCE
    )
    session = ExportedProgram().open(tmp_path / "a")
    image = np.zeros((3, 5, 7), np.uint8)
    assert session(image)["scores"].shape == (0,)
    image[:, 2, 3] = 255
    np.testing.assert_allclose(session(image)["scores"], [1.0])


@pytest.mark.parametrize(
    ("graph", "message"),
    [(OnlyWide(), "would reject some images.*3 x .* 1"), (AsksForAValue(), "cannot record")],
)
def test_a_program_that_would_not_take_every_image_is_refused(
    graph: nn.Module, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        maker("torch_export").export(
            OwnModel(graph).eval(), SAMPLE, tmp_path / "a", contract=OWN_CONTRACT, provenance=PROVENANCE
        )
    assert list(tmp_path.iterdir()) == []


class Doubled(nn.Module):
    """A graph of two tensors, one twice as long as the other, as the levels of a pyramid are."""

    training = False

    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        return self

    def forward(self, coarse: Tensor, fine: Tensor) -> tuple[Tensor]:
        return (fine + coarse.repeat_interleave(2),)


def test_a_size_that_follows_from_another_is_saved_and_loaded(tmp_path: Path) -> None:
    coarse, fine, total = (
        TensorSpec(name, "float32", (name[0],), "") for name in ("coarse", "fine", "total")
    )
    contract = replace(tiny_contract(), inputs=(coarse, fine), outputs=(total,))
    sample = {"coarse": np.zeros(5, np.float32), "fine": np.zeros(10, np.float32)}
    program = record_program(Doubled(), sample, contract)  # type: ignore[arg-type]
    save_program(program, tmp_path / "model.pt2")
    (found,) = load_program(tmp_path / "model.pt2").module()(torch.ones(3), torch.arange(6.0))
    assert found.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_model_in_training_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="training mode"):
        maker("torch_export").export(
            OwnModel(Bright()).train(), SAMPLE, tmp_path / "a", contract=OWN_CONTRACT, provenance=PROVENANCE
        )
