"""A real server in its own process: the three forms of a request, hostile requests, signals."""

import http.client
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running_server import Answer, Running, base64_of, multipart, png, running, wait_until

import detexport
from tiny_artifacts import KINDS, tiny_image, write_tiny_onnx, write_tiny_torchscript

SECRET = "aGVsbG8gc2VjcmV0IHdvcmxk"  # must not be in any answer


def assert_refused(answer: Answer, status: int, *words: str) -> None:
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), answer.body
    assert all(word in answer.message for word in words), answer.message
    assert SECRET not in answer.body.decode()
    assert len(answer.message) <= 500


def expected_row(folder: Path, image: np.ndarray, threshold: float = 0.0) -> dict[str, Any]:
    found = detexport.load(folder)(image.transpose(1, 2, 0), score_threshold=threshold)
    return json.loads(json.dumps(found.to_plain()))


@pytest.fixture
def alive(server: Running) -> Any:
    """After the test the server answers as before."""
    yield server
    assert server.process.poll() is None
    assert server.post("/predict", png()).status == 200


def test_every_form_of_a_request_has_the_answer_of_detexport_load(server: Running, tiny_onnx: Path) -> None:
    row, encoded = expected_row(tiny_onnx, tiny_image()), png()
    assert len(row["boxes"]) == 3
    form, kind = multipart(("image", "photo.png", encoded))
    cell = base64_of(encoded)
    forms = [
        server.post("/predict", encoded),
        server.post("/predict", encoded, "application/octet-stream"),
        server.post("/predict", encoded, "application/x-www-form-urlencoded"),
        server.ask("POST", "/predict", encoded),
        server.post("/predict", form, kind),
        *(
            server.post_json(path, document)
            for path in ("/predict", "/invocations")
            for document in [
                {"dataframe_split": {"columns": ["image"], "data": [[cell]]}},
                {"dataframe_split": {"columns": ["id", "image"], "data": [[7, cell]], "index": [3]}},
                {"dataframe_records": [{"image": cell}], "params": {}},
                {"inputs": {"image": [cell]}},
                {"inputs": [{"image": f"data:image/png;base64,{cell}"}]},
                {"inputs": [cell], "params": None},
                {"instances": [{"image": cell}]},
            ]
        ),
    ]
    for answer in forms:
        assert answer.status == 200, answer.body
        assert answer.json == {"predictions": [row]}
        assert answer.headers["server-timing"].startswith("queue;dur=")


def test_several_images_are_answered_in_their_order(server: Running, tiny_onnx: Path) -> None:
    images = [tiny_image(30 + 7 * index, 50) for index in range(3)]
    form, kind = multipart(*(("image", f"{index}.png", png(one)) for index, one in enumerate(images)))
    rows = [expected_row(tiny_onnx, image) for image in images]
    assert server.post("/predict", form, kind).json["predictions"] == rows
    records = {"dataframe_records": [{"image": base64_of(png(image))} for image in images]}
    assert server.post_json("/invocations", records).json["predictions"] == rows
    assert server.post_json("/invocations", {"inputs": []}).json == {"predictions": []}


def test_a_score_threshold_is_taken_in_each_form(server: Running, tiny_onnx: Path) -> None:
    row, encoded = expected_row(tiny_onnx, tiny_image(), 0.5), png()
    assert len(row["scores"]) == 2
    form, kind = multipart(("image", "photo.png", encoded), ("score_threshold", "", b"0.5"))
    document = {"inputs": [base64_of(encoded)], "params": {"score_threshold": 0.5}}
    for answer in (
        server.post("/predict?score_threshold=0.5", encoded),
        server.post("/predict", form, kind),
        server.post_json("/invocations", document),
    ):
        assert answer.json == {"predictions": [row]}


