"""dvc.yaml says what makes a stage stale: all the code that it runs, and no more."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

# What a stage reaches through a `_target_` of params.yaml instead of an import.
BY_TARGET = {
    "prepare_data": ["detexport.data.synthetic", "detexport.data.coco_folder"],
    "export": [
        "detexport.export.tracing",
        "detexport.export.scripting",
        "detexport.export.onnx",
        "detexport.export.torch_export",
    ],
    "convert": [
        "detexport.convert.aot_inductor",
        "detexport.convert.onnx_int8",
        "detexport.convert.openvino",
        "detexport.convert.openvino_int8",
    ],
    "validate": [
        "detexport.runtime.torchscript",
        "detexport.runtime.onnxruntime",
        "detexport.runtime.aot_inductor",
        "detexport.runtime.exported_program",
        "detexport.runtime.openvino",
        "detexport.parity.compare",
    ],
    "benchmark": [
        "detexport.runtime.torchscript",
        "detexport.runtime.onnxruntime",
        "detexport.runtime.aot_inductor",
        "detexport.runtime.exported_program",
        "detexport.runtime.openvino",
    ],
}
# A version holds the code of its runtime.
BY_TARGET["register"] = BY_TARGET["benchmark"]
# What failed is made again by its own method, and run in its own runtime.
BY_TARGET["diagnose"] = [*BY_TARGET["export"], *BY_TARGET["convert"], *BY_TARGET["validate"]]
# Run at every `dvc repro` whatever changed.
ALWAYS = {name for name, stage in STAGES.items() if stage.get("always_changed")}
# Declared by the chain's design to be stale by its data, parameters and training code alone.
EXEMPT = {"train", "fine_tune"}
INIT = "src/detexport/__init__.py"
CHECKED = sorted(set(STAGES) - ALWAYS - EXEMPT)

LOADED = """
import importlib, json, sys
sys.path.insert(0, "stages")
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.startswith("detexport") and m.__file__]))
"""


def declared(stage: str) -> list[str]:
    definition = STAGES[stage].get("do", STAGES[stage])
    return [dep for dep in definition["deps"] if dep.startswith(("src/", "stages/"))]


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """The project's own files that each stage's process imports."""
    found = {}
    for stage in CHECKED:
        done = subprocess.run(
            [sys.executable, "-c", LOADED, stage, *BY_TARGET.get(stage, [])],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        files = {Path(name).relative_to(ROOT).as_posix() for name in json.loads(done.stdout)}
        # A package's __init__ that imports nothing is a sign on the door, and so is the root's, whose names
        # no stage uses.
        found[stage] = {name for name in files - {INIT} if not _only_a_docstring(ROOT / name)}
    return found


def _only_a_docstring(path: Path) -> bool:
    text = path.read_text()
    return path.name == "__init__.py" and "import" not in text.rsplit('"""', 1)[-1]


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


def test_every_stage_is_a_script_of_its_name() -> None:
    for name, stage in STAGES.items():
        script = {"fine_tune": "train"}.get(name, name)
        assert stage.get("do", stage)["cmd"].split()[1] == f"stages/{script}.py"
        assert (ROOT / "stages" / f"{script}.py").is_file()


def test_fine_tuned_weights_are_in_the_cache_and_committed_checkpoints_in_git() -> None:
    train, fine_tune = (STAGES[name]["do"] for name in ("train", "fine_tune"))
    assert {name for name in train if train[name] != fine_tune[name]} == {"desc", "outs"}
    assert [next(iter(out)) for out in train["outs"]] == fine_tune["outs"]
    assert all(next(iter(out.values())) == {"cache": False, "persist": True} for out in train["outs"])


@pytest.mark.parametrize("stage", CHECKED)
def test_all_code_that_a_stage_imports_makes_it_stale(loaded: dict[str, set[str]], stage: str) -> None:
    deps = declared(stage)
    assert f"stages/{stage}.py" in deps
    missing = {file for file in loaded[stage] if not any(covers(dep, file) for dep in deps)}
    assert not missing


@pytest.mark.parametrize("stage", CHECKED)
def test_no_code_that_a_stage_does_not_import_makes_it_stale(loaded: dict[str, set[str]], stage: str) -> None:
    unused = {
        dep
        for dep in declared(stage)
        if dep.startswith("src/") and not any(covers(dep, file) for file in loaded[stage])
    }
    assert not unused


def conf_read_by(file: str) -> set[str]:
    """What a module reads of conf/ by itself, not through params.yaml: see detexport.conf_files."""
    nodes = ast.walk(ast.parse((ROOT / file).read_text()))
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    files = {
        f"conf/{ast.literal_eval(call.args[0])}.yaml" for call in calls if call.func.id == "read_defaults"
    }
    return files | {"conf/export" for call in calls if call.func.id == "read_targets"}


@pytest.mark.parametrize("stage", CHECKED)
def test_the_defaults_that_a_stage_reads_make_it_stale(loaded: dict[str, set[str]], stage: str) -> None:
    deps = STAGES[stage].get("do", STAGES[stage])["deps"]
    read = set().union(*map(conf_read_by, loaded[stage]))
    assert {dep for dep in deps if dep.startswith("conf/")} == read
    assert all((ROOT / dep).exists() for dep in read)


def test_the_runtime_of_a_measurement_makes_it_stale() -> None:
    for stage in ("reference", "export", "validate", "benchmark"):
        assert "requirements.lock" in STAGES[stage]["do"]["deps"]
    assert "requirements.lock" not in STAGES["train"]["do"]["deps"]


@pytest.mark.parametrize("stage", ["export", "convert", "validate", "diagnose"])
def test_a_stage_of_one_artifact_depends_on_no_option_of_another(stage: str) -> None:
    of_all = {name for name in STAGES[stage]["do"]["params"] if "${" not in name}
    assert of_all <= {"data.categories", "parity"}


def closure(stage: str) -> set[str]:
    """A stage and all stages whose outputs it depends on, directly or through others."""
    outputs = {
        out if isinstance(out, str) else next(iter(out)): name
        for name, one in STAGES.items()
        for kind in ("outs", "metrics")
        for out in one.get("do", one).get(kind, [])
    }
    found, left = set(), [stage]
    while left:
        name = left.pop()
        found.add(name)
        for dep in STAGES[name].get("do", STAGES[name])["deps"]:
            before = {by for out, by in outputs.items() if covers(plain(out), plain(dep))}
            left += before - found
    return found


def plain(path: str) -> str:
    """A path without what it is called by in its stage: both name the same model."""
    return path.replace("${item.model}", "${key}")


def test_the_images_of_the_reference_do_not_make_an_export_stale() -> None:
    before = closure("export")
    assert {"prepare_data", "build", "load_checkpoint", "sample"} <= before
    assert "reference" not in before
    params = {name for stage in before for name in STAGES[stage].get("do", STAGES[stage]).get("params", [])}
    assert not [name for name in params if name.startswith("parity")]
    assert "reference" in closure("validate")


LONGEST_STAGE = 40


def test_a_stage_is_short() -> None:
    for script in (ROOT / "stages").glob("*.py"):
        assert len(script.read_text().splitlines()) <= LONGEST_STAGE, script


def test_only_dvc_yaml_names_the_artifacts_paths() -> None:
    for script in (ROOT / "stages").glob("*.py"):
        text = script.read_text()
        assert "outputs/" not in text.replace("to outputs/", ""), script
        assert "reports/" not in text, script
