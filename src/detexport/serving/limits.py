"""The limits of a server, and the error of a request that it refuses."""

from dataclasses import dataclass

from detexport.errors import DetexportError

CODES = {
    400: "INVALID_PARAMETER_VALUE",
    404: "ENDPOINT_NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    413: "REQUEST_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}
"""The name of each status, in the form of MLflow's error codes."""


@dataclass(frozen=True)
class Limits:
    """What a server accepts; the number of pixels of an image is limited by ``detexport.data.images``.

    Args:
        body_bytes: most bytes of a request's body; more is answered with 413.
        images: most images of a request; more is answered with 413.
        queue: most images that wait for the model; more is answered with 429.
        body_timeout_s: time in which a request's header, and then its body, must arrive; later is answered
            with 408.
        buffered_bytes: most bytes of all bodies that are being received; more is answered with 503.
    """

    body_bytes: int = 20_000_000
    images: int = 16
    queue: int = 64
    body_timeout_s: float = 30.0
    buffered_bytes: int = 500_000_000


class RequestError(DetexportError):
    """A request that the server refuses.

    Args:
        status: the HTTP status of the answer.
        what: the problem; like the other parts it holds nothing of the request's body.
        got: what the request has, such as a number of bytes.
        expected: what the server accepts.
        remedy: what the client can do.
    """

    def __init__(
        self, status: int, what: str, *, got: object = None, expected: object = None, remedy: str = ""
    ) -> None:
        super().__init__(what, got=got, expected=expected, remedy=remedy)
        self.status = status