def test_masks_can_be_left_out(server: Running, tiny_onnx: Path) -> None:
    row = expected_row(tiny_onnx, tiny_image())
    assert row.pop("masks")
    document = {"inputs": [base64_of(png())], "params": {"masks": False}}
    for answer in (server.post("/predict?masks=false", png()), server.post_json("/invocations", document)):
        assert answer.json == {"predictions": [row]}
    assert_refused(server.post("/predict?masks=7", png()), 400, "masks is not a boolean")


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"", "image/png", 400, ["the body is empty"]),
        (SECRET.encode(), "image/png", 400, ["the input is not an image", "24 bytes"]),
        (SECRET.encode(), "text/csv", 415, ["unsupported content type"]),
        (png()[:600], "image/png", 400, ["damaged"]),
        (SECRET.encode(), "application/json", 400, ["not valid JSON"]),
        (b"[" * 100_000, "application/json", 400, ["not valid JSON"]),
        (b"\xff\xfe", "application/json", 400, ["not valid JSON"]),
        (b"{}", "application/json; charset=latin-1", 415, ["UTF-8"]),
        (f'["{SECRET}"]'.encode(), "application/json", 400, ["not an object", "a list"]),
        (f'{{"{SECRET}": 1}}'.encode(), "application/json", 400, ["exactly one input field"]),
        (b'{"inputs": [], "instances": []}', "application/json", 400, ["inputs, instances"]),
        (f'{{"inputs": [], "{SECRET}": 1}}'.encode(), "application/json", 400, ["only params"]),
        (f'{{"inputs": "{SECRET}"}}'.encode(), "application/json", 400, ["not a list", "a string"]),
        (f'{{"inputs": ["{SECRET}"]}}'.encode(), "application/json", 400, ["not an image"]),
        (f'{{"inputs": ["!{SECRET}"]}}'.encode(), "application/json", 400, ["not base64"]),
        (b'{"inputs": [[[[1, 2, 3]]]]}', "application/json", 400, ["row 0", "not its pixels"]),
        (f'{{"inputs": {{"{SECRET}": []}}}}'.encode(), "application/json", 400, ["no column 'image'"]),
        (b'{"dataframe_records": [{"img": ""}]}', "application/json", 400, ["no column 'image'"]),
        (b'{"dataframe_records": {}}', "application/json", 400, ["not a list"]),
        (b'{"dataframe_split": {"columns": ["x"], "data": []}}', "application/json", 400, ["no column"]),
        (b'{"dataframe_split": {"columns": ["image"], "data": [[]]}}', "application/json", 400, ["row 0"]),
        (b'{"dataframe_split": []}', "application/json", 400, ["'columns' and 'data'"]),
        (b'{"inputs": ["","","","",""]}', "application/json", 413, ["too many images", "at most 4"]),
        (b'{"inputs": [], "params": 3}', "application/json", 400, ["params is not an object"]),
        (f'{{"inputs": [], "params": {{"{SECRET}": 3}}}}'.encode(), "application/json", 400, ["unknown"]),
        (b'{"inputs": [], "params": {"score_threshold": 2}}', "application/json", 400, ["out of range"]),
        (b'{"inputs": [], "params": {"score_threshold": NaN}}', "application/json", 400, ["out of range"]),
        (b'{"inputs": [], "params": {"score_threshold": true}}', "application/json", 400, ["a boolean"]),
        (SECRET.encode(), "multipart/form-data", 400, ["cannot be read"]),
        (SECRET.encode(), "multipart/form-data; boundary=x", 400, []),
        (*multipart((SECRET, "a.png", png())), 400, ["another field"]),
        (*multipart(("image", "", png())), 400, []),
        (*multipart(*[("image", "a.png", png())] * 5), 413, ["too many images"]),
        (*multipart(("image", "a.png", png()), ("score_threshold", "", b"x")), 400, ["out of range"]),
        (*multipart(("image", "a.png", SECRET.encode())), 400, ["not an image"]),
    ],
)
def test_a_wrong_request_is_refused(
    alive: Running, body: bytes, kind: str, status: int, words: list[str]
) -> None:
    assert_refused(alive.post("/predict", body, kind), status, *words)


def test_wrong_paths_and_methods_are_answered_in_json(alive: Running) -> None:
    assert_refused(alive.ask("GET", f"/{SECRET}"), 404)
    assert_refused(alive.ask("GET", "/predict"), 405)
    assert_refused(alive.post("/invocations", png()), 415, "application/json")
    assert_refused(alive.ask("POST", "/predict", png(), content_encoding="gzip"), 415, "compressed")
    assert_refused(alive.post(f"/predict?{SECRET}=1", png()), 400, "unknown parameters")
    assert_refused(alive.post("/predict?score_threshold=x", png()), 400, "out of range")


