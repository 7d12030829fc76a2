"""Remove secrets from text that is shown or stored: those in URLs and in the environment."""

import base64
import os
import re
from collections.abc import Iterator
from functools import lru_cache, partial
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
LAST_WORDS = {"PASSWORD", "PASSWD", "PASS", "PWD", "TOKEN", "SECRET", "KEY", "CREDENTIAL", "CREDENTIALS"}
"""Last words of the names of environment variables that hold a secret."""
MIN_LENGTH = 4
"""Fewest characters of a secret that is redacted; shorter ones occur in ordinary words."""
URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")


def public_uri(uri: str) -> str:
    """Return a URL without user, password and query, and without its fragment if it has a host.

    Everything before the last ``@`` counts as user and password, since a password may contain any character.
    A URL without a host (``sqlite:////w/a@b.db``, ``file:///w``) has neither.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    if rest.startswith("/") and scheme.partition("+")[0].lower() in ("sqlite", "file"):
        # A file's name may contain a "#", but the text after a "?" may contain a password.
        return f"{scheme}://{rest.partition('?')[0]}"
    host = rest
    authority_end = len(rest.partition("/")[0])
    at = rest.rfind("@")
    if at >= 0 and (at < authority_end or not _is_host(rest[:authority_end])):
        host = rest[at + 1 :]
    return f"{scheme}://{re.split('[?#]', host, maxsplit=1)[0]}"


def _is_host(authority: str) -> bool:
    """Return whether the text before the path is a host with or without a port, not part of a password."""
    return re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:@?#\s]+)?(:\d*)?", authority) is not None


def redact(text: str) -> str:
    """Return a text without the secrets of the URLs in it and of this process's environment."""
    for secret in _secrets(tuple(_addresses()), tuple(_values())):
        text = text.replace(secret, HIDDEN)
    return URI.sub(lambda found: public_uri(found[0]), text)


def _values() -> Iterator[str]:
    """Yield the values of environment variables whose names mark them as secret."""
    for name, value in os.environ.items():
        if name.upper().replace("-", "_").split("_")[-1] in LAST_WORDS or "SECRET" in name.upper():
            yield value


def _addresses() -> Iterator[str]:
    """Yield the values of environment variables that are URLs with a user, password or query."""
    for value in os.environ.values():
        if "://" in value and public_uri(value) != value:
            yield value


@lru_cache(maxsize=8)
def _secrets(addresses: tuple[str, ...], values: tuple[str, ...]) -> tuple[str, ...]:
    """Return all encodings of the secrets, the longest first."""
    known = {value for value in values if not os.path.isabs(value)}
    for address in addresses:
        rest = address.partition("://")[2]
        user_part = rest[: max(rest.find(f"@{public_uri(address).partition('://')[2]}"), 0)]
        user, _, password = user_part.partition(":")
        query = address.partition("?")[2].partition("#")[0]
        known |= {user_part, password or user, query}
        known |= {value for _, _, value in (part.partition("=") for part in re.split("[&;]", query))}
        pair = f"{unquote(user)}:{unquote(password)}"
        known.add(base64.b64encode(pair.encode()).decode())
    ways = (str, quote, quote_plus, partial(quote, safe=""), unquote, unquote_plus, _escaped)
    written = {way(secret) for secret in known for way in ways}
    return tuple(sorted((one for one in written if len(one) >= MIN_LENGTH), key=len, reverse=True))


def _escaped(text: str) -> str:
    """Escape a text as Python and JSON do inside quotes."""
    return repr(text)[1:-1]
