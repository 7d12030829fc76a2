"""The register stage as processes: killed, side by side, against a server; its versions loaded elsewhere."""

import base64
import io
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
import uvicorn
from PIL import Image
from pycocotools import mask as coco_mask
from toy_project import RUNTIMES, folder, toy_artifact, write_project

from detexport.data import resize_image, resized_size
from detexport.processing.postprocess import postprocess
from detexport.runtime import default_engine
from detexport.system.redaction import public_uri
from tiny_artifacts import tiny_image

STAGE = Path(__file__).parents[2] / "stages" / "register.py"
COMMAND = [
    sys.executable,
    str(STAGE),
    "--models-dir",
    "outputs/models",
    "--digests-dir",
    "outputs/digests",
    "--data-statistics",
    "outputs/data_statistics.json",
    "--receipts",
    "outputs/registered.json",
]


def environment(**variables: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "DVC_ROOT")}
    return clean | variables


def start(root: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        COMMAND,
        cwd=root,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(root: Path, **variables: str) -> dict[str, Any]:
    process = start(root, **variables)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    outcome: dict[str, Any] = json.loads((root / "outputs/registered.json").read_text())
    return outcome


def versions(uri: str, name: str = "toy-onnx") -> list[Any]:
    return list(mlflow.MlflowClient(uri).search_model_versions(f"name = '{name}'"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_project(tmp_path)
    return tmp_path


def count(root: Path, table: str) -> int:
    try:
        with sqlite3.connect(f"file:{root}/mlflow.db?mode=ro", uri=True) as database:
            return int(database.execute(f"select count(*) from {table}").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_kills_leave_one_version_with_its_artifact(root: Path) -> None:
    artifacts = root / "mlartifacts"
    moments: dict[str, Callable[[set[Path]], bool]] = {
        "the database is made": lambda _: (artifacts / ".mlflow.db.partial").exists(),
        "the database is there": lambda _: (root / "mlflow.db").exists(),
        "files are being stored": lambda before: bool({*artifacts.glob("models/*")} - before),
        "the files are stored": lambda before: bool({*artifacts.glob("models/*/artifacts/MLmodel")} - before),
        "the version is there": lambda _: count(root, "model_versions") > 0,
    }
    for moment, has_come in moments.items():
        before = {*artifacts.glob("models/*"), *artifacts.glob("models/*/artifacts/MLmodel")}
        process = start(root)
        while process.poll() is None and not has_come(before):
            time.sleep(0.002)
        assert process.poll() is None, f"ended before {moment}"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (root / "outputs/registered.json").exists()

    (receipt,) = run(root)["registered"]
    uri = f"sqlite:///{root}/mlflow.db"
    (version,) = versions(uri)
    assert str(version.version) == receipt["version"]
    model = mlflow.MlflowClient(uri).get_logged_model(version.source.removeprefix("models:/"))
    assert list(artifacts.glob("models/*/artifacts")) == [
        Path(model.artifact_location.removeprefix("file://"))
    ]
    assert (next(artifacts.glob("models/*")) / "artifacts/artifacts/onnx/model.onnx").is_file()
    assert not list(artifacts.glob(".mlflow*"))
    assert count(root, "runs where status != 'FINISHED' and lifecycle_stage = 'active'") == 0


def test_an_experiments_clone_registers_in_the_users_workspace(root: Path) -> None:
    clone = root / ".dvc/tmp/exps/tmpx"
    shutil.copytree(root / "outputs", clone / "outputs")
    shutil.copy(root / "params.yaml", clone)
    # Two at once, where there is no database yet.
    processes = [start(root), start(clone, DVC_ROOT=str(root))]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    receipts = [json.loads((path / "outputs/registered.json").read_text()) for path in (root, clone)]
    assert receipts[0] == receipts[1]
    assert len(versions(f"sqlite:///{root}/mlflow.db")) == 1
    assert not (clone / "mlflow.db").exists()
    # A variable that another repository's pipeline left is not followed.
    elsewhere = root / "elsewhere"
    shutil.copytree(clone, elsewhere)
    assert run(elsewhere, DVC_ROOT=str(root))["tracking_uri"] == f"sqlite:///{elsewhere}/mlflow.db"


def test_a_server_that_does_not_answer_is_told_soon(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}"
        process = start(root, MLFLOW_TRACKING_URI=address)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    (line,) = (line for line in errors.splitlines() if line.startswith("error:"))
    assert f"the registry {public_uri(address)} cannot be used" in line
    assert "secret" not in errors
    assert not (root / "outputs/registered.json").exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A tracking server with a registry and proxied artifacts, on the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = tmp_path / "server"
    store.mkdir()
    options = ["--backend-store-uri", f"sqlite:///{store}/db.sqlite", "--artifacts-destination", str(store)]
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *options, *address],
        env=environment(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with suppress(requests.ConnectionError):
                if requests.get(f"{uri}/health", timeout=5).ok:
                    break
            assert process.poll() is None
            time.sleep(0.1)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def test_a_server_holds_the_versions_and_their_files(root: Path, server: str, tmp_path: Path) -> None:
    outcome = run(root, MLFLOW_TRACKING_URI=server)
    assert outcome["tracking_uri"] == server
    assert run(root, MLFLOW_TRACKING_URI=server) == outcome
    assert len(versions(server)) == 1
    assert not (root / "mlflow.db").exists()
    assert predict_elsewhere(server, "onnx", tmp_path)["rows"] == expected_rows(root, "onnx")

    # Files that are lost on the server are noticed, and stored again.
    shutil.rmtree(next((tmp_path / "server").glob("**/artifacts/onnx")))
    (receipt,) = run(root, MLFLOW_TRACKING_URI=server)["registered"]
    assert receipt["version"] == "2"
    assert [str(v.version) for v in versions(server)] == ["2"]


def image_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(tiny_image(90, 120).transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def expected_rows(root: Path, target: str, threshold: float = 0.0) -> list[dict[str, Any]]:
    """What the runtime and the post-processing give when they are called directly."""
    artifact = toy_artifact(root, target)
    session = default_engine(artifact.format).open(folder(root) / "artifacts" / target)
    image = tiny_image(90, 120)
    resized = resize_image(image, resized_size(90, 120, artifact.contract.resize))
    assert resized.shape == (3, 40, 53)
    fields = postprocess(session(resized), (40, 53), (90, 120), artifact.contract)
    kept = fields["scores"] > threshold
    masks = [coco_mask.encode(np.asfortranarray(mask)) for mask in fields["pred_masks"][kept]]
    return [
        {
            "boxes": fields["pred_boxes"][kept].tolist(),
            "scores": fields["scores"][kept].tolist(),
            "classes": fields["pred_classes"][kept].tolist(),
            "class_names": [artifact.contract.class_names[i] for i in fields["pred_classes"][kept]],
            "masks": [{"size": [90, 120], "counts": rle["counts"].decode()} for rle in masks],
            "height": 90,
            "width": 120,
        }
    ]


PREDICT = """
import sys
from importlib.machinery import PathFinder
sys.path.append(sys.argv[1])
# An editable install leaves a folder of this name, without code.
found = PathFinder.find_spec("detexport")
if found and found.origin:
    raise SystemExit("detexport is installed here")
import json, mlflow, pandas
mlflow.set_tracking_uri(sys.argv[2])
model = mlflow.pyfunc.load_model(sys.argv[3])
rows = model.predict(pandas.DataFrame({"image": [open(sys.argv[4], "rb").read()]})).to_dict("records")
loaded = [name for name in ("torch", "onnxruntime", "onnx", "detexport.modeling") if name in sys.modules]
print(json.dumps({"rows": rows, "loaded": loaded}))
"""


def predict_elsewhere(uri: str, target: str, tmp_path: Path) -> dict[str, Any]:
    """Load a version and predict in a fresh process that has all packages but this one."""
    path = tmp_path / "image.png"
    path.write_bytes(image_bytes())
    # Without the site module no .pth file is read, so an editable install is not there.
    command = [sys.executable, "-S", "-I", "-c", PREDICT, sysconfig.get_paths()["purelib"]]
    done = subprocess.run(
        [*command, uri, f"models:/toy-{target}/1", str(path)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a version for each method."""
    root = tmp_path_factory.mktemp("registered")
    write_project(root, tuple(RUNTIMES))
    assert [entry["version"] for entry in run(root)["registered"]] == ["1"] * len(RUNTIMES)
    return root


@pytest.mark.parametrize(("target", "engine"), [("onnx", "onnxruntime"), ("scripting", "torch")])
def test_a_version_predicts_where_the_package_is_not_installed(
    registered: Path, tmp_path: Path, target: str, engine: str
) -> None:
    answer = predict_elsewhere(f"sqlite:///{registered}/mlflow.db", target, tmp_path)
    assert answer["rows"] == expected_rows(registered, target)
    assert answer["loaded"] == [engine]


@pytest.fixture(scope="module")
def models(registered: Path) -> dict[str, Any]:
    """Each version, loaded in this process."""
    uri = f"sqlite:///{registered}/mlflow.db"
    api = mlflow.MlflowClient(uri)
    found = {target: versions(uri, f"toy-{target}")[0].source.removeprefix("models:/") for target in RUNTIMES}
    return {
        target: mlflow.pyfunc.load_model(api.get_logged_model(model_id).artifact_location)
        for target, model_id in found.items()
    }


@pytest.mark.parametrize("target", RUNTIMES)
def test_a_version_takes_bytes_and_base64(models: dict[str, Any], registered: Path, target: str) -> None:
    encoded = image_bytes()
    column = [encoded, base64.b64encode(encoded).decode()]
    got = models[target].predict(pd.DataFrame({"image": column}, index=[3, 7]))
    assert got.to_dict("records") == expected_rows(registered, target) * 2
    assert list(got.index) == [3, 7]


def test_a_score_threshold_drops_what_is_below(models: dict[str, Any], registered: Path) -> None:
    column = pd.DataFrame({"image": [image_bytes()]})
    got = models["onnx"].predict(column, params={"score_threshold": 0.5})
    assert got.to_dict("records") == expected_rows(registered, "onnx", threshold=0.5)
    assert len(got["scores"][0]) == 2
    assert models["onnx"].predict(column, params={"score_threshold": 1.0})["boxes"][0] == []
    with pytest.raises(mlflow.MlflowException, match=r"in \[0, 1\], got 1\.5"):
        models["onnx"].predict(column, params={"score_threshold": 1.5})


@pytest.mark.parametrize("bad", [b"no image", "no base64!", "", None, 5])
def test_a_row_that_is_no_image_is_named(models: dict[str, Any], bad: Any) -> None:
    with pytest.raises(mlflow.MlflowException, match=r"row 1: .*image"):
        models["onnx"].predict(pd.DataFrame({"image": [image_bytes(), bad]}))


def test_a_changed_artifact_is_not_served(registered: Path, tmp_path: Path) -> None:
    stored = next(registered.glob("mlartifacts/models/*/artifacts/artifacts/onnx")).parents[1]
    copy = Path(shutil.copytree(stored, tmp_path / "copy"))
    with (copy / "artifacts/onnx/model.onnx").open("ab") as file:
        file.write(b" ")
    with pytest.raises(Exception, match="is not the file that was exported"):
        mlflow.pyfunc.load_model(str(copy))


def test_other_code_in_the_process_is_told(registered: Path, tmp_path: Path) -> None:
    stored = next(registered.glob("mlartifacts/models/*/artifacts/artifacts/onnx")).parents[1]
    copy = Path(shutil.copytree(stored, tmp_path / "copy"))
    target = json.loads((copy / "artifacts/target.json").read_text())
    target["code"]["postprocess.py"] = "0" * 64
    (copy / "artifacts/target.json").write_text(json.dumps(target))
    with pytest.warns(UserWarning, match=r"another detexport.*postprocess\.py"):
        mlflow.pyfunc.load_model(str(copy))


def test_a_service_answers_and_names_what_is_wrong(models: dict[str, Any], registered: Path) -> None:
    from mlflow.pyfunc.scoring_server import init

    server = uvicorn.Server(uvicorn.Config(init(models["onnx"]), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    def post(image: str) -> requests.Response:
        payload = {"dataframe_records": [{"image": image}], "params": {"score_threshold": 0.5}}
        return requests.post(f"http://127.0.0.1:{port}/invocations", json=payload, timeout=30)

    try:
        answer = post(base64.b64encode(image_bytes()).decode())
        assert answer.json() == {"predictions": expected_rows(registered, "onnx", threshold=0.5)}
        answer = post(base64.b64encode(b"no image").decode())
        assert answer.status_code == 400
        assert (
            "row 0: this is not an encoded image; got: 8 characters that are not base64"
            in answer.json()["message"]
        )
    finally:
        server.should_exit = True
        thread.join()


SECRETS = ("s3cr3t", "p@ss", "p%40ss", "t0k3n", "Ym9iOnBAc3MvczNjcjN0")


def leaks(*folders: Path) -> list[str]:
    """Files that hold a secret, by name."""
    return [
        f"{path}: {secret}"
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
        for secret in SECRETS
        if secret.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize("credentials", ["bob:p%40ss%2Fs3cr3t@", ""], ids=["address", "variables"])
def test_no_secret_is_printed_or_stored(root: Path, server: str, tmp_path: Path, credentials: str) -> None:
    address = server.replace("://", f"://{credentials}")
    variables = {"MLFLOW_TRACKING_URI": address}
    if not credentials:
        variables |= {"MLFLOW_TRACKING_USERNAME": "bob", "MLFLOW_TRACKING_PASSWORD": "p@ss/s3cr3t"}
    process = start(root, **variables, MLFLOW_TRACKING_TOKEN="t0k3n", HF_TOKEN="t0k3n")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert len(versions(server)) == 1
    assert json.loads((root / "outputs/registered.json").read_text())["tracking_uri"] == server
    assert "View run" in output + errors, "MLflow prints the address"
    assert not [secret for secret in SECRETS if secret in output + errors]
    assert leaks(root, tmp_path / "server") == []


@pytest.mark.parametrize(
    "address",
    [
        "http://bob:p%40ss%2Fs3cr3t@127.0.0.1:{port}",
        "http://127.0.0.1:{port}/?token=s3cr3t",
        "http://bob:s3cr3t/x@127.0.0.1:{port}",
        "http://s3cr3t@127.0.0.1:{port}",
        "http://bob:s3cr3t@[::1",
        "mysql+nosuchdriver://bob:s3cr3t@127.0.0.1:{port}/db?password=s3cr3t",
        "nosuchscheme://bob:s3cr3t@host",
    ],
)
def test_no_secret_is_in_an_error(root: Path, address: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        uri = address.format(port=taken.getsockname()[1])
        process = start(root, MLFLOW_TRACKING_URI=uri)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "Traceback" not in errors
    (line,) = (line for line in errors.splitlines() if line.startswith("error:"))
    assert "the registry" in line
    assert not [secret for secret in SECRETS if secret in output + errors], output + errors
    assert leaks(root) == []


def test_a_file_that_is_not_listed_is_not_registered(root: Path) -> None:
    (folder(root) / "artifacts/onnx/evil.py").write_text("x")
    outcome = run(root)
    assert outcome["registered"] == []
    assert "got: evil.py; " in outcome["refused"][0]["reasons"][0]
    assert not list(root.glob("mlartifacts/**/evil.py"))
    (folder(root) / "artifacts/onnx/evil.py").unlink()
    assert len(run(root)["registered"]) == 1
    (stored,) = root.glob("mlartifacts/models/*/artifacts/artifacts/onnx")
    assert sorted(path.name for path in stored.iterdir()) == ["artifact.json", "model.onnx"]


def test_a_call_without_rows_answers_with_its_columns(models: dict[str, Any]) -> None:
    columns = ["boxes", "scores", "classes", "class_names", "masks", "height", "width"]
    got = models["onnx"].predict(pd.DataFrame({"image": pd.Series([], dtype=object)}))
    assert list(got.columns) == columns
    assert len(got) == 0


def test_no_threshold_is_the_default(models: dict[str, Any], registered: Path) -> None:
    column = pd.DataFrame({"image": [image_bytes()]})
    got = models["onnx"].predict(column, params={"score_threshold": None})
    assert got.to_dict("records") == expected_rows(registered, "onnx")
