"""MLflow's own scoring server, as `mlflow models serve` starts it, with a registered version."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from toy_project import toy_job, write_project

from detexport.registry.jobs import register_jobs
from detexport.registry.settings import RegistrySettings
from tiny_artifacts import tiny_image

PIXELS = tiny_image(60, 80).transpose(1, 2, 0)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(PIXELS)).save(buffer, "PNG")
    return buffer.getvalue()


ENCODED = base64.b64encode(png()).decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a version that `mlflow models serve` serves, which may read files below one folder."""
    root = tmp_path_factory.mktemp("served")
    write_project(root)
    (root / "images").mkdir()
    (root / "images/photo.png").write_bytes(png())
    register_jobs([toy_job(root)], workspace=root, checkout=root, settings=RegistrySettings.of({}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--env-manager", "local"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/toy-onnx/1", *address],
        cwd=root,
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "SERVING_MODEL_CONFIG": json.dumps({"device": "cpu", "allowed_uris": [str(root / "images")]}),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            with suppress(requests.ConnectionError):
                if requests.get(f"{url}/ping", timeout=5).ok:
                    break
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.1)
        yield f"{url}/invocations?{root}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def post(server: str, body: Any, content_type: str = "application/json") -> requests.Response:
    data = body if isinstance(body, bytes | str) else json.dumps(body)
    url = server.partition("?")[0]
    return requests.post(url, data=data, headers={"Content-Type": content_type}, timeout=60)


@pytest.fixture(scope="module")
def expected(server: str) -> Any:
    answer = post(server, {"dataframe_records": [{"image": ENCODED}]})
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["predictions"]
    assert [len(row[name]) for name in ("boxes", "scores", "masks")] == [3, 3, 3]
    return row


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [{"image": ENCODED}, {"image": ENCODED}]},
        {"dataframe_split": {"columns": ["image"], "data": [[ENCODED], [ENCODED]]}},
        {"inputs": {"image": [ENCODED, ENCODED]}},
        {"inputs": [{"image": ENCODED}, {"image": ENCODED}]},
        {"inputs": [ENCODED, ENCODED]},
        {"instances": [{"image": ENCODED}, {"image": ENCODED}]},
        {"inputs": {"image": [ENCODED, f"data:image/png;base64,{ENCODED}"]}},
        {"inputs": {"image": np.stack([PIXELS, PIXELS]).tolist()}},
    ],
    ids=["records", "split", "inputs", "inputs of rows", "bare inputs", "instances", "data URI", "pixels"],
)
def test_every_form_of_a_request_gives_the_same_rows(server: str, expected: Any, body: Any) -> None:
    answer = post(server, body)
    assert answer.status_code == 200, answer.text[:300]
    assert answer.json() == {"predictions": [expected, expected]}


def test_parameters_are_taken(server: str, expected: Any) -> None:
    for body in ({"inputs": {"image": [ENCODED]}}, {"dataframe_records": [{"image": ENCODED}]}):
        answer = post(server, {**body, "params": {"score_threshold": 0.5, "masks": False}})
        (row,) = answer.json()["predictions"]
        assert row["scores"] == [score for score in expected["scores"] if score > 0.5]
        assert "masks" not in row


def test_an_allowed_file_is_read(server: str, expected: Any) -> None:
    folder = server.partition("?")[2]
    for location in (f"{folder}/images/photo.png", f"file://{folder}/images/photo.png"):
        answer = post(server, {"inputs": {"image": [location]}})
        assert answer.json() == {"predictions": [expected]}
    answer = post(server, {"inputs": {"image": [f"{folder}/mlflow.db"]}})
    assert answer.status_code == 400
    assert "the model may not read this location" in answer.json()["message"]


NO_IMAGE = base64.b64encode(b"this is a secret, and no image! " * 100).decode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"inputs": {"image": [NO_IMAGE]}}, "row 0: the input of 3200 bytes cannot be read as"),
        ({"dataframe_records": [{"image": ENCODED}, {"image": NO_IMAGE}]}, "row 1: this is not an encoded"),
        ({"inputs": {"image": [ENCODED[:400]]}}, "row 0: "),
        (
            {"inputs": {"picture": [NO_IMAGE]}},
            "Model is missing inputs ['image']. Note that there were extra",
        ),
        ({"dataframe_records": [{"picture": NO_IMAGE}]}, "Model is missing inputs ['image']"),
        ({"dataframe_split": {"columns": ["image"], "data": NO_IMAGE}}, "not in one of the forms"),
        ({"inputs": {"image": [NO_IMAGE]}, "params": {"score_threshold": NO_IMAGE}}, "params do not fit"),
        ({"inputs": {"image": [ENCODED]}, "params": {"score_threshold": 2}}, "must be a number in [0, 1]"),
        ({"image": NO_IMAGE}, "not in one of the forms"),
        ({"inputs": NO_IMAGE}, "Model is missing inputs ['image']"),
        ([NO_IMAGE], "not in one of the forms"),
        ('{"inputs": "' + NO_IMAGE, "not in one of the forms"),
        (b"\xff" + NO_IMAGE.encode(), "not in one of the forms"),
        ({"inputs": {"image": [["\xe9" + NO_IMAGE]]}}, ""),
        ({"inputs": {"image": [None]}}, "row 0: "),
        ({"inputs": {"image": [PIXELS.tolist(), [[1]]]}}, ""),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict | list) else None,
)
def test_an_error_is_short_and_does_not_repeat_the_request(
    server: str, expected: Any, body: Any, words: str
) -> None:
    answer = post(server, body)
    assert answer.status_code == 400, answer.text[:500]
    assert len(answer.text) < 1000, answer.text
    assert NO_IMAGE[:40] not in answer.text
    assert ENCODED[:40] not in answer.text
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert words in answer.json()["message"]
    assert post(server, {"inputs": {"image": [ENCODED]}}).json() == {"predictions": [expected]}
