"""The server of a schedule; tests/retraining/test_schedule.py starts a real one."""

import socket
from importlib.util import find_spec

import pytest

from detexport.errors import MissingPackageError, RuntimeUnavailableError
from detexport.retraining.prefect_server import check_port, prefect_server


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(RuntimeUnavailableError, match=f"the port {port} cannot be used"):
            check_port(port)
    check_port(port)


@pytest.mark.skipif(find_spec("prefect") is not None, reason="Prefect is installed")
def test_without_prefect_the_error_names_the_extra() -> None:
    with pytest.raises(MissingPackageError, match="prefect"), prefect_server(4200):
        raise AssertionError


@pytest.mark.skipif(find_spec("prefect") is None, reason="Prefect is not installed")
def test_the_server_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example.com/api")
    with prefect_server(4200) as address:
        assert address == "https://prefect.example.com/api"
