"""The one-line API: `detexport.load` in a process of its own, and as the command says it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import detexport
from detexport.cli.predict import predict


def test_plain_values_are_those_of_the_command(
    detector: detexport.Detector, tiny_onnx: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"as_json": True, "draw_to": None, "device": "cpu", "target": ""}
    predict(tiny_onnx, [str(photo)], **options, score_threshold=0.0)
    (row,) = json.loads(capsys.readouterr().out)["images"]
    assert row == {"image": str(photo), **json.loads(json.dumps(detector(photo).to_plain()))}


def test_type_checkers_see_the_types() -> None:
    assert Path(detexport.__file__).with_name("py.typed").is_file()


WITHOUT_TORCH = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "mlflow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
import detexport
found = detexport.load(sys.argv[1])(sys.argv[2])
print(found.boxes.tolist(), "torch" in sys.modules)
"""


@pytest.mark.parametrize("fixture", ["tiny_onnx", "tiny_openvino"])
def test_detections_need_no_torch(fixture: str, photo: Path, request: pytest.FixtureRequest) -> None:
    artifact_dir = request.getfixturevalue(fixture)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(artifact_dir), str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{detexport.load(artifact_dir)(photo).boxes.tolist()} False"
