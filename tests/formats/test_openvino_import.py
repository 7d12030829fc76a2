"""The telemetry of OpenVINO and NNCF is hidden while they are imported, and at no other time."""

import importlib
import sys
from types import ModuleType

import pytest

from detexport.formats.openvino_import import REPORTER, no_telemetry


@pytest.fixture(autouse=True)
def _not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, REPORTER, raising=False)


def test_the_package_cannot_be_imported_in_the_block() -> None:
    with no_telemetry(), pytest.raises(ModuleNotFoundError, match=REPORTER):
        importlib.import_module(REPORTER)


def test_the_package_is_as_before_after_the_block() -> None:
    with no_telemetry():
        pass
    assert REPORTER not in sys.modules


def test_an_error_in_the_block_hides_nothing_for_longer() -> None:
    with pytest.raises(ImportError, match="no such library"), no_telemetry():
        raise ImportError("no such library")
    assert REPORTER not in sys.modules


def test_a_package_that_the_process_has_imported_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = ModuleType(REPORTER)
    monkeypatch.setitem(sys.modules, REPORTER, imported)
    with no_telemetry():
        assert importlib.import_module(REPORTER) is imported
    assert sys.modules[REPORTER] is imported


def test_blocks_nest() -> None:
    """The conversion to int8 imports that to OpenVINO, each in a block."""
    with no_telemetry():
        with no_telemetry():
            pass
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(REPORTER)
    assert REPORTER not in sys.modules
