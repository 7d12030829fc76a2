"""Register and promote against a real MLflow server: side by side, killed, with webhooks."""

import base64
import hashlib
import hmac
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlflow
import pytest
from cryptography.fernet import Fernet
from servers import (
    PASSWORD,
    USER,
    MlflowServer,
    clean_environment,
    find_postgres,
    free_port,
    postgres,
    running,
)
from toy_project import write_project, write_version
from working import promote_by_hand, promote_version, register, roll_back, start

STAGES = Path(__file__).parents[2] / "stages"
NAME = "toy-onnx"
REGISTER = (
    *("--models-dir", "outputs/models", "--data-statistics", "outputs/data_statistics.json"),
    *("--digests-dir", "outputs/digests", "--receipts"),
)
SECRET = "shared with the receiver"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    root.mkdir()
    write_project(root)
    return root


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server with an SQLite store, whose webhooks may go to the loopback interface."""
    variables = {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",  # in seconds; until then a server does not know a new webhook
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
    }
    with running(MlflowServer(tmp_path_factory.mktemp("server"), variables=variables)) as started:
        yield started


def client(uri: str) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(uri)


def aliases(uri: str) -> dict[str, int]:
    return {name: int(version) for name, version in client(uri).get_registered_model(NAME).aliases.items()}


def contents(uri: str) -> Counter[str]:
    """Number of versions of each content."""
    found = client(uri).search_model_versions(f"name = '{NAME}'")
    return Counter(version.tags["detexport.content_sha256"] for version in found)


def decisions(uri: str) -> Counter[str]:
    """Number of runs of each decision."""
    experiment = client(uri).get_experiment_by_name("detexport-promotions")
    runs = client(uri).search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} <= {"FINISHED", "RUNNING"}
    return Counter(run.data.tags["promotion.key"] for run in runs)


def finish(*processes: Any) -> None:
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


def register_versions(root: Path, uri: str, *numbers: int) -> None:
    for number in numbers:
        write_version(root, number)
        finish(start(register, root, uri))


def test_processes_at_the_same_time_have_one_outcome(root: Path, server: MlflowServer) -> None:
    uri = server.address
    register_versions(root, uri, 1)
    finish(*(start(promote_version, uri, NAME, "1") for _ in range(2)))
    assert aliases(uri) == {"challenger": 1, "champion": 1}
    register_versions(root, uri, 2, 3)
    finish(*(start(promote_version, uri, NAME, version) for version in "23"))
    assert aliases(uri) == {"challenger": 3, "champion": 3}
    # A rollback beside a promotion: whichever is first, a newer version that was promoted stays.
    register_versions(root, uri, 4)
    finish(start(roll_back, uri, NAME), start(promote_version, uri, NAME, "4"))
    assert aliases(uri)["champion"] in (3, 4)
    # Registrations of the same content.
    write_version(root, 5)
    finish(*(start(register, root, uri) for _ in range(2)))
    assert set(contents(uri).values()) == {1}
    assert set(decisions(uri).values()) == {1}


def test_other_systems_hear_of_a_promotion(root: Path, server: MlflowServer) -> None:
    received: list[tuple[dict[str, str], bytes]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((dict(self.headers), body))
            self.send_response(200)
            self.end_headers()

    listener = ThreadingHTTPServer(("127.0.0.1", free_port()), Receiver)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{listener.server_port}/moved"
    hook = client(server.address).create_webhook(
        "champion", address, ["model_version_alias.created"], secret=SECRET
    )
    try:
        register_versions(root, server.address, 100)
        newest = str(aliases(server.address)["challenger"])
        finish(start(promote_version, server.address, NAME, newest))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not any(b'"champion"' in body for _, body in received):
            time.sleep(0.1)
    finally:
        client(server.address).delete_webhook(hook.webhook_id)
        listener.shutdown()
    headers, body = next((headers, body) for headers, body in received if b'"champion"' in body)
    data = json.loads(body)["data"]
    assert (data["name"], data["alias"]) == (NAME, "champion")
    assert int(data["version"]) == aliases(server.address)["champion"]
    signed = f"{headers['X-MLflow-Delivery-Id']}.{headers['X-MLflow-Timestamp']}.{body.decode()}".encode()
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    assert headers["X-MLflow-Signature"] == f"v1,{base64.b64encode(digest).decode()}"


class Kills:
    """Start processes, and kill them or their server at a random moment of their work."""

    def __init__(self, server: MlflowServer) -> None:
        self.server = server
        self.random = random.Random(0)
        self.seen = Counter[str]()

    @property
    def at_work(self) -> int:
        """Number of kills that interrupted something."""
        return sum(number for what, number in self.seen.items() if what.endswith("at work"))

    def kill(self, side: str, duration_s: float, work: Any, *arguments: Any) -> float:
        """Kill within ``duration_s``; return it, or what the work took if it ended before."""
        began = time.monotonic()
        process = start(work, *arguments)
        process.join(self.random.uniform(0.05, 0.95) * duration_s)
        if not process.is_alive():
            duration_s = time.monotonic() - began
        self.seen[f"{side}, {'at work' if process.is_alive() else 'idle'}"] += 1
        if side == "client":
            process.kill()
            process.join()
        else:
            self.server.kill()
            self.server.start()
            process.join(120)
            assert process.exitcode in (0, 1)
        return duration_s


def check_kills(root: Path, server: MlflowServer, uri: str, *, promoting: str, registering: str) -> None:
    """Kill clients and the server while versions are promoted and registered; complete the work, and look.

    Args:
        promoting: for each kill ``c`` (the client) or ``s`` (its server), while ``champion`` moves from one
            of two versions to the other.
        registering: the same, while one version is registered.
    """
    sides, kills = {"c": "client", "s": "server"}, Kills(server)
    register_versions(root, uri, 1, 2)
    finish(start(promote_version, uri, NAME, "1"))
    began = time.monotonic()
    finish(start(promote_version, uri, NAME, "2"))
    duration_s = time.monotonic() - began
    for index, side in enumerate(promoting):
        new = 3 - aliases(uri)["champion"]
        duration_s = kills.kill(sides[side], duration_s, promote_by_hand, uri, NAME, str(new))
        assert aliases(uri)["champion"] in (1, 2)
        if index % 5 == 4:
            finish(start(promote_by_hand, uri, NAME, str(new)))
            assert aliases(uri) == {"challenger": 2, "champion": new}
            assert set(decisions(uri).values()) == {1}
    write_version(root, 3)
    for side in registering:
        kills.kill(sides[side], 5 * duration_s, register, root, uri)
        assert set(contents(uri).values()) == {1}
    finish(start(register, root, uri))
    newest = aliases(uri)["challenger"]
    finish(start(promote_version, uri, NAME, str(newest)))
    assert aliases(uri)["champion"] == newest
    assert (len(contents(uri)), set(contents(uri).values())) == (3, {1})
    assert set(decisions(uri).values()) == {1}
    print(f"killed: {dict(kills.seen)}")
    assert kills.at_work >= len(promoting) * 0.6
    mlflow.set_tracking_uri(uri)
    assert mlflow.pyfunc.load_model(f"models:/{NAME}@champion").metadata.signature


@pytest.mark.slow
def test_kills_leave_the_old_champion_or_the_new(root: Path, tmp_path: Path) -> None:
    with running(MlflowServer(tmp_path / "server")) as server:
        check_kills(root, server, server.address, promoting="ccscc", registering="c")


def check_stages(root: Path, uri: str) -> None:
    """Run the stages register and promote as DVC does; what they write names no password."""
    receipts, promoted = "outputs/registered.json", "outputs/promoted.json"
    for stage in (
        ["register.py", *REGISTER, receipts],
        ["promote.py", "--registered", receipts, "--save-to", promoted],
    ) * 2:
        done = subprocess.run(
            [sys.executable, STAGES / stage[0], *stage[1:]],
            cwd=root,
            env=clean_environment(MLFLOW_TRACKING_URI=uri),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        written = (root / stage[-1]).read_text()
        assert quote(PASSWORD, safe="") not in written + done.stdout + done.stderr
    (decision,) = json.loads((root / promoted).read_text())["decisions"]
    assert (decision["decision"], decision["champion_after"]) == ("promoted", "1")
    client(uri).delete_registered_model(NAME)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_of_clients_and_of_a_server_with_postgresql_and_a_login(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = find_postgres()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    pytest.importorskip("flask_wtf", reason="mlflow's login needs Flask-WTF: pip install flask-wtf")
    # By default each of the hundreds of requests of a registration hashes the password.
    (tmp_path / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\nauth_cache_ttl_seconds = 60\n"
        f"database_uri = sqlite:///{tmp_path}/auth.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    with postgres(programs) as database:
        server = MlflowServer(
            tmp_path / "server",
            backend=database,
            options=("--app-name", "basic-auth"),
            variables={
                "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
                "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test",
            },
        )
        with running(server):
            with pytest.raises(mlflow.MlflowException, match="not authenticated"):
                client(server.address).search_registered_models()
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
            login = f"{USER}:{quote(PASSWORD, safe='')}"
            uri = server.address.replace("http://", f"http://{login}@")
            check_stages(root, uri)
            check_kills(root, server, uri, promoting="cccsc" * 8, registering="cccsc")
