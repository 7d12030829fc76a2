"""The queue and its workers, on real artifacts and without HTTP."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running_server import png

from detexport.artifact import Format
from detexport.errors import ArtifactError, DetexportError
from detexport.runtime import Session, default_engine
from detexport.serving.batching import Predictor, Task
from detexport.serving.limits import RequestError
from detexport.serving.statistics import Statistics
from tiny_artifacts import tiny_image, write_tiny_onnx


@contextmanager
def started(open_sessions: Callable[[], Sequence[Session]], **changes: Any) -> Iterator[Predictor]:
    loaded = threading.Event()
    options = {"queue_limit": 8, "batch_limit": 4, **changes}
    predictor = Predictor(
        open_sessions, statistics=Statistics(), sample=tiny_image(), on_ready=loaded.set, **options
    )
    predictor.start()
    assert loaded.wait(60)
    yield predictor
    predictor.close()


def task(image: np.ndarray | None = None, threshold: float = 0.0) -> Task:
    return Task(png(image), threshold, True, "the input")


def test_images_are_answered_with_the_time_of_each_step(tiny_onnx: Path) -> None:
    engine = default_engine(Format.ONNX)
    with started(lambda: [engine.open(tiny_onnx) for _ in range(2)]) as predictor:
        tasks = [task(tiny_image(30 + index, 50)) for index in range(8)]
        predictor.submit(tasks)
        answers = [one.answer.result(60) for one in tasks]
    assert [json.loads(answer.json)["height"] for answer in answers] == list(range(30, 38))
    assert all(answer.seconds.keys() == {"queue", "decode", "model", "encode"} for answer in answers)


def test_images_of_other_sizes_do_not_share_a_batch(tiny_scripting: Path) -> None:
    """An image's outputs do not depend on what else waits."""
    engine = default_engine(Format.TORCHSCRIPT)
    images = [tiny_image(40, 64), tiny_image(64, 40), tiny_image(40, 64), tiny_image(20, 20)]
    with started(lambda: [engine.open(tiny_scripting)]) as predictor:
        alone, together = [], [task(image) for image in images]
        for image in images:
            alone.append(task(image))
            predictor.submit(alone[-1:])
            alone[-1].answer.result(60)
        predictor.submit(together)
        for one, other in zip(alone, together, strict=True):
            assert json.loads(one.answer.result(60).json) == json.loads(other.answer.result(60).json)
        text = predictor._statistics.text().decode()
    assert 'detexport_batch_images_bucket{le="1.0"} ' in text


def test_a_bad_image_does_not_harm_the_others_of_its_batch(tiny_scripting: Path) -> None:
    engine = default_engine(Format.TORCHSCRIPT)
    with started(lambda: [engine.open(tiny_scripting)]) as predictor:
        good, bad = [task(), task()], Task(b"no image", 0.0, True, "row 1")
        predictor.submit([good[0], bad, good[1]])
        with pytest.raises(RequestError, match="row 1 is not an image"):
            bad.answer.result(60)
        assert good[0].answer.result(60).json == good[1].answer.result(60).json


def test_nothing_is_queued_if_not_all_of_it_fits(tiny_onnx: Path) -> None:
    engine = default_engine(Format.ONNX)
    with started(lambda: [engine.open(tiny_onnx)], queue_limit=3) as predictor:
        with pytest.raises(RequestError, match="the queue is full") as refused:
            predictor.submit([task() for _ in range(4)])
        assert refused.value.status == 429
        assert predictor.waiting == 0


def test_a_cancelled_task_is_not_run(tiny_onnx: Path) -> None:
    engine = default_engine(Format.ONNX)
    with started(lambda: [engine.open(tiny_onnx)]) as predictor:
        gone, other = task(), task()
        gone.answer.cancel()
        predictor.submit([gone, other])
        other.answer.result(60)
        assert predictor._statistics._images._value.get() == 1


def test_closing_runs_what_waits_and_refuses_what_comes(tiny_onnx: Path) -> None:
    engine = default_engine(Format.ONNX)
    with started(lambda: [engine.open(tiny_onnx)]) as predictor:
        tasks = [task() for _ in range(8)]
        predictor.submit(tasks)
        predictor.close()
        assert all(one.answer.done() for one in tasks)
        with pytest.raises(RequestError, match="shutting down") as refused:
            predictor.submit([task()])
    assert refused.value.status == 503


def test_a_model_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    write_tiny_onnx(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"")
    engine = default_engine(Format.ONNX)
    with started(lambda: [engine.open(tmp_path)]) as predictor:
        assert isinstance(predictor.error, ArtifactError)
        with pytest.raises(DetexportError, match="still loading"):
            predictor.submit([task()])


def test_an_image_of_a_size_that_the_graph_does_not_take_is_refused(tmp_path: Path) -> None:
    write_tiny_onnx(tmp_path, image_sides=(40, 64))
    engine = default_engine(Format.ONNX)
    with started(lambda: [engine.open(tmp_path)]) as predictor:
        long = task(tiny_image(10, 200))
        predictor.submit([long])
        with pytest.raises(RequestError, match="sides of 40 to 64 px") as refused:
            long.answer.result(60)
    assert refused.value.status == 400
