"""What `detexport package` writes, read with the tools' own schemas where they are installed."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from google.protobuf import text_format
from packaging.requirements import Requirement

from detexport.artifact import Format, read_artifact, read_verified
from detexport.errors import ArtifactError, ConfigError
from detexport.registry.jobs import register_jobs
from detexport.registry.settings import RegistrySettings
from detexport.runtime import DEFAULT_ENGINES
from detexport.serving.kserve import dns_label
from detexport.serving.triton import TYPES, config
from detexport.workflows.package import _options, default_name, package
from tiny_artifacts import KINDS, tiny_contract, write_tiny_onnx
from tiny_models import CONTRACTS, write_tiny_pasted

sys.path.insert(0, str(Path(__file__).parents[1] / "registry"))
sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
from running_server import png
from toy_project import toy_job, write_project


@pytest.fixture(scope="module")
def triton() -> Any:
    """Triton's own messages; the package also imports gRPC, which its schema does not need."""
    package = importlib.util.find_spec("tritonclient")
    if package is None or package.origin is None:
        pytest.skip("no tritonclient; remedy: uv pip install --no-deps tritonclient")
    path = Path(package.origin).parent / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("triton_model_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def read_config(triton: Any) -> Callable[[str], Any]:
    return lambda text: text_format.Parse(text, triton.ModelConfig())


KNOWN = {
    *("FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"),
}
"""Instructions of a Dockerfile."""


@pytest.fixture(scope="module")
def packaged(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("packaged") / "package"
    package(tiny_onnx, output, name="shapes")
    return output


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    lines = [line for line in dockerfile.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_dockerfile_copies_what_is_there_and_runs_the_server(packaged: Path) -> None:
    found = instructions((packaged / "Dockerfile").read_text())
    assert found[0] == ("FROM", f"python:{sys.version_info.major}.{sys.version_info.minor}-slim")
    known = {
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "ENV",
        "USER",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
    }
    assert {word for word, _ in found} <= known
    for word, rest in found:
        if word == "COPY":
            assert (packaged / rest.split()[0]).exists()
    command = json.loads(dict(found)["ENTRYPOINT"])
    assert command[:4] == ["python", "-m", "detexport.cli", "serve"]
    check = dict(found)["HEALTHCHECK"].partition("CMD ")[2]
    compile(json.loads(check)[2], "HEALTHCHECK", "exec")
    assert int(dict(found)["USER"]) > 0


def test_the_requirements_are_exact_and_without_torch(packaged: Path) -> None:
    found = [Requirement(line) for line in (packaged / "requirements.txt").read_text().splitlines()]
    assert all(str(one.specifier).startswith("==") for one in found)
    names = {one.name for one in found}
    assert names >= {"numpy", "onnxruntime", "pillow", "fastapi", "uvicorn", "typer"}
    assert not names & {"torch", "mlflow"}


def test_the_image_serves_with_its_own_code(packaged: Path, tmp_path: Path) -> None:
    """The command of the image in a copy of its folder, on another port."""
    shutil.copytree(packaged, tmp_path / "srv")
    found = dict(instructions((packaged / "Dockerfile").read_text()))
    _, *command = json.loads(found["ENTRYPOINT"])
    command[command.index("--port") + 1] = "0"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "srv" / "code")}
    process = subprocess.Popen(
        [sys.executable, *command], cwd=tmp_path / "srv", env=environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        port = process.stderr.readline().split()[0].rpartition(":")[2]
        (tmp_path / "photo.png").write_bytes(png())
        url = f"http://127.0.0.1:{port}/predict"
        done = subprocess.run(
            ["curl", "-sS", "--data-binary", f"@{tmp_path}/photo.png", url], capture_output=True
        )
        assert len(json.loads(done.stdout)["predictions"][0]["boxes"]) == 3
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_tritons_schema_reads_the_configuration_of_every_kind(
    triton: Any, read_config: Callable[[str], Any], tmp_path: Path, kind: str
) -> None:
    artifact = write_tiny_onnx(tmp_path, kind)
    found = read_config(config(artifact, "shapes"))
    assert (found.name, found.backend, found.max_batch_size) == ("shapes", "onnxruntime", 0)
    for tensors, specs in (
        (found.input, artifact.contract.inputs),
        (found.output, artifact.contract.outputs),
    ):
        assert [one.name for one in tensors] == [spec.name for spec in specs]
        for one, spec in zip(tensors, specs, strict=True):
            assert triton.DataType.Name(one.data_type) == TYPES[spec.dtype]
            assert list(one.dims) == [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    assert found.parameters["artifact_sha256"].string_value == artifact.sha256
    assert json.loads(found.parameters["class_names"].string_value) == list(artifact.contract.class_names)


def test_names_with_quotes_and_other_letters_survive(
    read_config: Callable[[str], Any], tmp_path: Path
) -> None:
    names = ('a "b"', "c\\d", "\u00e9\u732b")
    artifact = write_tiny_onnx(tmp_path, contract=tiny_contract(class_names=names))
    found = read_config(config(artifact, "shapes"))
    assert json.loads(found.parameters["class_names"].string_value) == list(names)


def test_the_other_formats_have_the_configuration_of_their_backend(
    read_config: Callable[[str], Any], tiny_tracing: Path, tiny_openvino: Path, tmp_path: Path
) -> None:
    traced = read_config(config(read_artifact(tiny_tracing), "shapes"))
    assert (traced.backend, traced.platform) == ("pytorch", "pytorch_libtorch")
    assert [one.name for one in traced.input] == ["INPUT__0"]
    assert [one.name for one in traced.output] == [f"OUTPUT__{index}" for index in range(4)]
    converted = read_config(config(read_artifact(tiny_openvino), "shapes"))
    assert (converted.backend, converted.default_model_filename) == ("openvino", "model.xml")
    package(tiny_openvino, tmp_path / "package", name="shapes")
    assert {path.name for path in (tmp_path / "package" / "triton" / "shapes" / "1").iterdir()} == {
        "model.xml",
        "model.bin",
    }


def test_a_pasted_graph_has_its_output_size(read_config: Callable[[str], Any], tmp_path: Path) -> None:
    write_tiny_pasted(tmp_path / "pasted", next(iter(CONTRACTS.values())))
    found = read_config(config(read_artifact(tmp_path / "pasted"), "shapes"))
    assert [list(one.dims) for one in found.input] == [[3, -1, -1], [2]]
    assert json.loads(found.parameters["input_names"].string_value) == ["image", "output_size"]


def test_a_format_that_triton_cannot_run_is_packaged_without_it(tiny_scripting: Path, tmp_path: Path) -> None:
    done = package(tiny_scripting, tmp_path / "package")
    assert "list of images" in done.without_triton
    assert not (tmp_path / "package" / "triton").exists()
    assert (tmp_path / "package" / "Dockerfile").is_file()


def test_the_kserve_manifest_runs_the_image_of_the_dockerfile(packaged: Path) -> None:
    document = yaml.safe_load((packaged / "kserve.yaml").read_text())
    assert (document["apiVersion"], document["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert re.fullmatch("[a-z]([a-z0-9-]{0,61}[a-z0-9])?", document["metadata"]["name"])
    predictor = document["spec"]["predictor"]
    (container,) = predictor["containers"]
    assert container["name"] == "kserve-container"
    assert f"docker build -t {container['image']} " in (packaged / "Dockerfile").read_text()
    port = container["ports"][0]["containerPort"]
    found = dict(instructions((packaged / "Dockerfile").read_text()))
    assert found["EXPOSE"] == str(port)
    for probe, path in (("readinessProbe", "/health/ready"), ("livenessProbe", "/health/live")):
        assert container[probe]["httpGet"] == {"path": path, "port": port}


def test_no_file_names_a_registry_or_a_path_of_this_machine(packaged: Path, tiny_onnx: Path) -> None:
    for path in packaged.rglob("*"):
        if path.is_file() and "code" not in path.relative_to(packaged).parts and path.suffix != ".onnx":
            text = path.read_text()
            assert str(tiny_onnx.parent) not in text
            assert not re.search(r"https?://(?!127\.0\.0\.1)|index-url|docker\.io|nvcr|gcr\.io|ghcr", text), (
                path
            )
    read_verified(packaged / "model")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("models:/mask_rcnn-onnx/3", "mask_rcnn-onnx"),
        ("models:/a b@champion", "a-b"),
        ("/x/model_onnx/", "model_onnx"),
        ("/x/..", "model"),
    ],
)
def test_the_name_is_that_of_the_source(source: str, name: str) -> None:
    assert default_name(source) == name


@pytest.mark.parametrize(
    ("name", "label"), [("Mask_RCNN-onnx", "mask-rcnn-onnx"), ("7", "model-7"), ("x" * 80, "x" * 63)]
)
def test_a_name_becomes_a_label_of_kubernetes(name: str, label: str) -> None:
    assert dns_label(name) == label


def test_a_folder_with_other_files_is_not_replaced(tiny_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not a package"):
        package(tiny_onnx, tmp_path)
    package(tiny_onnx, tmp_path / "package", name="one")
    package(tiny_onnx, tmp_path / "package", name="two")
    assert json.loads((tmp_path / "package" / "package.json").read_text())["name"] == "two"
    assert not (tmp_path / "package" / "triton" / "one").exists()


def test_the_runtime_of_a_version_becomes_options_of_the_server(tiny_onnx: Path, tiny_openvino: Path) -> None:
    onnx, ir = read_artifact(tiny_onnx), read_artifact(tiny_openvino)
    path = {name: DEFAULT_ENGINES[name] for name in Format}
    assert _options(onnx, {}) == ()
    assert _options(onnx, {"_target_": path[Format.ONNX], "threads": 3}) == ("--threads", "3")
    bf16 = {"_target_": path[Format.OPENVINO], "precision": "bf16", "threads": 0}
    assert _options(ir, bf16) == ("--target", "openvino_bf16")
    with pytest.raises(ConfigError, match="a runtime that no target has"):
        _options(onnx, {"_target_": "mine.Runtime"})


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    write_project(tmp_path)
    job = toy_job(tmp_path)
    register_jobs([job], workspace=tmp_path, checkout=tmp_path, settings=RegistrySettings.of({}))
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


def test_a_registered_version_is_packaged_with_its_own_requirements_and_code(
    registry: Path, tmp_path: Path
) -> None:
    done = package("models:/toy-onnx/1", tmp_path / "package")
    assert done.name == "toy-onnx"
    lines = (tmp_path / "package" / "requirements.txt").read_text().splitlines()
    stored = next(registry.glob("mlartifacts/**/requirements.txt"))
    assert set(stored.read_text().split()) <= set(lines)
    assert len({line.partition("==")[0].lower() for line in lines}) == len(lines)
    code = stored.parent / "code" / "detexport"
    for path in code.rglob("*.py"):
        assert (
            tmp_path / "package" / "code" / "detexport" / path.relative_to(code)
        ).read_bytes() == path.read_bytes()
    found = dict(instructions((tmp_path / "package" / "Dockerfile").read_text()))
    assert json.loads(found["ENTRYPOINT"])[-2:] == ["--threads", "1"]


def test_a_version_without_a_server_in_its_code_is_refused(registry: Path, tmp_path: Path) -> None:
    for path in registry.glob("mlartifacts/**/code/detexport/serving/server.py"):
        path.unlink()
    with pytest.raises(ArtifactError, match="registered without a server"):
        package("models:/toy-onnx/1", tmp_path / "package")
    assert not (tmp_path / "package").exists()
