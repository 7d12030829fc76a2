"""Imports go one way, heavy packages stay in their own module, and `import detexport` costs nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "detexport"

# Who may import whom of our own; a package may always import itself and the leaves.
LEAVES = {"errors", "contract", "defaults", "system", "formats"}
ALLOWED = {
    "artifact": set(),
    "outputs": set(),
    "processing": {"outputs"},
    "structures": {"layers"},
    "layers": set(),
    "config": set(),
    "utils": {"checkpoint", "layers", "structures"},
    "checkpoint": set(),
    # The latest version of ONNX's operators that a target can be exported with is its runtime's to know.
    "targets": {"runtime"},
    "model_zoo": {"config", "checkpoint", "modeling"},
    "data": {"structures", "checkpoint", "config", "utils"},
    # Test-time augmentation, which is imported on use, transforms images.
    "modeling": {"structures", "layers", "config", "utils", "data"},
    "metrics": {"data"},
    "evaluation": {"data", "metrics", "utils"},
    "solver": {"config", "layers"},
    "projects": {"config", "modeling"},
    "engine": {
        *("metrics", "data", "modeling", "structures", "layers", "config", "checkpoint", "utils"),
        *("solver", "evaluation"),
    },
    "schema": {"structures"},
    "export": {"artifact", "schema", "structures", "layers"},
    "convert": {"artifact", "processing"},
    "runtime": {"artifact", "processing", "structures"},
    "execution": {"artifact", "runtime"},
    "predictions": {"artifact", "data", "processing", "runtime", "outputs"},
    "batch_prediction": set(),
    "reference": {"artifact", "data", "outputs"},
    "parity": {
        *("artifact", "data", "execution", "metrics", "outputs", "predictions", "processing", "reference"),
        "runtime",
    },
    "benchmark": {"artifact", "runtime", "reference"},
    # It cuts the model, exports the segments by the artifact's method, and runs them in its runtime.
    "diagnosis": {
        *("artifact", "data", "export", "modeling", "outputs", "parity", "predictions", "processing"),
        *("reference", "runtime", "structures", "targets"),
    },
    # What the stages measured, read and named: for DVC, the registry and the report.
    "results": {"artifact", "parity"},
    "serving": {"artifact", "data", "predictions", "runtime"},
    "report": {
        *("artifact", "benchmark", "data", "metrics", "outputs", "parity", "predictions", "reference"),
        "results",
    },
    "registry": {"artifact", "runtime", "data", "parity", "benchmark", "predictions", "reference", "results"},
}
# The job drives the pipeline as a process, and compares with what the registry has.
ALLOWED["retraining"] = {"artifact", "config", "parity", "registry", "targets", "workflows"}
# Names of other packages are listed without importing them; the alias imports what a project asks for.
ALLOWED |= {"detectron2_names": set(), "detectron2_alias": {"config", "detectron2_names"}}
# The use cases stand over what they put together; stages and the command line call them.
ALLOWED["workflows"] = ALLOWED.keys() - {"report", "retraining"}
# The command line stands over all of it but the report.
ALLOWED["cli"] = ALLOWED.keys() - {"report"}
# Third-party packages that belong to one place.
OWNED = {
    "mlflow": ["registry"],
    "hydra": ["config/instantiation.py"],
    "omegaconf": ["config"],
    "dvc": [],
    "onnxruntime": ["runtime/onnxruntime.py", "convert/onnx_int8.py"],
    "onnx": ["export/onnx.py", "export/onnx_nms.py", "convert/onnx_int8.py", "formats/onnx_opsets.py"],
    "openvino": ["convert/openvino.py", "convert/openvino_int8.py", "runtime/openvino.py"],
    "nncf": ["convert/openvino_int8.py"],
    "onnxscript": ["export/onnx.py", "export/onnx_nms.py"],
    "jinja2": ["report", "retraining/summary.py"],
    "fastapi": ["serving"],
    "prefect": ["retraining/schedule.py"],
    "ray": ["execution/ray_engine.py", "execution/ray_data.py"],
    "pyarrow": ["batch_prediction"],
    "fsspec": ["batch_prediction"],
    "prometheus_client": ["serving"],
    "python_multipart": ["serving"],
    "starlette": ["serving"],
    "uvicorn": ["serving"],
    "lightning": ["engine/training.py"],
    "matplotlib": [],
}


def modules() -> list[Path]:
    return sorted(SRC.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Dotted names of everything that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def room(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(SRC).as_posix())
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        return  # it stands over all of it: see the test of what `import detexport` brings along
    allowed = ALLOWED.get(here, set()) | LEAVES | {here}
    own = {name.split(".")[1] for name in imported(path) if name.startswith("detexport.")}
    assert own <= allowed


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(SRC).as_posix())
def test_a_package_with_an_owner_is_imported_by_it_alone(path: Path) -> None:
    here = path.relative_to(SRC).as_posix()
    for name in imported(path):
        owners = OWNED.get(name.split(".")[0])
        if owners is not None:
            assert any(here == owner or here.startswith(f"{owner}/") for owner in owners), name


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("detexport", ["torch", "numpy", "mlflow", "onnxruntime", "PIL", "yaml"]),
        ("detexport.runtime", ["torch", "onnxruntime"]),
        ("detexport.runtime.onnxruntime", ["torch"]),
        ("detexport.processing.postprocess", ["torch"]),
        ("detexport.cli", ["torch", "numpy", "rich", "onnxruntime"]),
        ("detexport.cli.predict", ["torch", "onnxruntime", "openvino"]),
        ("detexport.cli.inspect", ["torch", "numpy"]),
        ("detexport.targets.table", ["torch", "numpy"]),
        ("detexport.predictions.predict_images", ["torch", "onnxruntime"]),
        ("detexport.predictions.drawing", ["torch", "jinja2"]),
        ("detexport.predictions.detector", ["torch", "onnxruntime"]),
        ("detexport.workflows.load_detector", ["torch", "onnxruntime", "mlflow"]),
        ("detexport.cli.retraining", ["torch", "numpy", "rich", "mlflow", "prefect"]),
        ("detexport.retraining.retrain", ["torch", "mlflow", "prefect", "jinja2"]),
        ("detexport.retraining.prefect_server", ["prefect", "yaml"]),
        ("detexport.cli.serve", ["torch", "mlflow", "onnxruntime", "pandas"]),
        ("detexport.workflows.package", ["torch", "mlflow", "onnxruntime", "fastapi"]),
        ("detexport.data", ["torch"]),
        ("detexport.model_zoo", ["torch", "numpy", "omegaconf"]),
        ("detexport.utils.events", ["torch", "tensorboard"]),
        ("detexport.engine", ["torch"]),
        ("detexport.evaluation", ["torch"]),
        ("detexport.detectron2_alias", ["torch"]),
        ("detexport.export", ["onnx", "onnxruntime"]),
        ("detexport.parity.validate", ["torch", "detexport.modeling", "ray"]),
        ("detexport.execution.sessions", ["torch", "ray", "onnxruntime"]),
        ("detexport.workflows.predict_folder", ["torch", "ray", "onnxruntime"]),
        ("detexport.workflows.model_source", ["torch", "numpy"]),
        ("detexport.workflows.validate_against", ["torch", "detexport.modeling"]),
        ("detexport.workflows.validate_job", ["torch", "detexport.modeling"]),
        ("detexport.config.composition", ["torch", "hydra"]),
        # `make repro` imports it at every start.
        ("detexport.workflows.receipts", ["mlflow", "torch", "pandas", "sqlalchemy"]),
        ("detexport.results.job_metrics", ["torch", "mlflow", "onnxruntime"]),
    ],
)
def test_an_import_brings_nothing_heavy_along(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print(*[name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("folder", ["stages", "tools"])
def test_no_script_imports_the_command_line(folder: str) -> None:
    scripts = sorted((SRC.parents[1] / folder).rglob("*.py"))
    assert scripts
    assert [
        path.name for path in scripts for name in imported(path) if f"{name}.".startswith("detexport.cli.")
    ] == []


def test_no_test_imports_a_conftest() -> None:
    """There are several of this name, and the one that pytest loaded last would answer."""
    files = sorted((SRC.parents[1] / "tests").rglob("*.py"))
    assert [path.name for path in files if "conftest" in imported(path)] == []
