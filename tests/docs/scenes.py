"""Scratch folders for the blocks of the documentation, each laid out as the text around its blocks says."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pages import ROOT
from PIL import Image

from synthetic_shapes import synthetic_shapes
from tiny_artifacts import tiny_image, write_tiny_onnx, write_tiny_torchscript

CLASSES = ("circle", "rectangle", "triangle", "star", "ring")
# What stands in the text for a folder of the reader's.
PLACEHOLDER = "/path/to/detexport"


def environment(**variables: str) -> dict[str, str]:
    """The sources of this checkout, its interpreter first on the path, and no registry server."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "DVC_ROOT")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "0", **variables}


def run(folder: Path, *command: str, **variables: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment(**variables), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command[:3]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def lay_out_model(folder: Path) -> None:
    """A detectron2 checkpoint, its configuration, photos, a data set; tiny artifacts of another model."""
    _write_model(folder)
    _write_data(folder, ("circle", "square", "star"))
    write_tiny_onnx(folder / "model_onnx")
    write_tiny_onnx(folder / "yesterday" / "model_onnx")
    write_tiny_torchscript(folder / "model_tracing", method="tracing")
    _write_pipeline_outputs(folder)


def lay_out_project(folder: Path) -> None:
    """A project that is written for detectron2, with its configuration, its checkpoint and its script."""
    projects = ROOT / "tests" / "sample_projects"
    shutil.copytree(projects / "light_backbone", folder / "my_project")
    (folder / "my_project" / "light.yaml").rename(folder / "config.yaml")
    shutil.copyfile(projects / "evaluate_net.py", folder / "evaluate_net.py")
    run(
        folder,
        sys.executable,
        "-m",
        "detexport.detectron2_alias",
        "evaluate_net.py",
        "my_project",
        "config.yaml",
        ".",
    )


def lay_out_exported(folder: Path) -> None:
    """The same model with its own ONNX artifact, which takes a minute."""
    _write_model(folder)
    _write_data(folder, CLASSES)
    options = ("--target", "onnx", "--output", "model_onnx", "--class-names", ",".join(CLASSES))
    model = ("--config-file", "config.yaml", "--weights", "model_final.pth")
    run(folder, "detexport", "export", *model, *options)
    shutil.copytree(folder / "model_onnx", folder / "yesterday" / "model_onnx")
    _write_pipeline_outputs(folder)


def lay_out_registry(folder: Path) -> None:
    """A checkout after `make repro`: a registry with one model, and the data set."""
    synthetic_shapes(train_images=0, val_images=1).write(folder / "data" / "shapes")
    write = "toy_project.MODEL = 'mask_rcnn'; toy_project.write_project(pathlib.Path())"
    path = os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests", ROOT / "tests" / "registry")))
    run(folder, sys.executable, "-c", f"import pathlib, toy_project; {write}", PYTHONPATH=path)
    stage = str(ROOT / "stages" / "register.py")
    options = ("--data-statistics", "outputs/data_statistics.json", "--receipts", "outputs/registered.json")
    run(
        folder,
        sys.executable,
        stage,
        "--models-dir",
        "outputs/models",
        "--digests-dir",
        "outputs/digests",
        *options,
    )


def lay_out_checkout(folder: Path) -> None:
    """What a checkout has for programs that run from its root."""
    for name in ("examples", "conf", "checkpoints"):
        (folder / name).symlink_to(ROOT / name)


# Those of ``bare`` are run by test_without_detexport.py, which compares their output.
SCENES: dict[str, Callable[[Path], None]] = {
    "model": lay_out_model,
    "exported": lay_out_exported,
    "registry": lay_out_registry,
    "checkout": lay_out_checkout,
    "project": lay_out_project,
}


def _write_model(folder: Path) -> None:
    import torch

    from detexport.checkpoint import read_state_dict

    shutil.copy(ROOT / "conf/detectron2/faster_rcnn.yaml", folder / "config.yaml")
    weights = read_state_dict(ROOT / "checkpoints/faster_rcnn.safetensors")
    torch.save({"model": weights}, folder / "model_final.pth")
    pixels = Image.open(ROOT / "src/detexport/data/sample.png").convert("RGB")
    (folder / "photos").mkdir()
    for name in ("photo.jpg", "street.jpg", "satellite.tif", "photos/1.jpg", "photos/2.jpg"):
        pixels.save(folder / name, quality=95)


def _write_data(folder: Path, names: tuple[str, ...]) -> None:
    """``coco`` and ``data/shapes``: the synthetic set, its classes renamed to those of the artifact."""
    synthetic_shapes(train_images=0, val_images=3, sizes=[(48, 64), (40, 56)]).write(folder / "coco")
    if "square" in names:
        for file in (folder / "coco" / "annotations").glob("*_val.json"):
            file.write_text(file.read_text().replace('"rectangle"', '"square"'))
    shutil.copytree(folder / "coco", folder / "data" / "shapes")


def _write_pipeline_outputs(folder: Path) -> None:
    """What the pipeline leaves of a model: configuration, weights, the reference, an artifact."""
    from detexport.checkpoint import read_state_dict, write_state_dict
    from detexport.config.cfg import load_cfg
    from detexport.processing.postprocess import postprocess
    from detexport.reference.store import SampleMeta, write_reference
    from detexport.runtime.onnxruntime import OnnxRuntime

    model = folder / "outputs" / "models" / "mask_rcnn"
    shutil.copytree(folder / "model_onnx", model / "artifacts" / "onnx")
    (model / "build").mkdir()
    (model / "weights").mkdir()
    cfg = load_cfg(folder / "config.yaml")
    cfg.MODEL.WEIGHTS = ""
    (model / "build" / "config.yaml").write_text(cfg.dump())
    write_state_dict(read_state_dict(folder / "model_final.pth"), model / "weights" / "model.safetensors")
    session = OnnxRuntime(threads=1).open(model / "artifacts" / "onnx")
    contract, image = session.artifact.contract, tiny_image()
    size = (image.shape[1], image.shape[2])
    outputs = postprocess(session(image), size, size, contract)
    meta = SampleMeta("000001-1x", 1, "000001.png", size, size, 1.0)
    write_reference(model / "reference", [(meta, image, outputs)], contract=contract, environment={})
