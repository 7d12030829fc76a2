"""Real servers on the loopback interface: MLflow's, with an SQLite or a PostgreSQL store, and PostgreSQL."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import requests

POSTGRES = Path("/usr/lib/postgresql")
USER, PASSWORD = "admin", "a password: with @ /"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def clean_environment(**variables: str) -> dict[str, str]:
    clean = {
        k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME")
    }
    return clean | variables


@dataclass
class MlflowServer:
    """An MLflow server that can be killed and started again on the same port.

    Args:
        folder: for its database, if it is SQLite, its artifacts and its log.
        backend: URI of the backend store.
        options: more options of ``mlflow server``.
        variables: more variables of its environment.
    """

    folder: Path
    backend: str = ""
    options: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        backend = self.backend or f"sqlite:///{self.folder}/db.sqlite"
        options = ["--backend-store-uri", backend, "--artifacts-destination", str(self.folder / "artifacts")]
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options, *address, *self.options],
                cwd=self.folder,
                env=clean_environment(
                    MLFLOW_DISABLE_TELEMETRY="true",
                    MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
                    **self.variables,
                ),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(1200):
            with suppress(requests.RequestException):
                if requests.get(f"{self.address}/health", timeout=5).ok:
                    return
            assert self.process.poll() is None, (self.folder / "log.txt").read_text()[-2000:]
            time.sleep(0.1)
        raise AssertionError("the server does not answer")

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> None:
        assert self.process
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, sign)
        self.process.wait()

    def kill(self) -> None:
        self.stop(signal.SIGKILL)


@contextmanager
def running(server: MlflowServer) -> Iterator[MlflowServer]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


def find_postgres() -> Path | None:
    """The folder of PostgreSQL's programs, if it is installed."""
    found = sorted(POSTGRES.glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """A PostgreSQL server with an empty database; yield its URI. It refuses to run as root."""
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    user = None
    if os.geteuid() == 0:
        user = "postgres"
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    port = free_port()
    (folder / "password").write_text("secret")
    os.chmod(folder / "password", 0o644)

    def call(program: str, *arguments: str) -> None:
        subprocess.run(
            [programs / program, *arguments], cwd=folder, user=user, check=True, stdout=subprocess.DEVNULL
        )

    login = ["--username=mlflow", f"--pwfile={folder}/password", "--auth=scram-sha-256"]
    call("initdb", "-D", f"{folder}/data", "--no-sync", *login)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
    call("pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
    try:
        yield f"postgresql+psycopg2://mlflow:secret@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
        shutil.rmtree(folder)
