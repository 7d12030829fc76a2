"""Errors of MLflow's scoring server without the request in them.

The server writes the whole request into the message of every error ("Failed to predict data ..."), images
included, and a stack trace into some.
"""

import functools
from collections.abc import Callable
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, ErrorCode
from mlflow.pyfunc import scoring_server

from detexport.errors import LONGEST_MESSAGE, printable, shortened

EXPECTED = (
    "the request is not in one of the forms that the server reads; expected: "
    '{"dataframe_records": [{"image": "<base64>"}]}, '
    '{"dataframe_split": {"columns": ["image"], "data": [["<base64>"]]}} or '
    '{"inputs": {"image": ["<base64>"]}}, each optionally with "params"'
)
EXPECTED_PARAMS = (
    "the params do not fit the signature: score_threshold is a number in [0, 1], masks true or false"
)
OF_THE_SCHEMA = "SCHEMA_ENFORCEMENT_FAILED"
"""MLflow's error class of a request that does not fit the signature."""


class RefusalError(MlflowException):
    """A request that the model refuses; its ``reason`` is one short line without the request's content.

    Args:
        reason: the message.
        error_code: MLflow's, which the server turns into an HTTP status; 400 by default.
    """

    def __init__(self, reason: str, error_code: int = INVALID_PARAMETER_VALUE) -> None:
        self.reason = shortened(reason, LONGEST_MESSAGE)
        super().__init__(self.reason, error_code)


def hide_requests() -> None:
    """Make this process's scoring server, if it becomes one, answer errors without the request's content."""
    if not hasattr(scoring_server.invocations, "__wrapped__"):
        scoring_server.invocations = _without_request(scoring_server.invocations)


def _without_request(invocations: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(invocations)
    def answer(*arguments: Any, **options: Any) -> Any:
        try:
            return invocations(*arguments, **options)
        except MlflowException as error:
            raise MlflowException(_reason(error), ErrorCode.Value(error.error_code)) from None

    return answer


def _reason(error: MlflowException) -> str:
    """Return what is wrong with a request: the model's own words, or those of MLflow without the data."""
    if isinstance(error, RefusalError):
        return error.reason
    if getattr(error, "error_class", None) == OF_THE_SCHEMA:
        of_mlflow = error.message.rpartition("Error: ")[2]
        return f"the request does not fit the signature: {shortened(printable(of_mlflow), 200)}"
    if "Invalid parameters found" in error.message:
        return EXPECTED_PARAMS
    if error.message.startswith("Encountered an unexpected error"):
        return "the model failed unexpectedly; the server's log has the error"
    return EXPECTED
