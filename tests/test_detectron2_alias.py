"""Projects that import detectron2 alone run on detexport, unmodified, and what is missing is named."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from detexport.checkpoint.read import write_state_dict
from detexport.config import cfg as configurations
from detexport.config import get_cfg
from detexport.errors import ConfigError
from detexport.export import TracingAdapter
from detexport.modeling import build_model
from detexport.structures import BitMasks, Boxes, Instances
from detexport.utils.events import EventStorage
from detexport.workflows.build import build
from detexport.workflows.given_model import given_model
from detexport.workflows.loaded_model import load_built_model

ROOT = Path(__file__).parents[1]
PROJECTS = Path(__file__).parent / "sample_projects"
IMAGE = torch.randint(0, 256, (3, 96, 128), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def alias() -> Iterator[Any]:
    """The alias, active in this module's tests alone."""
    before, extensions = set(sys.modules), list(configurations._extensions)
    path = list(sys.path)
    sys.path.insert(0, str(PROJECTS))
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    alias = importlib.import_module("detexport.detectron2_alias")
    yield alias
    sys.path[:] = path
    monkeypatch.undo()
    sys.meta_path[:] = [one for one in sys.meta_path if type(one).__module__ != alias.__name__]
    configurations._extensions[:] = extensions
    for name in set(sys.modules) - before:
        if name.startswith(("detectron2", "detexport.detectron2_alias")):
            del sys.modules[name]


def project_model(alias: Any, project: str, config: str) -> Any:
    alias.import_projects([project])
    cfg = get_cfg()
    cfg.merge_from_file(PROJECTS / project / f"{config}.yaml")
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, parameter in model.named_parameters():
        if "cls_score.weight" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def truth() -> Instances:
    masks = torch.zeros(2, 96, 128, dtype=torch.bool)
    masks[0, 10:40, 10:50] = masks[1, 20:90, 60:120] = True
    return Instances(
        (96, 128),
        gt_boxes=Boxes([[10, 10, 50, 40], [60, 20, 120, 90]]),
        gt_classes=torch.tensor([0, 1]),
        gt_masks=BitMasks(masks),
    )


def trained(model: Any) -> tuple[dict[str, float], dict[str, Any]]:
    with EventStorage() as storage:
        losses = model.train()([{"image": IMAGE, "instances": truth()}])
        sum(losses.values()).backward()
        latest = storage.latest()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    return {name: loss.item() for name, loss in losses.items()}, latest


@torch.no_grad()
def check_trace(model: Any) -> None:
    (found,) = model.eval().inference([{"image": IMAGE}], do_postprocess=False)
    assert len(found) > 0
    names = model.contract(tuple("abc")).output_names
    traced = torch.jit.trace(model.image_graph(names), IMAGE, check_trace=False)(IMAGE)
    graph = dict(zip(names, traced, strict=True))
    assert torch.equal(graph["pred_boxes"], found.pred_boxes.tensor)
    if "pred_masks" in names:
        assert torch.equal(graph["pred_masks"], found.pred_masks[:, 0])


def test_a_registered_backbone_trains_and_is_traced(alias: Any) -> None:
    model = project_model(alias, "light_backbone", "light")
    assert type(model.backbone.bottom_up).__module__ == "light_backbone.net"
    assert model.backbone.bottom_up.stages[3].out_channels == 20
    losses, _ = trained(model)
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
    check_trace(model)


def test_heads_with_losses_of_their_own(alias: Any) -> None:
    model = project_model(alias, "focal_heads", "focal")
    assert model.roi_heads.box_predictor.gamma == 1.5
    assert model.roi_heads.mask_head.resolution == 14
    losses, recorded = trained(model)
    assert losses["loss_cls"] < recorded["focal/mean"][0]
    assert "loss_mask" in losses
    check_trace(model)
    with torch.no_grad():
        (output,) = model([{"image": IMAGE, "height": 48, "width": 64}])
    assert output["instances"].pred_masks.shape[1:] == (48, 64)


def test_a_meta_architecture_is_traced_by_the_adapter(alias: Any) -> None:
    model = project_model(alias, "peak_detector", "peak")
    losses, _ = trained(model)
    assert set(losses) == {"loss_peak"}
    inputs = [{"image": IMAGE}]
    with torch.no_grad():
        adapter = TracingAdapter(model.eval(), inputs)
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        (found,) = adapter.outputs_schema(traced(*adapter.flattened_inputs))
        (expected,) = model(inputs)
    assert len(expected["instances"]) > 0
    assert torch.equal(found["instances"].pred_boxes.tensor, expected["instances"].pred_boxes.tensor)


def test_the_alias_stands_for_the_modules_here(alias: Any) -> None:
    import detectron2  # type: ignore[import-not-found]
    import detectron2.layers  # type: ignore[import-not-found]
    import detectron2.modeling  # type: ignore[import-not-found]

    import detexport.layers
    import detexport.modeling

    assert detectron2.layers.ShapeSpec is detexport.layers.ShapeSpec
    assert detectron2.modeling.BACKBONE_REGISTRY is detexport.modeling.BACKBONE_REGISTRY
    assert detectron2.__version__ == "0.6"
    detectron2.layers.added = 5
    assert detexport.layers.added == 5
    del detectron2.layers.added
    assert not hasattr(detexport.layers, "added")
    assert "ShapeSpec" in dir(detectron2.layers)
    assert detexport.modeling.roi_heads.__name__ == "detexport.modeling.roi_heads"


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("from detectron2.layers import Nope", "detectron2.layers.Nope is not part of detexport: .* issue"),
        ("from detectron2.layers.nms import Nope", "detectron2.layers.nms.Nope is not part"),
        ("import detectron2.nope", "detectron2.nope is not part"),
        ("import detectron2.layers.nms.nope", "detectron2.layers.nms.nope is not part"),
        (
            "from detectron2.export import Caffe2Tracer",
            "Caffe2Tracer is not part of detexport: torch no longer",
        ),
    ],
)
def test_a_missing_name_is_an_import_error_that_says_so(alias: Any, statement: str, message: str) -> None:
    with pytest.raises(ImportError, match=message):
        exec(statement)


