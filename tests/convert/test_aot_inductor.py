"""The compiled package against the program that it is made from, and what it says of its making."""

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from detexport.artifact import Artifact, Format, read_artifact
from detexport.contract import DETECTION_OUTPUTS, Contract, TensorSpec, mask_output
from detexport.convert.aot_inductor import AotInductor, require_equal
from detexport.errors import ArtifactError, ExportError, RuntimeUnavailableError
from detexport.export.record_program import record_program
from detexport.formats.pt2 import save_program
from detexport.layers import nms_per_class
from detexport.runtime import load
from detexport.runtime.aot_inductor import AotInductorRuntime, _require_processor
from detexport.system.digests import sha256_file
from hostile_archives import disguise
from makers import maker
from tiny_artifacts import tiny_contract

GRID = 8


class BrightCells(nn.Module):
    """A detection for every bright cell of an image, and its mask by convolutions on the detections alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        # Two channels: of one, the exporter asks in which order its values lie.
        self.register_buffer("cells", torch.full((2, 3, 8, 8), 1 / 192))
        self.backbone = nn.Conv2d(3, 4, 3, stride=8, padding=1)
        self.mask_head = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 8, 2, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 1, 1),
        )

    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        """What a model gives to be exported."""
        return self

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(3, H, W) -> boxes, scores, classes and masks."""
        pixels = image[None].float() / 255
        features = torch.relu(self.backbone(pixels))
        brightness = conv2d(pad(pixels, [0, 7, 0, 7]), self.cells, stride=8)[0, 0]
        rows = torch.zeros_like(brightness) + torch.arange(brightness.shape[0])[:, None]
        columns = torch.zeros_like(brightness) + torch.arange(brightness.shape[1])
        corner = 8 * torch.stack([columns, rows], dim=2).flatten(0, 1)
        # With candidates to spare, so that an index into them never is one into a single row.
        boxes = pad(torch.cat([corner, corner + 8], dim=1), [0, 0, 0, 8])
        scores = pad(brightness.flatten(), [0, 8])
        kept = torch.ops.torchvision.nms(boxes, scores, 0.5)
        boxes, scores = boxes[kept], scores[kept]
        bright = (scores > 0.9).nonzero()[:, 0]
        boxes, scores = boxes[bright], scores[bright]
        rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
        pooled = torch.ops.torchvision.roi_align(features, rois, 0.125, GRID // 2, GRID // 2, 2, True)
        masks = self.mask_head(pooled)[:, 0]
        return boxes, scores, torch.zeros_like(scores).to(torch.int64), masks


def bright_image(height: int, width: int, bright: int) -> np.ndarray:
    """Noise that is too dark for a detection, and so many bright cells."""
    image = np.random.default_rng(1).integers(0, 120, (3, height, width), dtype=np.uint8)
    columns = width // 8
    for cell in range(bright):
        y, x = 8 * (cell // columns), 8 * (cell % columns)
        image[:, y : y + 8, x : x + 8] = 255
    return image


class Suppression(nn.Module):
    """What is left of boxes, as a graph of its own."""

    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        """See ``BrightCells.image_graph``."""
        return self

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor]:
        """(R, 4), (R,) and (R,) -> (K,)."""
        return (nms_per_class(boxes, scores, classes, 0.6),)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ExportedProgram artifact of ``BrightCells``."""
    contract = tiny_contract(outputs=(*DETECTION_OUTPUTS, mask_output(GRID)))
    folder = tmp_path_factory.mktemp("source")
    model = BrightCells().eval()
    program = record_program(model, np.zeros((3, 72, 104), np.uint8), contract)  # type: ignore[arg-type]
    save_artifact(program, contract, folder)
    return folder


def save_artifact(program: torch.export.ExportedProgram, contract: Contract, folder: Path) -> None:
    save_program(program, folder / "model.pt2")
    Artifact(
        format=Format.EXPORTED_PROGRAM,
        method="torch_export",
        options={},
        main_file="model.pt2",
        files={"model.pt2": sha256_file(folder / "model.pt2")},
        contract=contract,
        batch="1",
        graph_end="raw",
        weights_sha256="a" * 64,
        config_sha256="b" * 64,
        versions={},
    ).save(folder)


@pytest.fixture(scope="module")
def package(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "aot_inductor"
    maker("aot_inductor").convert(source, [bright_image(72, 104, 5)], folder)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize(
    ("size", "bright"), [((72, 104), 5), ((40, 48), 0), ((33, 131), 1), ((160, 96), 30), ((9, 8), 1)]
)
def test_gives_what_the_program_gives(
    source: Path, package: Path, size: tuple[int, int], bright: int
) -> None:
    image = bright_image(*size, bright)
    expected = load(source).session(image)
    actual = load(package).session(image)
    assert len(expected["scores"]) == bright
    assert list(actual) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_suppresses_each_of_the_classes_of_lvis_alone(tmp_path: Path) -> None:
    """In float32, with which classes are moved apart, a coordinate there would be rounded to 1/8 px."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> dict[str, np.ndarray]:
        spot = torch.randint(max(count // 4, 1), (count,), generator=generator)
        places = 1300 * torch.rand(max(count // 4, 1), 2, generator=generator)
        corner = places[spot] + 12 * torch.rand(count, 2, generator=generator)
        boxes = torch.cat([corner, corner + 10 + 30 * torch.rand(count, 2, generator=generator)], dim=1)
        scores, classes = torch.randperm(count, generator=generator) / max(count, 1), 7 * spot % 1203
        return {"boxes": boxes.numpy(), "scores": scores.numpy(), "classes": classes.numpy()}

    shapes: dict[str, tuple[str, tuple[int | str, ...]]] = {
        "boxes": ("float32", ("R", 4)),
        "scores": ("float32", ("R",)),
        "classes": ("int64", ("R",)),
        "kept": ("int64", ("K",)),
    }
    specs = [TensorSpec(name, *kind, "") for name, kind in shapes.items()]
    contract = replace(tiny_contract(), inputs=tuple(specs[:3]), outputs=tuple(specs[3:]))
    program = record_program(Suppression().eval(), draw(40), contract)  # type: ignore[arg-type]
    (tmp_path / "source").mkdir()
    save_artifact(program, contract, tmp_path / "source")
    maker("aot_inductor").convert(tmp_path / "source", [draw(60)], tmp_path / "package")
    for count in (0, 1, 300, 8000):
        inputs = draw(count)
        expected = nms_per_class(*map(torch.from_numpy, inputs.values()), 0.6).tolist()
        for folder in ("source", "package"):
            assert load(tmp_path / folder).session.run(inputs)["kept"].tolist() == expected
    assert 2000 < len(expected) < 8000


def test_compiles_the_program_that_was_looked_at(source: Path, tmp_path: Path) -> None:
    class Reached(Exception):  # noqa: N818 - where it stops
        pass

    class Samples:
        def __iter__(self) -> Iterator[np.ndarray]:
            raise Reached

    artifact, mark = read_artifact(source), tmp_path / "mark"
    shutil.copytree(source, tmp_path / "source")
    disguise(tmp_path / "source/model.pt2", mark)
    replace(artifact, files={"model.pt2": sha256_file(tmp_path / "source/model.pt2")}).save(
        tmp_path / "source"
    )
    with pytest.raises(Reached):
        maker("aot_inductor").convert(tmp_path / "source", Samples(), tmp_path / "package")  # type: ignore[arg-type]
    assert not mark.exists()


def test_says_what_it_was_compiled_for_and_from(source: Path, package: Path) -> None:
    artifact = read_artifact(package)
    assert artifact.format is Format.AOT_INDUCTOR
    assert artifact.options == {"device": "cpu", "instruction_set": "x86-64-v3"}
    assert artifact.source_sha256 == read_artifact(source).sha256


def test_says_nothing_of_the_machine(package: Path) -> None:
    with zipfile.ZipFile(package / "model.pt2") as archive:
        assert sorted(name.rpartition("/")[2] for name in archive.namelist() if "aotinductor" in name) == [
            "model.wrapper.json",
            "model.wrapper.so",
            "model.wrapper_metadata.json",
        ]
        for name in archive.namelist():
            for place in (rb"/tmp/", rb"/home/", rb"/root/", rb"site-packages", b"torchinductor_"):
                assert re.search(re.escape(place), archive.read(name)) is None, (name, place)


def test_calls_operators_that_are_there_without_python(package: Path) -> None:
    with zipfile.ZipFile(package / "model.pt2") as archive:
        calls = json.loads(archive.read("model/data/aotinductor/model/model.wrapper.json"))["nodes"]
    assert {call["node"]["target"].partition("::")[0] for call in calls} == {"aten", "torchvision"}


@pytest.mark.slow
def test_is_the_same_from_another_folder(source: Path, package: Path, tmp_path: Path) -> None:
    maker("aot_inductor").convert(source, [], tmp_path / "other")  # type: ignore[arg-type]
    assert (tmp_path / "other" / "model.pt2").read_bytes() == (package / "model.pt2").read_bytes()


@pytest.mark.slow
def test_without_vectors(source: Path, tmp_path: Path) -> None:
    maker("aot_inductor", instruction_set="x86-64").convert(source, [], tmp_path / "plain")  # type: ignore[arg-type]
    image = bright_image(72, 104, 5)
    masks = [load(folder).session(image)["pred_masks"] for folder in (source, tmp_path / "plain")]
    np.testing.assert_allclose(masks[1], masks[0], atol=1e-5)


@pytest.mark.slow
def test_refuses_code_that_trusts_a_wrong_layout(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = AotInductor._settings
    wrong = {"layout_optimization": True}
    monkeypatch.setattr(AotInductor, "_settings", lambda self: {**settings(self), **wrong})
    with pytest.raises(ExportError, match="does not compute what the program computes"):
        maker("aot_inductor").convert(source, [bright_image(72, 104, 5)], tmp_path / "wrong")  # type: ignore[arg-type]
    assert not (tmp_path / "wrong").exists()


def test_other_values_are_refused(source: Path, package: Path) -> None:
    program = torch.export.load(source / "model.pt2").module()

    def other(image: Tensor) -> tuple[Tensor, ...]:
        boxes, scores, classes, masks = program(image)
        return boxes, scores, classes, masks + 0.1

    image = bright_image(72, 104, 5)
    with pytest.raises(ExportError, match=r"output 3: 320 of 320 values differ"):
        require_equal(other, package / "model.pt2", [(image,)], "cpu")
    with pytest.raises(ExportError, match=r"output 1: torch\.float32 \(5,\), but torch"):
        require_equal(lambda image: program(image)[:1] * 4, package / "model.pt2", [(image,)], "cpu")


def test_changed_code_is_not_loaded(package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    folder.mkdir()
    (folder / "artifact.json").write_bytes((package / "artifact.json").read_bytes())
    data = bytearray((package / "model.pt2").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.pt2").write_bytes(data)
    with pytest.raises(ArtifactError, match="is not the file that was exported"):
        load(folder)


def test_another_device_is_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        ArtifactError, match="got: code compiled for 'cpu'; expected: code compiled for 'cuda'"
    ):
        AotInductorRuntime().open(package, "cuda")


@pytest.mark.parametrize("options", [{}, {"device": "cpu"}, {"device": "cpu", "instruction_set": []}])
def test_a_manifest_that_does_not_say_what_it_was_compiled_for(
    source: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    folder = tmp_path / "package"
    shutil.copytree(source, folder)
    replace(read_artifact(source), format=Format.AOT_INDUCTOR, options=options).save(folder)
    with pytest.raises(ArtifactError, match="device and instruction set of the package; got: device"):
        load(folder)


def test_an_older_processor_is_refused() -> None:
    features = {**dict.fromkeys(("avx", "bmi", "bmi2", "f16c", "lzcnt"), True), "architecture": "x86_64"}
    with pytest.raises(RuntimeUnavailableError, match=r"without avx2, fma3; expected: x86-64-v3"):
        _require_processor("x86-64-v3", features)
    _require_processor("x86-64", features)
    with pytest.raises(RuntimeUnavailableError, match="aarch64"):
        _require_processor("x86-64", {**features, "architecture": "aarch64"})


def test_says_that_there_is_no_compiler(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RuntimeUnavailableError, match=r"needs a C\+\+ compiler; got: no program 'g\+\+'"):
        maker("aot_inductor").convert(source, [], tmp_path / "none")  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "got"),
    [({"device": "tpu"}, "compile for 'tpu'"), ({"instruction_set": "mmx"}, "instruction_set 'mmx'")],
)
def test_refuses_what_it_cannot_compile_for(
    source: Path, tmp_path: Path, options: dict[str, str], got: str
) -> None:
    with pytest.raises(ExportError, match=got):
        maker("aot_inductor", **options).convert(source, [], tmp_path / "none")  # type: ignore[arg-type]
