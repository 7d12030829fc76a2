"""Secrets are taken out of whatever is shown or stored: of addresses, and of the environment."""

import base64
import os
import re
from collections.abc import Iterator
from functools import lru_cache, partial
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
LAST_WORDS = {"PASSWORD", "PASSWD", "PASS", "PWD", "TOKEN", "SECRET", "KEY", "CREDENTIAL", "CREDENTIALS"}
"""Last word of the name of an environment variable that holds a secret."""
MIN_LENGTH = 4
"""Characters of a secret that is looked for in text; a shorter one would hide half of every message."""
BYTES = "surrogateescape"
"""How Python reads bytes of the environment that are no text; so they are written again."""
URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")


def public_uri(uri: str) -> str:
    """Return an address without user, password and query, and without its fragment if it names a host.

    Everything before the last ``@`` counts as the user's part, whatever characters a password has. A path
    without a host (``sqlite:////w/a@b.db``, ``file:///w``) has no such part.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    if rest.startswith("/") and scheme.partition("+")[0].lower() in ("sqlite", "file"):
        # A file's name may hold a "#", but what follows a "?" may hold a password.
        return f"{scheme}://{rest.partition('?')[0]}"
    host = rest
    authority_end = len(rest.partition("/")[0])
    at = rest.rfind("@")
    if at >= 0 and (at < authority_end or not _is_host(rest[:authority_end])):
        host = rest[at + 1 :]
    return f"{scheme}://{re.split('[?#]', host, maxsplit=1)[0]}"


def _is_host(authority: str) -> bool:
    """Whether the part before the path is a host with or without a port, and no cut password."""
    return re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:@?#\s]+)?(:\d*)?", authority) is not None


def redact(text: str) -> str:
    """Return a text without the secrets of the addresses in it and of this process's environment."""
    for secret in _secrets(tuple(_addresses()), tuple(_values())):
        text = text.replace(secret, HIDDEN)
    return URI.sub(lambda found: public_uri(found[0]), text)


def _values() -> Iterator[str]:
    """Values of environment variables whose names say that they are secret."""
    for name, value in os.environ.items():
        if name.upper().replace("-", "_").split("_")[-1] in LAST_WORDS or "SECRET" in name.upper():
            yield value


def _addresses() -> Iterator[str]:
    """Values of environment variables that are addresses with something to hide."""
    for value in os.environ.values():
        if "://" in value and public_uri(value) != value:
            yield value


@lru_cache(maxsize=8)
def _secrets(addresses: tuple[str, ...], values: tuple[str, ...]) -> tuple[str, ...]:
    """Every way in which the secrets may be written, the longest first."""
    known = {value for value in values if not os.path.isabs(value)}
    for address in addresses:
        rest = address.partition("://")[2]
        user_part = rest[: max(rest.find(f"@{public_uri(address).partition('://')[2]}"), 0)]
        user, _, password = user_part.partition(":")
        query = address.partition("?")[2].partition("#")[0]
        known |= {user_part, password or user, query}
        known |= {value for _, _, value in (part.partition("=") for part in re.split("[&;]", query))}
        pair = f"{unquote(user)}:{unquote(password)}"
        known.add(base64.b64encode(pair.encode(errors=BYTES)).decode())
    quotes = (
        partial(quote, errors=BYTES),
        partial(quote_plus, errors=BYTES),
        partial(quote, safe="", errors=BYTES),
    )
    ways = (str, *quotes, unquote, unquote_plus, _escaped)
    written = {way(secret) for secret in known for way in ways}
    return tuple(sorted((one for one in written if len(one) >= MIN_LENGTH), key=len, reverse=True))


def _escaped(text: str) -> str:
    """As Python and JSON write a string in quotes."""
    return repr(text)[1:-1]
