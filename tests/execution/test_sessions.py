"""An artifact that an engine's workers open: once a process, with its errors in full."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from detexport.errors import RuntimeUnavailableError
from detexport.execution.engine import Local
from detexport.execution.sessions import OneSession, UnopenedError, WorkerSessions
from detexport.runtime import Session
from detexport.runtime.onnxruntime import OnnxRuntime
from tiny_artifacts import tiny_image


@dataclass
class Counting:
    opened: int = 0

    def open(self, artifact_dir: Path, device: str = "cpu") -> Session:
        self.opened += 1
        return OnnxRuntime(threads=1).open(artifact_dir, device)


def scores(session: Session) -> Callable[[np.ndarray], list[float]]:
    return lambda image: session(image)["scores"].tolist()


IMAGES = [tiny_image(30, 50), tiny_image(20, 20)]


def test_sessions_of_workers_give_what_one_session_gives(tiny_onnx: Path) -> None:
    runtime = Counting()
    sessions = WorkerSessions(Local(), runtime, tiny_onnx)
    expected = list(OneSession(OnnxRuntime(threads=1).open(tiny_onnx)).map(scores, IMAGES))
    assert list(sessions.map(scores, IMAGES)) == list(sessions.map(scores, IMAGES)) == expected
    assert runtime.opened == 1
    assert sessions.artifact.sha256 == OneSession(runtime.open(tiny_onnx)).artifact.sha256


def test_what_is_not_asked_for_is_not_computed(tiny_onnx: Path) -> None:
    runtime = Counting()
    sessions = WorkerSessions(Local(), runtime, tiny_onnx)
    assert list(sessions.map(scores, [])) == []
    results = sessions.map(scores, [*IMAGES, "no image"])
    assert len([next(results), next(results)]) == 2
    with pytest.raises(Exception, match="str"):
        next(results)


def test_an_artifact_that_cannot_be_opened_is_named_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(UnopenedError, match=r"^cannot be opened: ArtifactError: .*artifact\.json"):
        list(WorkerSessions(Local(), OnnxRuntime(), tmp_path).map(scores, IMAGES))


def test_a_missing_device_is_not_the_artifacts_fault(tiny_onnx: Path) -> None:
    @dataclass(frozen=True)
    class Absent:
        def open(self, artifact_dir: Path, device: str = "cpu") -> Session:
            raise RuntimeUnavailableError("no device")

    with pytest.raises(RuntimeUnavailableError, match="no device"):
        list(WorkerSessions(Local(), Absent(), tiny_onnx).map(scores, IMAGES))


def test_a_runtime_on_a_gpu_asks_for_one(tiny_onnx: Path) -> None:
    @dataclass(frozen=True)
    class OnGpu(OnnxRuntime):
        device: str = "cuda:0"

    asked = []

    class Noting(Local):
        def map(self, start, items, *, gpus=0):  # type: ignore[no-untyped-def]
            asked.append(gpus)
            return super().map(start, items, gpus=gpus)

    for runtime in (OnnxRuntime(), OnGpu()):
        list(WorkerSessions(Noting(), runtime, tiny_onnx).map(scores, []))
    assert asked == [0, 1]