def bomb(width: int, height: int) -> bytes:
    """A small PNG file of many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compressobj(9)
    line = bytes(width // 8 + 1)
    data = b"".join([*(packed.compress(line) for _ in range(height)), packed.flush()])
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_an_image_of_a_hundred_megapixels_is_refused(alive: Running) -> None:
    encoded = bomb(10_000, 10_000)
    assert len(encoded) < 100_000
    assert_refused(alive.post("/predict", encoded), 413, "10000 x 10000 px", "at most 50000000")
    assert_refused(alive.post_json("/invocations", {"inputs": [base64_of(encoded)]}), 413, "10000 x 10000 px")


def test_a_large_body_is_refused_and_its_client_reads_the_answer(alive: Running) -> None:
    body = bytes(5_000_000)
    assert_refused(alive.post("/predict", body), 413, "the body is too large", "5000000 bytes")

    def chunks() -> Any:
        for _ in range(50):
            yield bytes(100_000)

    assert_refused(alive.ask("POST", "/predict", chunks()), 413, "more than 1000000 bytes")  # type: ignore[arg-type]


def raw(server: Running, *sent: bytes, pause_s: float = 0.0) -> bytes:
    """Send bytes with pauses, and return what the server answers until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for one in sent:
            connection.sendall(one)
            time.sleep(pause_s)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def test_a_huge_declared_body_is_refused_before_it_is_sent(alive: Running) -> None:
    header = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000000\r\n"
    answer = raw(alive, header + b"Expect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in answer


def test_a_slow_body_is_answered_with_408(alive: Running) -> None:
    header = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    start = time.monotonic()
    answer = raw(alive, header, b"abc", pause_s=0.2)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"within 1.5 s" in answer
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("sent", [[], [b"POST /pre"], [b"GET /health HTTP/1.1\r\n"] + [b"A: b\r\n"] * 12])
def test_a_slow_header_ends_the_connection(alive: Running, sent: list[bytes]) -> None:
    start = time.monotonic()
    try:
        answer = raw(alive, *sent, pause_s=0.2)
    except (BrokenPipeError, ConnectionResetError):
        answer = b"HTTP/1.1 408"
    assert answer.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - start < 10


def test_slow_clients_do_not_hold_up_others(alive: Running) -> None:
    header = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    slow = [socket.create_connection(("127.0.0.1", alive.port)) for _ in range(100)]
    for connection in slow:
        connection.sendall(header + b"abc")
    start = time.monotonic()
    assert alive.post("/predict", png()).status == 200
    assert time.monotonic() - start < 1.4
    for connection in slow:
        connection.close()


def test_a_client_that_goes_away_harms_nobody(alive: Running) -> None:
    encoded = png()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", alive.port)) as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(encoded)}\r\n\r\n"
            connection.sendall(head.encode() + encoded)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", alive.port)) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")


def test_health_and_the_model_are_described(server: Running) -> None:
    assert server.ask("GET", "/health").json == {"live": True, "ready": True}
    assert server.ask("GET", "/health/ready").status == 200
    assert server.ask("GET", "/health/live").json == {"live": True}
    assert server.ask("GET", "/ping").status == 200
    model = server.ask("GET", "/model").json
    assert (model["format"], model["class_names"]) == ("ONNX", ["circle", "square", "star"])
    rule = "shortest edge to 40 px, longest at most 64 px"  # as `detexport inspect` prints it
    assert model["resize"] == {"min_size": 40, "max_size": 64, "rule": rule}
    assert server.ask("GET", "/openapi.json").json["paths"].keys() >= {"/predict", "/invocations", "/health"}


def test_the_metrics_count_what_was_answered(server: Running) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    def read() -> dict[tuple[str, ...], float]:
        text = server.ask("GET", "/metrics").body.decode()
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    before = read()
    for _ in range(3):
        server.post("/predict", png())
    server.post("/predict", b"x")
    server.ask("GET", f"/{SECRET}")
    after = read()

    def more(*key: str) -> float:
        return after[key] - before.get(key, 0.0)

    assert more("detexport_requests_total", "/predict", "200") == 3
    assert more("detexport_requests_total", "/predict", "400") == 1
    assert more("detexport_requests_total", "404", "other") == 1
    assert more("detexport_images_total") == 3
    assert more("detexport_request_seconds_count", "/predict") == 4
    assert after["detexport_queue_images",] == 0
    assert after["detexport_requests_in_flight",] == 1  # that of the metrics
    assert after["detexport_ready",] == 1
    assert not any(SECRET in label for labels in after for label in labels)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_model_is_served(tmp_path: Path, kind: str) -> None:
    write_tiny_onnx(tmp_path / "model", kind)
    with running(tmp_path / "model", "--threads", "1") as server:
        assert server.post("/predict", png()).json["predictions"] == [
            expected_row(tmp_path / "model", tiny_image())
        ]
        threshold = server.post("/predict?score_threshold=0.5", png())
        assert threshold.status == (200 if kind in ("instances", "keypoints", "panoptic") else 400)


