"""The stage `diagnose`: nothing where a verdict is good; else the first divergence, or why there is none."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.data.coco import read_image
from detexport.data.image_samples import BUNDLED_SAMPLE
from detexport.export import Provenance
from detexport.modeling import build_model
from detexport.reference.eager_outputs import run_eager
from detexport.reference.store import SampleMeta, write_reference
from detexport.system.files import write_json
from detexport.workflows.sample_folder import write_sample
from makers import maker

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "conf/detectron2/faster_rcnn.yaml"
WEIGHTS = ROOT / "checkpoints/faster_rcnn.safetensors"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A model's folders; its artifact was traced from a model with another threshold of suppression."""
    model = tmp_path / "m"
    net = build_model(load_cfg(CONFIG)).eval()
    load_weights(net, read_state_dict(WEIGHTS), str(WEIGHTS))
    contract = net.contract(tuple("abcde"))
    image = np.ascontiguousarray(read_image(BUNDLED_SAMPLE, contract.channel_order)[:, :160, :200])
    size = (160, 200)
    samples = [
        (SampleMeta("1-1x", 1, "1.png", size, size, 1.0), image, run_eager(net, image, size, contract))
    ]
    write_reference(model / "reference", samples, contract=contract, environment={})
    write_sample(image, model / "sample", image_id=1, file="1.png")
    for folder in ("build", "weights"):
        (model / folder).mkdir()
    shutil.copy(CONFIG, model / "build" / "config.yaml")
    write_json(model / "build" / "contract.json", contract.to_json())
    shutil.copy(WEIGHTS, model / "weights" / "model.safetensors")
    net.roi_heads.box_predictor.nms_threshold = 0.05
    method = {"_target_": "detexport.export.tracing.Tracing", "graph_end": "raw"}
    maker("tracing").export(
        net, image, model / "artifact", contract=contract, provenance=Provenance("w", "c")
    )
    params = {
        "jobs": {"m_tracing": {"model": "m", "target": "tracing", "artifact": "tracing"}},
        "targets": {
            "tracing": {
                "artifact": "tracing",
                "runtime": {"_target_": "detexport.runtime.torchscript.TorchScript"},
            }
        },
        "export_steps": {"tracing": {"tracing": method}},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def diagnose(workspace: Path, verdict: dict[str, Any]) -> dict[str, Any]:
    write_json(workspace / "verdict.json", verdict)
    options = {name: name for name in ("build", "weights", "sample", "reference")}
    options["artifact_dir"] = "artifact"
    arguments = [
        part for name, path in options.items() for part in (f"--{name.replace('_', '-')}", f"m/{path}")
    ]
    command = [sys.executable, ROOT / "stages/diagnose.py", "--job", "m_tracing", *arguments]
    command += ["--verdict", "verdict.json", "--save-dir", "found"]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads((workspace / "found" / "diagnosis.json").read_text())
    return value


def test_a_good_verdict_needs_none_and_takes_an_older_one_away(workspace: Path) -> None:
    (workspace / "found").mkdir()
    (workspace / "found" / "difference.png").write_bytes(b"")
    assert diagnose(workspace, {"passed": True}) == {"needed": False}
    assert [path.name for path in (workspace / "found").iterdir()] == ["diagnosis.json"]


def test_a_bad_verdict_is_diagnosed_on_the_models_own_segments(workspace: Path) -> None:
    verdict = {"passed": False, "samples": [{"id": "1-1x", "passed": False}]}
    found = diagnose(workspace, verdict)
    assert "artifact" in found, found["sentence"]
    # The stage builds the model again: what was changed in the exported one is in no exported segment.
    assert found["first"] is None, found["sentence"]
    assert found["artifact"]["passed"] is False
    assert "packaging" in found["sentence"]
    assert found["image_size"] == [160, 200]


def test_a_diagnosis_that_cannot_be_made_says_why(workspace: Path) -> None:
    write_reference(workspace / "m" / "reference", [], contract=contract_of(workspace), environment={})
    found = diagnose(workspace, {"passed": False, "samples": []})
    assert found["needed"] is True
    assert found["first"] is None
    assert "the reference has no sample" in found["sentence"]


def contract_of(workspace: Path) -> Any:
    from detexport.artifact import read_artifact

    return read_artifact(workspace / "m" / "artifact").contract
