"""/invocations answers as MLflow's scoring server on the registered version's pyfunc."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.pyfunc import scoring_server
from running_server import Running, base64_of, png, running
from starlette.testclient import TestClient

from detexport.registry.jobs import register_jobs
from detexport.registry.settings import RegistrySettings
from tiny_artifacts import tiny_image

sys.path.insert(0, str(Path(__file__).parents[1] / "registry"))
from toy_project import toy_job, write_project

CELLS = [base64_of(png()), base64_of(png(tiny_image(60, 40)))]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, TestClient]]:
    """The alias of a registered version in both servers."""
    root = tmp_path_factory.mktemp("registry")
    write_project(root)
    job = toy_job(root)
    register_jobs([job], workspace=root, checkout=root, settings=RegistrySettings.of({}))
    uri = f"sqlite:///{root}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    mlflow.MlflowClient().set_registered_model_alias("toy-onnx", "champion", "1")
    model = mlflow.pyfunc.load_model("models:/toy-onnx@champion")
    with running("models:/toy-onnx@champion", MLFLOW_TRACKING_URI=uri) as server:
        yield server, TestClient(scoring_server.init(model))


def test_the_server_prints_that_it_downloads_and_loads(servers: tuple[Running, TestClient]) -> None:
    steps = [line.rstrip() for line in servers[0].printed if line.endswith(" ...\n")]
    assert steps == ["download models:/toy-onnx@champion ...", "load the model ..."]


@pytest.mark.parametrize(
    "document",
    [
        {"dataframe_split": {"columns": ["image"], "data": [[cell] for cell in CELLS]}},
        {"dataframe_split": {"columns": ["image"], "data": []}},
        {"dataframe_split": {"index": [7], "columns": ["id", "image"], "data": [[1, CELLS[0]]]}},
        {"dataframe_records": [{"image": cell} for cell in CELLS]},
        {"dataframe_records": [{"image": CELLS[0]}], "params": {"score_threshold": 0.5}},
    ],
)
def test_the_answers_are_the_same(servers: tuple[Running, TestClient], document: Any) -> None:
    own, theirs = servers
    answer = own.post_json("/invocations", document)
    wanted = theirs.post("/invocations", json=document)
    assert wanted.status_code == answer.status == 200, (wanted.text[:300], answer.body[:300])
    assert answer.json == wanted.json()


@pytest.mark.parametrize(
    "document",
    [
        {"dataframe_records": [{"photo": CELLS[0]}]},
        {"dataframe_records": [{"image": base64_of(b"no image")}]},
        {"dataframe_records": [{"image": CELLS[0]}], "inputs": []},
        {"dataframe_records": [{"image": CELLS[0]}], "params": {"score_threshold": 7}},
        {"nothing": 1},
        [1],
    ],
)
def test_both_refuse_with_400_and_an_error_code(servers: tuple[Running, TestClient], document: Any) -> None:
    own, theirs = servers
    answer = own.post_json("/invocations", document)
    wanted = theirs.post("/invocations", json=document)
    assert wanted.status_code == answer.status == 400
    assert answer.json.keys() >= {"error_code", "message"}