def test_a_scripted_artifact_answers_concurrent_requests_in_batches(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_tiny_torchscript(folder)
    images = [tiny_image(30, 50, (200, 90 + index, 140)) for index in range(24)]
    with running(folder, "--threads", "1") as server:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda image: server.post("/predict", png(image)), images))
        metrics = server.ask("GET", "/metrics").body.decode()
    rows = [answer.json["predictions"][0] for answer in answers]
    for row, image in zip(rows, images, strict=True):
        wanted = expected_row(folder, image)
        assert row["class_names"] == wanted["class_names"]
        assert row["masks"] == wanted["masks"]
        np.testing.assert_allclose(row["boxes"], wanted["boxes"], atol=1e-4)
        np.testing.assert_allclose(row["scores"], wanted["scores"], atol=1e-6)
    name = "detexport_batch_images_count"
    calls = next(float(line.split()[1]) for line in metrics.splitlines() if line.startswith(name))
    assert calls < len(images)


def test_an_answer_does_not_wait_for_an_acknowledgement(server: Running) -> None:
    """With Nagle's algorithm most answers on a kept connection take 40 ms more."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        times.append(time.perf_counter() - start)
    connection.close()
    assert np.median(times) < 0.03


def test_a_full_queue_is_answered_with_429(tiny_onnx: Path) -> None:
    big = np.zeros((3, 4000, 4000), np.uint8)
    encoded = png(big)
    with running(tiny_onnx, "--max-queue", "2") as server:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: server.post("/predict", encoded), range(12)))
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {200, 429}
        refused = answers[statuses.index(429)]
        assert_refused(refused, 429, "the queue is full", "at most 2")
        assert refused.headers["retry-after"] == "1"
        assert server.post("/predict", png()).status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_after_the_accepted_requests(tiny_onnx: Path, number: int) -> None:
    encoded = png(np.zeros((3, 3000, 3000), np.uint8))
    with running(tiny_onnx) as server:
        answers: list[Answer] = []
        threads = [
            threading.Thread(target=lambda: answers.append(server.post("/predict", encoded)))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: b"in_flight 7" in server.ask("GET", "/metrics").body)
        code, errors = server.stop(number)
        for thread in threads:
            thread.join()
    assert [answer.status for answer in answers] == [200] * 6
    assert code == 0
    assert "Traceback" not in errors


def test_the_server_ends_with_the_error_of_an_artifact_that_cannot_be_loaded(tmp_path: Path) -> None:
    write_tiny_onnx(tmp_path / "model")
    (tmp_path / "model" / "model.onnx").write_bytes(b"broken")
    command = [sys.executable, "-m", "detexport.cli", "serve", str(tmp_path / "model"), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "is not the file that was exported" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_in_use_is_an_error_of_the_request(server: Running, tiny_onnx: Path) -> None:
    command = [sys.executable, "-m", "detexport.cli", "serve", str(tiny_onnx), "--port", str(server.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "cannot listen on 127.0.0.1" in done.stderr


def test_curl_posts_an_image_in_three_forms(server: Running, tiny_onnx: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(png())
    document = json.dumps({"inputs": {"image": [base64_of(png())]}})
    (tmp_path / "request.json").write_text(document)
    url = f"{server.url}/predict"
    for arguments in (
        ["--data-binary", f"@{photo}"],
        ["-F", f"image=@{photo}"],
        ["-H", "Content-Type: application/json", "--data-binary", f"@{tmp_path / 'request.json'}"],
    ):
        done = subprocess.run(["curl", "-sS", *arguments, url], capture_output=True, check=True)
        assert json.loads(done.stdout) == {"predictions": [expected_row(tiny_onnx, tiny_image())]}


def test_a_folder_is_served_without_mlflow_and_torch(tiny_onnx: Path) -> None:
    """What the ready server has imported: it is ready within seconds, as the base install with two extras."""
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('torch', 'mlflow', 'pandas', 'torchvision'))\n"
        "import os, threading\n"
        "from detexport.workflows.serve import serve\n"
        "def ready(serving):\n"
        "    print(serving.ready_s < 20, flush=True)\n"
        "    os.kill(os.getpid(), 15)\n"
        "serve(sys.argv[1], port=0, on_ready=ready)\n"
    )
    command = [sys.executable, "-c", code, str(tiny_onnx)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
