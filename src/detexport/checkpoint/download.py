"""Download of checkpoints into a cache folder; the digest of a file is checked at each use."""

import hashlib
import os
import re
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urldefrag, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from detexport.errors import CheckpointError
from detexport.system.digests import sha256_file

PUBLISHED = {"detectron2://": "https://dl.fbaipublicfiles.com/detectron2/"}
"""URL prefixes of published storage."""
TIMEOUT_S = 30.0
"""Time without data from a server after which a download fails."""
ABANDONED_S = 600.0
"""Age from which a partial file counts as abandoned."""


def cache_dir() -> Path:
    """Return ``$DETEXPORT_CACHE``, else ``detexport`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``."""
    if chosen := os.environ.get("DETEXPORT_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detexport"


def fetch(url: str, *, sha256: str | None = None) -> Path:
    """Download a file unless it is in the cache.

    Args:
        url: ``https://...`` or ``detectron2://...``; ``http://`` for this machine only. It may end in
            ``#sha256=<64 hex digits>``.
        sha256: the expected digest, if the URL does not contain it.

    Returns:
        the file in the cache. Its digest, next to it, is checked; ``sha256sum -c`` can read it.

    Raises:
        CheckpointError: the URL has another form, cannot be reached, or its content has another digest; or
            the file in the cache was changed.
    """
    address = _Address.parse(url, sha256)
    file = cache_dir() / hashlib.sha256(address.url.encode()).hexdigest()[:16] / address.file_name
    record = file.with_name(f"{file.name}.sha256")
    if file.is_file() and record.is_file():
        digest = sha256_file(file)
        if record.read_text(encoding="utf-8").split()[:1] != [digest]:
            raise CheckpointError(
                f"{file} has changed since its download",
                got=f"sha256 {digest}",
                expected=f"the digest in {record.name}",
                remedy=f"remove {file}; it is then downloaded again",
            )
        if address.accepts(digest):
            return file
    try:
        _download_into(address, file, record)
    except (OSError, HTTPException) as error:
        raise CheckpointError(
            f"cannot download {address}",
            got=f"{type(error).__name__}: {error}",
            expected="a response of the server",
            remedy="check the network and the URL, or download the file elsewhere and give its path",
        ) from error
    return file


@dataclass(frozen=True)
class _Address:
    """A URL to download from, and the expected digest, if any."""

    url: str
    sha256: str | None

    @classmethod
    def parse(cls, url: str, sha256: str | None) -> "_Address":
        for short, full in PUBLISHED.items():
            if url.startswith(short):
                url = full + url.removeprefix(short)
        url, fragment = urldefrag(url)
        named = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
        digests = {digest.lower() for digest in (sha256, named and named[1]) if digest}
        if (fragment and not named) or len(digests) > 1 or not all(map(_is_sha256, digests)):
            raise CheckpointError(
                f"the expected digest of {_shown(url)} is not clear",
                got=f"#{fragment}" if fragment and not named else " and ".join(sorted(digests)),
                expected="#sha256= and 64 hex digits, or the same as an argument",
            )
        _check_allowed(url)
        return cls(url, next(iter(digests), None))

    @property
    def file_name(self) -> str:
        """The last part of the path, made safe as a file name."""
        name = urlsplit(self.url).path.rpartition("/")[2]
        return re.sub(r"[^\w.-]", "_", name).lstrip(".") or "checkpoint"

    def accepts(self, digest: str) -> bool:
        """Return whether a digest agrees with the expected one, and with the one in torch's file names."""
        in_name = re.search(r"-([0-9a-f]{8,64})\.\w+$", self.file_name)
        return self.sha256 in (None, digest) and (in_name is None or digest.startswith(in_name[1]))

    def __str__(self) -> str:
        return _shown(self.url)


def _download_into(address: _Address, file: Path, record: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    for left in file.parent.glob(".*.partial"):
        with suppress(FileNotFoundError):  # its writer may remove it at the same time
            if time.time() - left.stat().st_mtime > ABANDONED_S:
                left.unlink()
    # A unique name, since another process may download the same file.
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}.partial")
    try:
        digest = _download(address, partial)
        if not address.accepts(digest):
            raise CheckpointError(
                f"{address} has another digest than expected",
                got=f"sha256 {digest}",
                expected=f"sha256 {address.sha256}" if address.sha256 else "the digest in the file's name",
                remedy="correct the expected digest only if you trust the current file",
            )
        record.unlink(missing_ok=True)
        partial.replace(file)
        partial.write_text(f"{digest}  {file.name}\n", encoding="utf-8")
        partial.replace(record)
    finally:
        partial.unlink(missing_ok=True)


def _download(address: _Address, partial: Path) -> str:
    """Write the response to ``partial`` and return its digest."""
    digest, received = hashlib.sha256(), 0
    opener = build_opener(_CheckedRedirects())
    request = Request(address.url, headers={"User-Agent": "detexport"})
    with opener.open(request, timeout=TIMEOUT_S) as response, partial.open("xb") as file:
        expected = response.length
        if response.headers.get_content_type() == "text/html":
            raise CheckpointError(
                f"{address} is a web page",
                got=response.headers["Content-Type"],
                expected="a checkpoint",
                remedy="give the URL of the file itself; a proxy's log-in page looks like this, too",
            )
        with tqdm(
            total=expected, unit="B", unit_scale=True, desc=address.file_name, disable=None
        ) as progress_bar:
            while chunk := response.read(1 << 20):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                progress_bar.update(len(chunk))
    if expected is not None and received != expected:
        raise ConnectionError(f"the connection ended after {received} of {expected} bytes")
    return digest.hexdigest()


class _CheckedRedirects(HTTPRedirectHandler):
    """Redirects to allowed URLs only, and never from an encrypted connection to a plain one."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        _check_allowed(newurl)
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise ConnectionError(f"the server redirects to {_shown(newurl)}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_allowed(url: str) -> None:
    try:
        parts = urlsplit(url)
        allowed = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts))
        allowed = allowed and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        allowed = False
    if not allowed:
        raise CheckpointError(
            "no checkpoint can be downloaded from this URL",
            got=_shown(url),
            expected="https://<host>/<path>, without user or password, or detectron2://<path>",
            remedy="give such a URL, or download the file and give its path",
        )


def _is_loopback(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _is_sha256(digest: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", digest) is not None


def _shown(url: str) -> str:
    """Return a URL without parts that may be secret: the query, the user and the password."""
    return re.sub(r"://[^/]*@", "://...@", url.partition("?")[0])
