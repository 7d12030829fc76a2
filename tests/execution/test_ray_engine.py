"""Ray as an engine: the same results as in this process, also if a worker is killed in the middle."""

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detexport.errors import ConfigError, DataError, RuntimeUnavailableError
from detexport.execution.engine import Command, Local, Resources
from detexport.parity.noise_floor import NoiseFloor
from detexport.processing.postprocess import postprocess
from detexport.reference.store import SampleMeta, write_reference
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.system.files import write_json
from detexport.workflows.reference_validation import ReportFiles
from detexport.workflows.validate_job import validate_job
from small_ray import OPTIONS, small_ray
from tiny_artifacts import tiny_image

try:
    from ray import cloudpickle

    from detexport.execution import ray_engine
    from detexport.execution.ray_engine import CLUSTER, Ray, WorkerError
except ModuleNotFoundError as error:
    pytest.skip(str(error), allow_module_level=True)


CONF = Path(__file__).parents[2] / "conf"
# A worker cannot import a test.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def engine() -> Iterator[Ray]:
    with small_ray(shard_items=3) as engine:
        yield engine


def squares() -> Callable[[int], tuple[int, int]]:
    return lambda number: (number * number, os.getpid())


def test_results_come_in_the_order_of_the_items_from_other_processes(engine: Ray) -> None:
    results = list(engine.map(squares, range(20)))
    assert [square for square, _ in results] == [square for square, _ in Local().map(squares, range(20))]
    assert os.getpid() not in {pid for _, pid in results}


def test_no_items_need_no_worker(engine: Ray) -> None:
    assert list(engine.map(squares, [])) == []


class OutOfPaperError(Exception):
    def __init__(self, sheets: int, what: str) -> None:
        super().__init__(f"{sheets} {what}")


def raising(kind: str) -> Callable[[int], int]:
    def call(number: int) -> int:
        if number == 5:
            raise {
                "own": DataError("no image", got=number, remedy="give one"),
                "plain": ValueError("seven"),
                "unpicklable": OutOfPaperError(3, "sheets"),
            }[kind]
        return number

    return call


@pytest.mark.parametrize(
    ("kind", "type_", "message"),
    [
        ("own", DataError, "no image; got: 5; remedy: give one"),
        ("plain", ValueError, "seven"),
        ("unpicklable", RuntimeError, "OutOfPaperError: 3 sheets"),
    ],
)
def test_an_error_is_raised_after_the_results_before_it(
    engine: Ray, kind: str, type_: type[Exception], message: str
) -> None:
    found = []
    results = engine.map(partial(raising, kind), range(20))
    with pytest.raises(type_) as raised:
        found.extend(results)
    assert (str(raised.value), found) == (message, [0, 1, 2, 3, 4])


def noted(folder: Path) -> Callable[[int], int]:
    """Write the worker's process id for each item; wait in item 7 until it is killed once."""

    def call(number: int) -> int:
        with (folder / f"{number}").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if number == 7 and not (folder / "killed").exists():
            (folder / "in_the_middle").touch()
            time.sleep(120)
        return number

    return call


def kill_worker(folder: Path) -> None:
    until = time.monotonic() + 100
    while not (folder / "in_the_middle").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    (folder / "killed").touch()
    os.kill(int((folder / "7").read_text().split()[-1]), signal.SIGKILL)


def test_a_killed_worker_loses_and_doubles_nothing(engine: Ray, tmp_path: Path) -> None:
    from threading import Thread

    killer = Thread(target=kill_worker, args=(tmp_path,))
    killer.start()
    results = list(engine.map(partial(noted, tmp_path), range(20)))
    killer.join()
    assert results == list(range(20))
    pids = (tmp_path / "7").read_text().split()
    assert len(set(pids)) == 2, "the item was run again, by another worker"


def suicidal() -> Callable[[int], Any]:
    return lambda number: os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_kills_each_worker_is_an_error(engine: Ray) -> None:
    impatient = Ray(**OPTIONS, retries=0)
    with pytest.raises(WorkerError, match="a Ray worker was killed at every try of its task"):
        list(impatient.map(suicidal, [1]))


