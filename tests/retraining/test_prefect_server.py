"""The server of a schedule; tests/retraining/test_schedule.py starts a real one."""

from importlib.util import find_spec

import pytest

from detexport.errors import MissingPackageError
from detexport.retraining.prefect_server import prefect_server


@pytest.mark.skipif(find_spec("prefect") is not None, reason="Prefect is installed")
def test_without_prefect_the_error_names_the_extra() -> None:
    with pytest.raises(MissingPackageError, match="prefect"), prefect_server(4200):
        raise AssertionError


@pytest.mark.skipif(find_spec("prefect") is None, reason="Prefect is not installed")
def test_the_server_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example.com/api")
    with prefect_server(4200) as address:
        assert address == "https://prefect.example.com/api"
