"""Actors of Ray Data: each item has one result, also if an actor is killed; errors are raised as they are."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from detexport.errors import DataError, RuntimeUnavailableError
from small_ray import OPTIONS, small_ray

try:
    from ray import cloudpickle

    from detexport.execution.ray_data import RayData
    from detexport.execution.ray_engine import Ray, WorkerError
except ModuleNotFoundError as error:
    pytest.skip(str(error), allow_module_level=True)

cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def engine() -> Iterator[RayData]:
    with small_ray() as engine:
        yield RayData(engine)


def killed_once(folder: Path) -> Callable[[int], int]:
    def call(number: int) -> int:
        with (folder / f"{number}").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if number == 5 and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    return call


def test_a_killed_actor_loses_and_doubles_nothing(engine: RayData, tmp_path: Path) -> None:
    results = list(engine.map(partial(killed_once, tmp_path), range(12)))
    assert results == [number * number for number in range(12)]
    assert len((tmp_path / "5").read_text().split()) == 2
    assert list(engine.map(partial(killed_once, tmp_path), [])) == []


def suicidal() -> Callable[[int], Any]:
    return lambda number: os.kill(os.getpid(), signal.SIGKILL)


def test_an_item_that_kills_each_actor_is_an_error(engine: RayData) -> None:
    impatient = RayData(Ray(**OPTIONS, retries=1))
    with pytest.raises(WorkerError, match="a Ray worker was killed at every try"):
        list(impatient.map(suicidal, [1]))


def test_actors_that_no_machine_has_room_for_are_an_error(
    engine: RayData, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeUnavailableError, match="expected: a machine with 1 CPUs and 1 GPUs"):
        list(engine.map(refuses, [1], gpus=1))
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    with pytest.raises(RuntimeUnavailableError, match="got: 2 CPUs and 0 GPUs; expected: a machine with 64"):
        list(engine.map(refuses, [1]))


def refuses() -> Callable[[int], int]:
    raise DataError("no model", got=3)


def test_an_error_of_the_start_is_raised_as_it_is(engine: RayData) -> None:
    with pytest.raises(DataError, match="no model; got: 3"):
        list(engine.map(refuses, [1, 2]))