def command(folder: Path, code: str, *arguments: str) -> Command:
    (folder / "program.py").write_text(code)
    return Command(("program.py", *arguments), folder, folder / "log", {"COLOUR": "red"}, 60)


def test_a_command_runs_in_its_folder_and_can_find_the_cluster(engine: Ray, tmp_path: Path) -> None:
    code = "import os; print(os.getcwd(), os.environ['COLOUR'], ':' in os.environ[CLUSTER]); exit(4)"
    code = f"CLUSTER = {CLUSTER!r}; {code}"
    ended = engine.run(command(tmp_path, code), Resources())
    assert (ended.code, ended.late) == (4, False)
    assert ended.peak_bytes > 1e6
    assert (tmp_path / "log").read_text().split() == [str(tmp_path), "red", "True"]


WAITS_ONCE = """
import os, pathlib, time
with open("pids", "a") as file:
    print(os.getpid(), os.getppid(), file=file)
if not pathlib.Path("again").exists():
    time.sleep(120)
pathlib.Path("result").write_text("done")
"""


def test_a_command_of_a_killed_worker_ends_and_is_run_again(engine: Ray, tmp_path: Path) -> None:
    from threading import Thread

    ended = []
    runner = Thread(target=lambda: ended.append(engine.run(command(tmp_path, WAITS_ONCE), Resources())))
    runner.start()
    until = time.monotonic() + 100
    while not (tmp_path / "pids").exists() or len((tmp_path / "pids").read_text().split()) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    first, worker = map(int, (tmp_path / "pids").read_text().split())
    (tmp_path / "again").touch()
    os.kill(worker, signal.SIGKILL)
    runner.join(120)
    assert [one.code for one in ended] == [0]
    assert (tmp_path / "result").read_text() == "done"
    assert len((tmp_path / "pids").read_text().splitlines()) == 2
    state = Path(f"/proc/{first}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z", "it ended with its worker"


def report_files(folder: Path, engine: Any, artifact: Path, reference: Path, **options: Any) -> list[bytes]:
    """The files of a validation on an engine: the report, the drawn outputs, the certificate."""
    parity = yaml.safe_load((CONF / "parity" / "default.yaml").read_text())
    files = ReportFiles(folder / "report.json", folder / "drawn.npz", folder / "certificate.json")
    write_json(folder / "noise_floor.json", NoiseFloor(samples=(), environment={}, variants={}).to_json())
    validate_job(
        "tiny-onnx",
        artifact,
        options.get("runtime", OnnxRuntime(threads=1)),
        reference,
        folder / "noise_floor.json",
        folder,
        files,
        {"artifact": "onnx", "runtime": {}},
        parity,
        execution=engine,
    )
    return [path.read_bytes() for path in (files.report, files.drawn, files.certificate)]


@pytest.fixture
def reference(tiny_onnx: Path, tmp_path: Path) -> Path:
    """The outputs on 30 images, every third shifted so that it does not pass, some on the same image."""
    session = OnnxRuntime(threads=1).open(tiny_onnx)
    contract = session.artifact.contract

    def samples() -> Iterator[tuple[SampleMeta, np.ndarray, dict[str, np.ndarray]]]:
        for index in range(30):
            image = tiny_image(30 + index % 7, 50, (100 + 5 * index, 90, 140))
            size = image.shape[1:]
            expected = postprocess(session(image), size, size, contract)
            expected["pred_boxes"] += np.float32(index % 3 and 0.01 * (index % 11))
            yield SampleMeta(f"{index:04d}", index // 2, f"{index}.png", size, size, 1.0), image, expected

    folder = tmp_path / "reference"
    write_reference(folder, samples(), contract=contract, environment={})
    return folder


def test_a_validation_writes_the_same_files_as_in_this_process(
    engine: Ray, tiny_onnx: Path, reference: Path, tmp_path: Path
) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "ray").mkdir()
    local = report_files(tmp_path / "local", Local(), tiny_onnx, reference)
    assert report_files(tmp_path / "ray", engine, tiny_onnx, reference) == local
    report = json.loads(local[0])
    assert not report["passed"]
    assert len(report["samples"]) == 30
    assert report["worst"]


@dataclass(frozen=True)
class KilledOnce:
    """A runtime whose process is killed once, in the middle of a shard."""

    folder: Path

    def open(self, artifact_dir: Path, device: str = "cpu") -> Any:
        return KilledSession(OnnxRuntime(threads=1).open(artifact_dir, device), self.folder)


@dataclass
class KilledSession:
    session: Any
    folder: Path
    calls: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def __call__(self, image: np.ndarray, size: tuple[int, int]) -> Any:
        self.calls += 1
        if self.calls == 2 and not (self.folder / "killed").exists():
            (self.folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.session(image, size)


def test_a_validation_whose_worker_is_killed_writes_the_same_files(
    engine: Ray, tiny_onnx: Path, reference: Path, tmp_path: Path
) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "ray").mkdir()
    local = report_files(tmp_path / "local", Local(), tiny_onnx, reference)
    killed = report_files(
        tmp_path / "ray", engine, tiny_onnx, reference, runtime=KilledOnce(tmp_path / "ray")
    )
    assert (tmp_path / "ray/killed").exists()
    assert killed == local


def test_an_artifact_that_cannot_be_opened_does_not_pass(
    engine: Ray, tiny_onnx: Path, reference: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_onnx, broken)
    (broken / "model.onnx").write_bytes(b"no model")
    (tmp_path / "local").mkdir()
    (tmp_path / "ray").mkdir()
    local = report_files(tmp_path / "local", Local(), broken, reference)
    assert report_files(tmp_path / "ray", engine, broken, reference) == local
    assert "cannot be opened" in local[0].decode()


def test_what_no_machine_has_is_an_error(
    engine: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = Resources(gpus=1, alone=True)
    with pytest.raises(RuntimeUnavailableError, match="got: 2 CPUs and 0 GPUs; expected: a machine with 1"):
        engine.run(command(tmp_path, ""), on_gpu)
    with pytest.raises(RuntimeUnavailableError, match="1 CPUs and 1 GPUs"):
        list(engine.map(squares, [1], gpus=1))
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    with pytest.raises(RuntimeUnavailableError, match="OMP_NUM_THREADS to fewer threads"):
        list(engine.map(squares, [1]))


@pytest.mark.parametrize("value", ["0", "4,2"])
def test_a_number_of_threads_that_cannot_be_used_is_named(
    engine: Ray, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    with pytest.raises(ConfigError, match=f"OMP_NUM_THREADS cannot be used; got: {value}"):
        list(engine.map(squares, [1]))


def test_a_machine_without_the_project_is_named(engine: Ray, tmp_path: Path) -> None:
    gone = command(tmp_path, "")
    with pytest.raises(ConfigError, match=f"does not have the project; got: {tmp_path}/gone"):
        engine.run(replace(gone, folder=tmp_path / "gone"), Resources())


class Unpickled:
    """Becomes, where it is unpickled, the number of threads that a runtime would count there."""

    def __reduce__(self) -> Any:
        return os.getenv, ("OMP_NUM_THREADS",)


def test_what_an_item_imports_finds_the_number_of_threads(
    engine: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert list(engine.map(lambda: str, [Unpickled()])) == ["2"]


def test_a_command_that_is_alone_waits_for_one_that_occupies_no_cpu(engine: Ray, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, time; path = pathlib.Path('waits'); path.touch(); time.sleep(3); path.unlink()"
    )
    waiting = replace(command(tmp_path, ""), arguments=("-c", code))
    measuring = replace(waiting, arguments=("-c", "import os; exit(os.path.exists('waits'))"))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(engine.run, waiting, Resources(cpus=0))
        while not (tmp_path / "waits").exists():
            assert not first.done()
        assert engine.run(measuring, Resources(alone=True)).code == 0
        assert first.result().code == 0


def test_an_option_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"engine\.shard_items is out of range; got: 0; expected: 1"):
        Ray(shard_items=0)


def test_a_cluster_that_is_not_there_is_named(engine: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.stop()
    try:
        with pytest.raises(ConfigError, match="the Ray cluster cannot be reached; got: 127"):
            Ray(address="127.0.0.1:9").connect()
        monkeypatch.setattr(ray_engine, "CONNECT_S", 1.0)
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            with pytest.raises(ConfigError, match=f"the Ray cluster cannot be reached; got: {address}"):
                Ray(address=address).connect()
    finally:
        engine.connect()
