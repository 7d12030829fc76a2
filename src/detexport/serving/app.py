"""The HTTP interface: predictions, health, metrics, the model's description, and the page."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detexport import __version__
from detexport.errors import DetexportError, OutOfMemoryError, fail
from detexport.predictions.predict_images import parameters_of
from detexport.serving.batching import Answer, Predictor, Task
from detexport.serving.bodies import Call, read_call, read_json
from detexport.serving.limits import CODES, Limits, RequestError
from detexport.serving.statistics import CONTENT_TYPE, Statistics
from detexport.system.extras import extra_imports

with extra_imports():
    from fastapi import FastAPI, Request, Response
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE = Path(__file__).with_name("page.html")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' blob: data:; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
DISCARDED = 16
"""A body up to this many times too large is read and discarded, so that its client reads the answer."""
JSON_BODY = {
    "oneOf": [
        {"type": "object", "properties": {name: {}}, "required": [name]}
        for name in ("dataframe_split", "dataframe_records", "inputs", "instances")
    ]
}
ENCODED = {"schema": {"type": "string", "format": "binary"}}
MULTIPART = {
    "schema": {"type": "object", "properties": {"image": {"type": "array", "items": ENCODED["schema"]}}}
}


def build_app(predictor: Predictor, limits: Limits, statistics: Statistics) -> FastAPI:
    """Return the application.

    Args:
        predictor: runs the images; it is started and closed with the application.
        limits: what a request may be.
        statistics: counts the requests.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        predictor.start()
        yield
        await asyncio.to_thread(predictor.close)

    app = FastAPI(title="detexport", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    service = _Service(predictor, limits)
    binary = {"image/png": ENCODED, "image/jpeg": ENCODED, "application/octet-stream": ENCODED}
    bodies = {**binary, "multipart/form-data": MULTIPART, "application/json": {"schema": JSON_BODY}}
    parameters = [
        {"name": "score_threshold", "in": "query", "schema": {"type": "number", "minimum": 0, "maximum": 1}},
        {"name": "masks", "in": "query", "schema": {"type": "boolean"}},
    ]
    route: Callable[..., Any] = app.add_api_route
    route(
        "/predict",
        service.predict,
        methods=["POST"],
        summary="Detect objects in a raw image, a multipart form, or MLflow's JSON.",
        openapi_extra={"requestBody": {"content": bodies, "required": True}, "parameters": parameters},
    )
    route(
        "/invocations",
        service.invoke,
        methods=["POST"],
        summary="Detect objects, as MLflow's scoring server does.",
        openapi_extra={
            "requestBody": {"content": {"application/json": {"schema": JSON_BODY}}, "required": True}
        },
    )
    route("/health", service.health, summary="200 if the model is ready, else 503.")
    route("/health/ready", service.health, summary="200 if the model is ready, else 503.")
    route("/health/live", service.live, summary="200 while the server runs.")
    route(
        "/ping", service.health, summary="The same as /health, where MLflow's and SageMaker's clients look."
    )
    route("/metrics", lambda: Response(statistics.text(), media_type=CONTENT_TYPE), summary="For Prometheus.")
    route("/model", service.describe, summary="Classes, results, resize rule and digest of the model.")
    route("/", lambda: Response(PAGE.read_bytes(), media_type="text/html"), summary="The page.")
    app.add_exception_handler(DetexportError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_error)
    known = {getattr(one, "path", "") for one in app.routes}
    app.add_middleware(_Measured, statistics=statistics, known=known)
    statistics.watch(lambda: predictor.waiting, lambda: predictor.ready)
    return app


class _Service:
    """The handlers of the routes."""

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self._predictor, self._limits = predictor, limits
        self._buffered = 0

    async def predict(self, request: Request) -> Response:
        allowed = self._allowed()
        async with self._body(request) as body:
            call = await read_call(body, request.headers, request.query_params, self._limits, allowed=allowed)
        return await self._answer(request, call)

    async def invoke(self, request: Request) -> Response:
        allowed, kind = self._allowed(), request.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise RequestError(415, "unsupported content type", expected="application/json")
        async with self._body(request) as body:
            call = await asyncio.to_thread(read_json, body, kind, self._limits, allowed=allowed)
        return await self._answer(request, call)

    async def health(self) -> Response:
        ready = self._predictor.ready
        state = {"live": True, "ready": ready}
        return _json(state, 200 if ready else 503)

    async def live(self) -> Response:
        return _json({"live": True}, 200)

    async def describe(self) -> Response:
        artifact = self._ready_session().artifact
        contract = artifact.contract
        return _json(
            {
                "format": artifact.format.value,
                "sha256": artifact.sha256,
                "batch": artifact.batch,
                "results": list(contract.results),
                "class_names": list(contract.class_names),
                "stuff_class_names": list(contract.stuff_class_names),
                "keypoint_names": list(contract.keypoint_names),
                "resize": {**asdict(contract.resize), "rule": contract.resize.text},
                "score_threshold": contract.score_threshold if "scores" in contract.output_names else None,
                "limits": {"body_bytes": self._limits.body_bytes, "images": self._limits.images},
            },
            200,
        )

    def _ready_session(self) -> Any:
        if not self._predictor.ready:
            self._predictor.submit([])  # raises what a prediction would get
        return self._predictor.sessions[0]

    def _allowed(self) -> tuple[str, ...]:
        return parameters_of(self._ready_session().artifact.contract)

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        """Receive a request's body within the limits; its bytes count as buffered until the block ends.

        Raises:
            RequestError: it is too large, too slow, or too many bytes are being received.
        """
        limit, received = self._limits.body_bytes, bytearray()
        length = request.headers.get("content-length", "")
        too_large = length.isdecimal() and int(length) > limit
        counted = 0
        try:
            if not (too_large and "100-continue" in request.headers.get("expect", "").lower()):
                async with asyncio.timeout(self._limits.body_timeout_s):
                    total = 0
                    async for chunk in request.stream():
                        total += len(chunk)
                        too_large |= total > limit
                        if too_large and total > DISCARDED * limit:
                            break
                        if not too_large:
                            self._buffered += len(chunk)
                            counted += len(chunk)
                            if self._buffered > self._limits.buffered_bytes:
                                raise RequestError(
                                    503, "the server is receiving too much", remedy="try again later"
                                )
                            received += chunk
            if too_large:
                raise RequestError(
                    413,
                    "the body is too large",
                    got=f"{length} bytes" if length.isdecimal() else f"more than {limit} bytes",
                    expected=f"at most {limit} bytes",
                    remedy="send a smaller image",
                )
            yield bytes(received)
        except TimeoutError:
            raise RequestError(
                408,
                "the body did not arrive in time",
                expected=f"all of it within {self._limits.body_timeout_s:g} s",
            ) from None
        finally:
            self._buffered -= counted

    async def _answer(self, request: Request, call: Call) -> Response:
        """Run a call's images and return MLflow's answer: ``{"predictions": [...]}``."""
        start = time.perf_counter()
        several = len(call.images) > 1
        tasks = [
            Task(image, call.score_threshold, call.masks, f"row {row}" if several else "the input")
            for row, image in enumerate(call.images)
        ]
        self._predictor.submit(tasks)
        answers = await self._outcome(request, tasks)
        steps = {name: sum(one.seconds[name] for one in answers) for name in ("decode", "model", "encode")}
        queue = max((one.seconds["queue"] for one in answers), default=0.0)
        times = {"queue": queue, **steps, "total": time.perf_counter() - start}
        return Response(
            f'{{"predictions": [{", ".join(one.json for one in answers)}]}}',
            media_type="application/json",
            headers={"Server-Timing": ", ".join(f"{name};dur={1000 * s:.3f}" for name, s in times.items())},
        )

    async def _outcome(self, request: Request, tasks: list[Task]) -> list[Answer]:
        """Wait for the answers; drop what still waits if the client has gone."""
        outcome = asyncio.gather(*(asyncio.wrap_future(task.answer) for task in tasks))
        outcome.add_done_callback(lambda done: done.cancelled() or done.exception())  # it counts as seen
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            waiting: set[asyncio.Future[Any]] = {outcome, gone}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not outcome.done():
                raise ClientDisconnect
            return await outcome
        finally:
            gone.cancel()
            outcome.cancel()
            for task in tasks:
                task.answer.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(value: Any, status: int) -> Response:
    return Response(json.dumps(value), status_code=status, media_type="application/json")


async def _answer_error(_request: Request, error: Exception) -> Response:
    """Return an error in MLflow's form; one that is not the client's is printed to the log."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):  # a wrong path or method
        status, message = error.status_code, str(error.detail)
        headers |= error.headers or {}
    elif isinstance(error, RequestError):
        status, message = error.status, str(error)
    elif isinstance(error, OutOfMemoryError):
        status, message = 503, str(error)
    else:
        status, message = 500, "the server failed to answer; its log has the error"
        fail(error)
    if status in (429, 503):
        headers["Retry-After"] = "1"
    if status in (408, 413):
        headers["Connection"] = "close"  # the rest of the body is not read
    body = {"error_code": CODES.get(status, "BAD_REQUEST"), "message": message}
    response = _json(body, status)
    response.headers.update(headers)
    return response


class _Measured:
    """Middleware: count and time requests, add the headers of every answer, answer unexpected errors."""

    def __init__(self, app: ASGIApp, statistics: Statistics, known: set[str]) -> None:
        self._app, self._statistics, self._known = app, statistics, known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        self._statistics.in_flight.inc()
        try:
            await self._app(scope, receive, send_on)
        except ClientDisconnect:
            status = 499  # nobody reads an answer
        except Exception as error:
            if status:
                raise
            response = await _answer_error(Request(scope), error)
            await response(scope, receive, send_on)
        finally:
            path = scope["path"] if scope["path"] in self._known else "other"
            self._statistics.in_flight.dec()
            self._statistics.requests.labels(path, str(status)).inc()
            self._statistics.latency.labels(path).observe(time.perf_counter() - start)
