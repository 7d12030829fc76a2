"""A project with DVC's pipeline in seconds: data and registry are real, training and export are tiny.

As a script, with ``train`` or ``export``, it is a stage of that pipeline: how good the "trained" model is
follows from the boxes that it was given, and its weights from all of the data.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
JOB, SECOND_JOB = "toy-onnx", "toy-tracing"
CLASSES = ("circle", "square", "star")
SIZE = (40, 64)
IMAGES = {"train": 9, "val": 3}
FULL_BOX_PX = 20.0
"""Width from which a box is as good as it gets."""

PREFLIGHT = """
import sys
sys.path.pop(0)  # this folder
import preflight
from detexport.system.script import run
run(preflight.clean_up)
"""
IGNORED = "/.venv/\n/data/\n/jobs/\n/outputs/\n/reports/\n/mlflow.db\n/mlartifacts/\n/weights.json\n"


def environment(**variables: str) -> dict[str, str]:
    """The sources of this checkout, and no registry server."""
    dropped = ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DETEXPORT_BASE_IMAGE", "DETEXPORT_NOTIFY_URL")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    folders = [ROOT / "src", ROOT / "stages", ROOT / "tools", TESTS, TESTS / "registry"]
    return {**kept, "PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONHASHSEED": "0", **variables}


def call(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment(**variables), capture_output=True, text=True, check=False
    )


def require(folder: Path, *command: str) -> str:
    done = call(folder, *command)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def job_command(*options: str) -> list[str]:
    return [sys.executable, "-m", "detexport.cli.retraining", "retrain", *options]


def create(folder: Path) -> Path:
    """Create the project, with data and without results."""
    folder.mkdir(parents=True)
    write_data(folder)
    (folder / "tools").mkdir()
    (folder / "tools/preflight.py").write_text(PREFLIGHT)
    (folder / "requirements.lock").write_text("")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages()}, sort_keys=False))
    (folder / "params.yaml").write_text(yaml.safe_dump(params()))
    (folder / ".gitignore").write_text(IGNORED)
    require(folder, "git", "init", "-q", "-b", "main")
    require(folder, sys.executable, "-m", "dvc", "init", "-q")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    require(folder, "git", "add", "-A")
    user = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    require(folder, "git", *user, "commit", "-qm", "a state", "--allow-empty")


def write_data(folder: Path, *, box_px: float = FULL_BOX_PX, seed: int = 0, **changes: Any) -> None:
    """Write the source of the data set.

    Args:
        folder: of the project.
        box_px: width of the boxes.
        seed: of the pixels.
        changes: ``x``, the left side of all boxes; ``category_ids``, in turn; ``categories``; ``images``.
    """
    import numpy as np
    from PIL import Image

    names = changes.get("categories", CLASSES)
    numbers = changes.get("category_ids", range(1, len(CLASSES) + 1))
    for split, count in (IMAGES | changes.get("images", {})).items():
        images = folder / "source" / split
        shutil.rmtree(images, ignore_errors=True)
        images.mkdir(parents=True)
        for index in range(1, count + 1):
            pixels = np.random.default_rng([seed, index]).integers(0, 255, (*SIZE, 3), np.uint8)
            Image.fromarray(pixels).save(images / f"{index}.png")
        box = [changes.get("x", 4.0), 4.0, box_px, 20.0]
        annotation = {"bbox": box, "area": box_px * 20, "iscrowd": 0}
        value = {
            "images": [
                {"id": one, "file_name": f"{one}.png", "height": SIZE[0], "width": SIZE[1]}
                for one in range(1, count + 1)
            ],
            "annotations": [
                {"id": one, "image_id": one, "category_id": numbers[one % len(numbers)], **annotation}
                for one in range(1, count + 1)
            ],
            "categories": [{"id": one, "name": name} for one, name in enumerate(names, start=1)],
        }
        (folder / "source" / f"{split}.json").write_text(json.dumps(value))


def params(**changes: Any) -> dict[str, Any]:
    splits = {split: {"images": split, "annotations": f"{split}.json"} for split in IMAGES}
    dataset = {"_target_": "detexport.data.coco_folder.CocoFolder", "name": "toy", "source": "source"}
    runtime = {"_target_": "detexport.runtime.onnxruntime.OnnxRuntime", "threads": 1}
    torchscript = {"_target_": "detexport.runtime.torchscript.TorchScript", "threads": 1}
    return {
        "data": {"name": "toy", "categories": None, "dataset": dataset | {"splits": splits}},
        "jobs": {JOB: {"model": "toy", "target": "onnx", "artifact": "onnx"}},
        "targets": {
            "onnx": {"artifact": "onnx", "runtime": runtime},
            "tracing": {"artifact": "tracing", "runtime": torchscript},
        },
        "models": {"toy": {"license": "CC0-1.0"}},
        "conversions": {},
        "parity": {"images": 2, "scales": [1.0], "accuracy_images": 0},
        "registry": {"tracking_uri": None, "experiment": "detexport"},
        "retraining": {},
        "export": {"broken": False},
        **changes,
    }


def stages() -> dict[str, Any]:
    def script(name: str, options: str) -> str:
        return f"python '{ROOT}/stages/{name}.py' {options}"

    own = f"python '{__file__}'"
    return {
        "prepare_data": {
            "cmd": script("prepare_data", "data/toy"),
            "deps": ["source"],
            "params": ["data"],
            "outs": ["data/toy"],
        },
        "describe_data": {
            "cmd": script("describe_data", "--data data/toy --save-to outputs/data_statistics.json"),
            "deps": ["data/toy"],
            "outs": ["outputs/data_statistics.json"],
        },
        "describe_environment": {
            "cmd": script("describe_environment", "--save-to outputs/environment.json"),
            "outs": [{"outputs/environment.json": {"persist": True}}],
        },
        "train": {"cmd": f"{own} train", "deps": ["data/toy"], "outs": ["weights.json"]},
        "export": {
            "cmd": f"{own} export",
            "deps": ["weights.json", "outputs/environment.json"],
            "params": ["export"],
            "outs": ["outputs/models/toy"],
        },
        "metrics": {
            "foreach": "${jobs}",
            "do": {
                "cmd": f"{own} digest ${{key}}",
                "deps": ["outputs/models/toy"],
                "outs": ["outputs/digests/${key}.json"],
            },
        },
        "register": {
            "cmd": script(
                "register",
                "--models-dir outputs/models --digests-dir outputs/digests "
                "--data-statistics outputs/data_statistics.json --receipts outputs/registered.json",
            ),
            "deps": ["outputs/digests", "outputs/data_statistics.json"],
            "params": ["registry"],
            "outs": [{"outputs/registered.json": {"persist": True}}],
        },
        "promote": {
            "cmd": script("promote", "--registered outputs/registered.json --save-to outputs/promoted.json"),
            "deps": ["outputs/registered.json"],
            "params": ["registry"],
            "outs": [{"outputs/promoted.json": {"persist": True}}],
        },
        "require_passed": {
            "cmd": script(
                "require_passed", "--models-dir outputs/models --registered outputs/registered.json"
            ),
            "deps": ["outputs/digests", "outputs/registered.json", "outputs/promoted.json"],
        },
    }


def train() -> None:
    """The stage ``train``: the better the boxes, the better the model."""
    text = Path("data/toy/annotations/instances_train.json").read_text()
    images = sorted(Path("data/toy/images/train").iterdir())
    weights = hashlib.sha256(text.encode() + b"".join(one.read_bytes() for one in images)).hexdigest()
    widths = [min(one["bbox"][2], FULL_BOX_PX) for one in json.loads(text)["annotations"]]
    ap = 0.7 * sum(widths) / len(widths) / FULL_BOX_PX
    Path("weights.json").write_text(json.dumps({"number": int(weights[:8], 16), "ap": round(ap, 4)}))


def export() -> None:
    """The stage ``export``: the artifact with all evidence. In the base image "drifted" it computes else.

    The parameters ``export``: ``broken``, the artifact fails its validation; ``second``, there is an artifact
    of a second job, which does; ``sleep_s`` and ``code``, how long it takes and how it ends.
    """
    import toy_project

    import tiny_artifacts

    model = json.loads(Path("weights.json").read_text())
    options = yaml.safe_load(Path("params.yaml").read_text())["export"]
    time.sleep(options.get("sleep_s", 0))
    if options.get("code"):
        sys.exit(options["code"])
    image = json.loads(Path("outputs/environment.json").read_text())["base_image"]
    if image == "drifted":
        tiny_artifacts.FRACTIONS = tiny_artifacts.FRACTIONS + 0.01
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        toy_project.write_project(root)
        shutil.rmtree(toy_project.folder(root) / "reference")
        toy_project.write_version(root, model["number"], ap=model["ap"], versions={"image": image})
        verdict = {"passed": False, "reasons": ["a box differs by 3 px"]}
        if options["broken"]:
            toy_project.write_verdict(root, "onnx", toy_project.toy_artifact(root), **verdict)
        if options.get("second"):
            second = toy_project.write_target(root, "tracing")
            toy_project.write_verdict(root, "tracing", second, **verdict)
        shutil.copytree(toy_project.folder(root), "outputs/models/toy", dirs_exist_ok=True)


def digest() -> None:
    """The stage ``metrics``."""
    from detexport.results.digests import write_digests

    write_digests([Path("outputs/models/toy")], Path(f"outputs/digests/{sys.argv[2]}.json"))


if __name__ == "__main__":
    {"train": train, "export": export, "digest": digest}[sys.argv[1]]()
