"""Run the images of concurrent requests: a bounded queue, worker threads, batches where they fit."""

import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from PIL import UnidentifiedImageError

from detexport.data.images import decode_image
from detexport.data.resize import resize_image, resized_size
from detexport.errors import ArtifactError, DataError, ImageSizeError, memory_guard
from detexport.predictions.predict_images import finish, resize, to_plain
from detexport.runtime.session import BatchSession, Session, check_image
from detexport.serving.limits import RequestError
from detexport.serving.statistics import Statistics

WARM_UP_RUNS = 2
"""TorchScript records a graph in the first run, and compiles it in the second."""


@dataclass(frozen=True)
class Answer:
    """The outputs for one image, and the time that they took.

    Args:
        json: the outputs, named as by ``detexport.predictions.predict_images.to_plain``, and ``height``,
            ``width``.
        seconds: time by step: ``queue``, ``decode``, ``model`` (its share of a batch), ``encode``.
    """

    json: str
    seconds: dict[str, float]


@dataclass(eq=False)
class Task:
    """An image that waits for the model.

    Args:
        encoded: the bytes of the image file.
        score_threshold: instances with a greater score are returned.
        masks: False leaves out the masks of instances.
        name: what messages call it.
    """

    encoded: bytes
    score_threshold: float
    masks: bool
    name: str
    answer: "Future[Answer]" = field(default_factory=Future)
    arrived: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class _Prepared:
    """A task with its decoded and resized image."""

    task: Task
    image: np.ndarray
    resized: np.ndarray


