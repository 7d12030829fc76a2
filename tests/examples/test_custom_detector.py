"""The example of a custom model: by each export method, at other sizes, and without detections."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detexport import runtime
from detexport.export import Provenance
from makers import maker

PROGRAM = Path(__file__).parents[2] / "examples/custom_detector.py"
METHODS = ("tracing", "scripting", "torch_export", "onnx")


@pytest.fixture(scope="module")
def model() -> Any:
    spec = importlib.util.spec_from_file_location("custom_detector", PROGRAM)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_detector"] = module  # TorchScript resolves names in the source here
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    return module.PeakDetector().eval()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("method", METHODS)
def test_artifacts_equal_the_model(model: Any, method: str, tmp_path: Path) -> None:
    if method == "scripting" and sys.flags.hash_randomization:
        pytest.skip("scripting needs PYTHONHASHSEED=0")
    generator = torch.Generator().manual_seed(1)
    sizes = [(120, 160), (64, 48), (131, 203)]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]
    images.append(torch.full((3, 50, 70), 127, dtype=torch.uint8))
    maker(method).export(
        model,
        images[0].numpy(),
        tmp_path / method,
        contract=model.contract(("dark", "light")),
        provenance=Provenance(weights_sha256="none", config_sha256="none"),
    )
    loaded = runtime.load(tmp_path / method)
    counts = []
    for image in images:
        with torch.no_grad():
            expected = model([{"image": image, "height": 100, "width": 90}])[0]["instances"]
        actual = loaded([{"image": image, "height": 100, "width": 90}])[0]["instances"]
        counts.append(len(expected))
        order = [np.lexsort(one.pred_boxes.tensor.numpy().T) for one in (actual, expected)]
        for name in ("scores", "pred_classes"):
            pair = [one.get(name).numpy()[rows] for one, rows in zip((actual, expected), order, strict=True)]
            np.testing.assert_allclose(*pair, atol=1e-5)
        pair = [
            one.pred_boxes.tensor.numpy()[rows] for one, rows in zip((actual, expected), order, strict=True)
        ]
        np.testing.assert_allclose(*pair, atol=1e-3)
    assert counts[-1] == 0 < counts[0]


def test_the_program_prints_one_line_per_method(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(PROGRAM), str(tmp_path)],
        env={"PYTHONHASHSEED": "0", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "tracing",
        "scripting",
        "torch_export",
        "onnx",
    ]
    assert (tmp_path / "onnx" / "artifact.json").is_file()
