"""Comparisons with a champion, which runs in a process of its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from detexport.errors import ArtifactError, OutOfMemoryError, RuntimeUnavailableError
from detexport.registry.champions import Champion
from detexport.registry.settings import RegistrySettings
from detexport.retraining import champions
from detexport.retraining.champions import Comparison
from detexport.system.child_process import call_in_child

CHAMPION = Champion("m-onnx", "7", 0, "", (), None, "id")


def agree(*_: Any) -> tuple[str, ...]:
    """Return no difference, from a process of this one, as a validation does."""
    found: tuple[str, ...] = call_in_child(tuple, what="it")
    return found


def differ(*_: Any) -> tuple[str, ...]:
    return ("a box differs by 3 px",)


def crash(*_: Any) -> None:
    os.abort()


def refuse_to_open(*_: Any) -> None:
    raise ArtifactError("it was compiled by another version of torch")


def find_no_runtime(*_: Any) -> None:
    raise RuntimeUnavailableError("no such device")


def run_out_of_memory(*_: Any) -> None:
    raise OutOfMemoryError("there is not enough memory")


@pytest.fixture(autouse=True)
def _downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def artifact(*_: Any) -> Iterator[Path]:
        yield Path("champion")

    monkeypatch.setattr(champions, "champion_artifact", artifact)


def compare(monkeypatch: pytest.MonkeyPatch, differences: Any) -> Comparison:
    monkeypatch.setattr(champions, "_differences", differences)
    return champions._compare(Path("artifact"), CHAMPION, "onnx", RegistrySettings.of({}))


def test_differences_are_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare(monkeypatch, agree) == Comparison()
    assert compare(monkeypatch, differ) == Comparison(("a box differs by 3 px",))


@pytest.mark.parametrize(
    ("differences", "said"),
    [(crash, "SIGABRT"), (refuse_to_open, "another version of torch"), (find_no_runtime, "no such device")],
)
def test_a_champion_that_cannot_be_run_is_not_compared(
    differences: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compare(monkeypatch, differences)
    assert found.differences == ()
    assert said in found.not_compared


def test_a_lack_of_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutOfMemoryError):
        compare(monkeypatch, run_out_of_memory)