class Predictor:
    """Worker threads that run images in the order of their arrival.

    An artifact with any batch size runs the images that wait together, if they have one size after the resize
    rule: padding would change the outputs of an image by the size of its neighbours. It never waits for more
    images. Any other artifact runs one image at a time in each worker.

    Args:
        open_sessions: returns the workers' sessions, one each: some runtimes run one call at a time. It is
            called in a thread of its own.
        queue_limit: most images that wait.
        batch_limit: most images of a batch.
        statistics: counts images and measures their steps.
        sample: image (3, H, W) uint8 that each session runs before it counts as ready.
        on_ready: called when the sessions are ready, or after ``error`` was set.
    """

    def __init__(
        self,
        open_sessions: Callable[[], Sequence[Session]],
        *,
        queue_limit: int,
        batch_limit: int,
        statistics: Statistics,
        sample: np.ndarray,
        on_ready: Callable[[], None],
    ) -> None:
        self._open_sessions, self._sample, self._on_ready = open_sessions, sample, on_ready
        self._queue_limit, self._batch_limit = queue_limit, batch_limit
        self._statistics = statistics
        self._waiting: deque[Task] = deque()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self.sessions: tuple[Session, ...] = ()
        self.error: BaseException | None = None

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and accepts images."""
        return bool(self.sessions) and not self._closed

    @property
    def waiting(self) -> int:
        """Number of images that wait."""
        return len(self._waiting)

    def start(self) -> None:
        """Load the model in a thread; ``ready`` is set afterwards."""
        threading.Thread(target=self._load, name="load", daemon=True).start()

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue all tasks, or none.

        Raises:
            RequestError: the model is not ready, or the queue has no room for them.
        """
        with self._changed:
            if not self.ready:
                state = "is shutting down" if self._closed else "is still loading the model"
                raise RequestError(503, f"the server {state}", remedy="send the request again later")
            if len(self._waiting) + len(tasks) > self._queue_limit:
                raise RequestError(
                    429,
                    "the queue is full",
                    got=f"{len(self._waiting)} images that wait, {len(tasks)} more",
                    expected=f"at most {self._queue_limit}",
                    remedy="send the request again later",
                )
            self._waiting.extend(tasks)
            self._changed.notify(len(tasks))

    def close(self) -> None:
        """Run the tasks that wait, then end the workers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _load(self) -> None:
        try:
            sessions = tuple(self._open_sessions())
            for session in sessions:
                _warm_up(session, self._sample)
        except BaseException as error:  # the server ends with it
            self.error = error
        else:
            self.sessions = sessions
            for index, session in enumerate(sessions):
                thread = threading.Thread(
                    target=self._work, args=(session,), name=f"model-{index}", daemon=True
                )
                thread.start()
                self._threads.append(thread)
        self._on_ready()

    def _work(self, session: Session) -> None:
        while tasks := self._take(session):
            self._run(tasks, session)

    def _take(self, session: Session) -> list[Task]:
        """Wait for tasks and return those of the next batch; none at the end."""
        most = self._batch_limit if session.artifact.batch == "any" else 1
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return []
                self._changed.wait()
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        # A client that has gone has cancelled its tasks.
        return [task for task in taken if task.answer.set_running_or_notify_cancel()] or self._take(session)

    def _run(self, tasks: Iterable[Task], session: Session) -> None:
        """Answer every task, with its outputs or an error."""
        groups: dict[tuple[int, ...], list[_Prepared]] = defaultdict(list)
        for task in tasks:
            start = time.perf_counter()
            task.seconds["queue"] = start - task.arrived
            try:
                prepared = _prepare(task, session)
            except BaseException as error:
                task.answer.set_exception(error)
            else:
                task.seconds["decode"] = time.perf_counter() - start
                groups[prepared.resized.shape].append(prepared)
        for group in groups.values():
            self._run_group(group, session)

    def _run_group(self, group: list[_Prepared], session: Session) -> None:
        start = time.perf_counter()
        try:
            found = _run_graph(group, session)
        except BaseException as error:
            for one in group:
                one.task.answer.set_exception(error)
            return
        model_s = (time.perf_counter() - start) / len(group)
        self._statistics.observe_batch(len(group))
        for one, outputs in zip(group, found, strict=True):
            one.task.seconds["model"] = model_s
            self._encode(one, outputs, session)

    def _encode(self, one: _Prepared, outputs: dict[str, np.ndarray], session: Session) -> None:
        start, task, contract = time.perf_counter(), one.task, session.artifact.contract
        try:
            with memory_guard(one.image.shape):
                fields = finish(
                    outputs, one.resized, one.image, contract, task.score_threshold, masks=task.masks
                )
                row = to_plain(fields, contract, masks=task.masks)
                height, width = one.image.shape[1:]
                text = json.dumps(row | {"height": height, "width": width}, allow_nan=False)
        except BaseException as error:
            task.answer.set_exception(error)
            return
        task.seconds["encode"] = time.perf_counter() - start
        self._statistics.observe_image(task.seconds)
        task.answer.set_result(Answer(text, task.seconds))


def _warm_up(session: Session, sample: np.ndarray) -> None:
    """Run a session on a sample in a size that the graph takes: the first runs are slower than others."""
    contract = session.artifact.contract
    smallest, largest = session.artifact.image_sides
    _, height, width = sample.shape
    sides = resized_size(height, width, contract.resize)
    height, width = (min(max(side, smallest), largest) for side in sides)
    image = resize_image(sample, (height, width))
    for _ in range(WARM_UP_RUNS):
        to_plain(finish(session(image), image, image, contract, 0.0), contract)


def _prepare(task: Task, session: Session) -> _Prepared:
    """Decode and resize a task's image.

    Raises:
        RequestError: it is not an image, too large, or of a size that the graph was not exported for.
    """
    artifact = session.artifact
    try:
        image = decode_image(task.encoded, artifact.contract.channel_order)
    except DataError as error:
        raise _refused_image(task, error) from error
    resized = resize(image, artifact.contract)
    try:
        check_image(resized, artifact)
    except ArtifactError as error:
        raise RequestError(400, f"{task.name}: {error}") from error
    return _Prepared(task, image, resized)


def _refused_image(task: Task, error: DataError) -> RequestError:
    """Return the refusal of an image that cannot be decoded, without the decoder's message."""
    if isinstance(error, ImageSizeError):  # it names sizes only
        return RequestError(413, f"{task.name}: {error}")
    unknown = isinstance(error.__cause__, UnidentifiedImageError)
    return RequestError(
        400,
        f"{task.name} is {'not an image' if unknown else 'a damaged or unsupported image'}",
        got=f"{len(task.encoded)} bytes",
        expected="a complete PNG, JPEG or other image file of 8 bits per channel",
        remedy="send the bytes of the file as they are (curl --data-binary @FILE; -d changes them)",
    )


def _run_graph(group: list[_Prepared], session: Session) -> list[dict[str, np.ndarray]]:
    """Run images of one size, in one call of the graph if it takes several."""
    images = [one.resized for one in group]
    sizes: list[tuple[int, int] | None] = [cast(Any, one.image.shape[1:]) for one in group]
    with memory_guard(*(image.shape for image in images)):
        if len(group) > 1:
            return cast(BatchSession, session).run_batch(images, sizes)
        return [session(images[0], sizes[0])]