def test_a_project_that_cannot_be_imported(alias: Any) -> None:
    with pytest.raises(ConfigError, match=r"cannot import the project no_such_project.*ModuleNotFoundError"):
        alias.import_projects(["no_such_project"])
    with pytest.raises(ConfigError, match="no script to run"):
        alias.run_script(["no_such_script.py"])


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(PROJECTS)])}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_it_is_not_active_unless_asked_for() -> None:
    done = python("import detexport.cli, detexport.detectron2_names\nimport detectron2")
    assert "No module named 'detectron2'" in done.stderr


def test_it_refuses_beside_the_real_one() -> None:
    done = python(
        "import sys, types\nsys.modules['detectron2'] = types.ModuleType('detectron2')\n"
        "import detexport.detectron2_alias"
    )
    assert "the real detectron2 is imported already" in done.stderr


def test_a_script_runs_unmodified(tmp_path: Path) -> None:
    config = PROJECTS / "light_backbone/light.yaml"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "detexport.detectron2_alias", str(PROJECTS / "evaluate_net.py")),
            *("light_backbone", str(config), str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split("detections: ")[1]) > 0
    assert (tmp_path / "model_final.pth").is_file()


def test_the_stages_build_and_load_a_meta_architecture_that_only_defines_forward(
    alias: Any, tmp_path: Path
) -> None:
    alias.import_projects(["peak_detector"])
    file = PROJECTS / "peak_detector/peak.yaml"
    names = {"overrides": {}, "class_names": None, "dataset": {"things": ["a", "b"]}}
    contract = build("peak", file, tmp_path / "build", **names)
    assert (contract.class_names, contract.num_classes) == (("a", "b"), None)
    model = project_model(alias, "peak_detector", "peak")
    (tmp_path / "weights").mkdir()
    write_state_dict(model.state_dict(), tmp_path / "weights/model.safetensors")
    loaded = load_built_model(tmp_path / "build", tmp_path / "weights")
    with torch.no_grad():
        (found,) = loaded.net([{"image": IMAGE}])
        (expected,) = model.eval()([{"image": IMAGE}])
    assert torch.equal(found["instances"].scores, expected["instances"].scores)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("project", "config"), [("light_backbone", "light"), ("focal_heads", "focal"), ("peak_detector", "peak")]
)
def test_the_command_line_exports_a_project(project: str, config: str, tmp_path: Path) -> None:
    file = PROJECTS / project / f"{config}.yaml"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(PROJECTS)])}
    run = {"capture_output": True, "text": True, "env": environment, "cwd": tmp_path}
    script = [sys.executable, "-m", "detexport.detectron2_alias", str(PROJECTS / "evaluate_net.py")]
    subprocess.run([*script, project, str(file), "."], check=True, **run)
    command = [sys.executable, "-m", "detexport.cli", "--with", project, "export", "--config-file", str(file)]
    done = subprocess.run(
        [*command, "--weights", "model_final.pth", "--target", "onnx", "--output", "out"], **run
    )
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stderr


def test_a_meta_architecture_that_only_defines_forward_is_exported(alias: Any) -> None:
    given = given_model(project_model(alias, "peak_detector", "peak").eval())
    assert given.contract.output_names == ("pred_boxes", "scores", "pred_classes")
    with torch.no_grad():
        graph = given.net.image_graph(given.contract.output_names)
        traced = torch.jit.trace(graph, IMAGE, check_trace=False)
        boxes, scores, classes = traced(IMAGE.flip(1)[:, :, :96])
        (expected,) = given.net([{"image": IMAGE.flip(1)[:, :, :96]}])
    assert len(boxes) > 0
    assert torch.equal(boxes, expected["instances"].pred_boxes.tensor)
    assert torch.equal(scores, expected["instances"].scores)
    assert torch.equal(classes, expected["instances"].pred_classes)


def test_an_attribute_that_is_missing_is_named_with_the_reason(alias: Any) -> None:
    import detectron2.export

    with pytest.raises(AttributeError, match="Caffe2Tracer is not part of detexport: torch no longer"):
        detectron2.export.Caffe2Tracer  # noqa: B018
    assert not hasattr(detectron2.export, "__wrapped__")
    with pytest.raises(ImportError, match=r"mmdet_wrapper is not part of detexport: it wraps"):
        importlib.import_module("detectron2.modeling.mmdet_wrapper")


CHILDREN = """
import multiprocessing
import subprocess
import sys

from detectron2.structures import Boxes


def boxes():
    return Boxes([[1.0, 2.0, 3.0, 4.0]])


if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(boxes))
    code = "from detectron2.structures import Boxes; print(Boxes.__module__)"
    print(subprocess.check_output([sys.executable, "-c", code], text=True))
"""


def test_the_processes_that_a_script_starts_have_the_alias(tmp_path: Path) -> None:
    script = tmp_path / "spawning.py"
    script.write_text(CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "detexport.detectron2_alias", str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "[1., 2., 3., 4.]" in done.stdout
    assert "detexport.structures.boxes" in done.stdout
