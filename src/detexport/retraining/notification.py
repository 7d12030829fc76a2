"""Send the summary of a run to another system: one HTTP POST, repeated until it was received."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

from detexport.errors import BROKEN, ConfigError, DetexportError
from detexport.system.files import read_json, write_json
from detexport.system.redaction import public_uri

TIMEOUT_S = 10.0
WAITS_S = (0.5, 2.0)
"""Pauses between the tries."""


class NotificationError(DetexportError):
    """A notification was not received."""

    exit_code = BROKEN


def check_address(url: str) -> str:
    """Return an address that a notification can be sent to.

    Raises:
        ConfigError: it is not an address of HTTP.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            "the address of the notification is not one of HTTP",
            got=public_uri(url),
            expected="http://... or https://...",
            remedy="correct --notify or DETEXPORT_NOTIFY_URL",
        )
    return url


def send_pending(path: Path, url: str) -> None:
    """Send the notification that a file holds, if there is one, and remove the file.

    A receiver may get it twice: if the run is killed after it was received.

    Args:
        path: the file.
        url: the address, whose query may hold a secret: it is not printed.

    Raises:
        NotificationError: it was not received; the file stays, and the next run sends it.
    """
    if path.is_file():
        _post(url, read_json(path))
        path.unlink()


def keep_pending(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the notification that ``send_pending`` sends."""
    write_json(path, summary)


def _post(url: str, body: Mapping[str, Any]) -> None:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method="POST")
    for wait_s in (*WAITS_S, None):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                return
        except (OSError, HTTPException) as error:  # urllib's own errors are OSErrors
            if wait_s is None:
                raise NotificationError(
                    f"{public_uri(url)} did not receive the notification",
                    got=f"{type(error).__name__}: {error}",
                    expected="an answer with a code of 200 to 299",
                    remedy="check the address; the next run sends it again",
                ) from error
            time.sleep(wait_s)
