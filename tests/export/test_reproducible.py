"""The same model gives the same bytes: in another process, in another folder, after other exports."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from detexport.runtime.torchscript import TorchScript

ROOT = Path(__file__).parents[2]

EXPORT = """
import sys, json
from pathlib import Path
import numpy as np, torch
from detexport.config.cfg import load_cfg
from detexport.export import Provenance
from detexport.modeling import build_model
from detexport.targets.table import artifacts
import detexport

torch.manual_seed(3)
model = build_model(load_cfg(Path("conf/detectron2/mask_rcnn.yaml"))).eval()
contract = model.contract(("a", "b", "c", "d", "e"))
sample = np.arange(3 * 64 * 80, dtype=np.uint8).reshape(3, 64, 80)
found = {"source": detexport.__file__}
names = ("tracing", "scripting", "torch_export", "onnx_torchscript")
methods = [artifacts()[name].maker.build() for name in names]
# What a process compiled before must not matter.
for method in [*methods[:2], *methods] if "again" in sys.argv else methods:
    folder = Path(type(method).__name__)
    artifact = method.export(
        model, sample, folder, contract=contract, provenance=Provenance(weights_sha256="w", config_sha256="c")
    )
    found[folder.name] = artifact.sha256
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, dict[str, str]]]:
    """Two copies of the code in folders of different names, each exported from by a process of its own.

    The second process exports as TorchScript twice.
    """
    found = []
    for name in ("here", "and-somewhere-else"):
        folder = tmp_path_factory.mktemp(name)
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "conf", folder / "conf")
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(folder / "src")}
        done = subprocess.run(
            [sys.executable, "-c", EXPORT, *(["again"] if found else [])],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append((folder, json.loads(done.stdout.splitlines()[-1])))
    return found


@pytest.mark.parametrize(
    ("method", "file"),
    [
        ("Tracing", "model.pt"),
        ("Scripting", "model.pt"),
        ("TorchExport", "model.pt2"),
        ("Onnx", "model.onnx"),
    ],
)
def test_two_clones_give_the_same_bytes(
    clones: list[tuple[Path, dict[str, str]]], method: str, file: str
) -> None:
    (first, one), (second, other) = clones
    assert one["source"] != other["source"], "both processes imported the same copy of the code"
    assert one[method] == other[method]
    assert (first / method / file).read_bytes() == (second / method / file).read_bytes()


def test_a_scripted_file_takes_images_of_different_sizes_in_one_call(
    clones: list[tuple[Path, dict[str, str]]],
) -> None:
    folder = clones[0][0] / "Scripting"
    session = TorchScript().open(folder)
    assert session.artifact.batch == "any"
    images = [torch.zeros(3, 64, 96, dtype=torch.uint8), torch.full((3, 131, 70), 200, dtype=torch.uint8)]
    with torch.no_grad():
        together = session.module(images)
    assert len(together) == 2
    for fields in together:
        assert set(fields) == {"pred_boxes", "scores", "pred_classes", "pred_masks"}
    alone = session(np.zeros((3, 64, 96), np.uint8))
    assert list(alone) == ["pred_boxes", "scores", "pred_classes", "pred_masks"]
