"""Send the summary of a run to another system: one HTTP POST, repeated until it was received.

The whole address may be a secret: chat systems have it in the path. Only its host is printed.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
        ConfigError: it is not an address of HTTP, or has characters that must be encoded.
    """
    if not _is_http(url):
        raise ConfigError(
            "the address of the notification is not one of HTTP",
            got=host_of(url),
            expected="http://HOST/... or https://HOST/..., in ASCII, without a user",
            remedy="correct --notify or DETEXPORT_NOTIFY_URL",
        )
    return url


def host_of(url: str) -> str:
    """Return the part of an address that may be shown: scheme and host."""
    scheme, separator, rest = public_uri(url).partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if separator else "an address without ://"


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return known and parts.username is None and all("!" <= one <= "~" for one in url)


def send_pending(folder: Path, url: str) -> None:
    """Send the notifications in a folder, the oldest first, and remove their files.

    A receiver may get one twice: if the run is killed after it was received.

    Args:
        folder: the folder; it need not exist.
        url: the address.

    Raises:
        NotificationError: one was not received; it stays with those after it, and the next run sends them.
    """
    for path in sorted(folder.glob("*.json")):
        _post(url, read_json(path))
        path.unlink()


def keep_pending(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write a notification that ``send_pending`` sends."""
    write_json(folder / f"{time.time_ns():020}.json", summary)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Make a redirect an error: urllib would follow it with a GET that has no body."""

    def redirect_request(self, *_: Any) -> None:
        """Return no request."""


def _post(url: str, body: Mapping[str, Any]) -> None:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method="POST")
    opener = urllib.request.build_opener(_NoRedirects)
    for wait_s in (*WAITS_S, None):
        try:
            with opener.open(request, timeout=TIMEOUT_S):
                return
        # urllib's own errors are OSErrors; a host's name that cannot be encoded is a ValueError.
        except (OSError, HTTPException, ValueError) as error:
            if wait_s is None:
                raise NotificationError(
                    f"{host_of(url)} did not receive the notification",
                    got=f"{type(error).__name__}: {error}",
                    expected="an answer with a code of 200 to 299",
                    remedy="check the address; the next run sends it again",
                ) from error
            time.sleep(wait_s)
