"""Downloads from a server on this machine: complete and with the expected digest, or no file."""

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn

from detexport.checkpoint import DetectionCheckpointer, download, fetch
from detexport.errors import CheckpointError

CONTENT = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Server of ``files`` by path, and of some faulty paths."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.go_on = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        kind, _, rest = self.path.partition("?")[0].strip("/").partition("/")
        self.server.asked.append(self.path)
        if kind == "redirect":
            self.send_response(302)
            self.send_header("Location", rest if "://" in rest else f"/{rest}")
            self.end_headers()
            return
        content = self.server.files.get(
            rest if kind in ("short", "slow", "unsized") else f"{kind}/{rest}".strip("/")
        )
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if rest == "page" else "application/octet-stream")
        if kind != "unsized":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if kind == "slow":
            self.wfile.write(content[: len(content) // 2])
            self.server.go_on.wait(30)
            content = content[len(content) // 2 :]
        self.wfile.write(content[: len(content) // 2] if kind == "short" else content)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.files = {"zoo/model.pkl": CONTENT, "zoo/page": b"<html>log in</html>"}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DETEXPORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("how", ["", "unsized/", "redirect/"])
def test_a_file_is_downloaded_once(server: Server, cache: Path, how: str) -> None:
    url = server.url(f"{how}zoo/model.pkl")
    path = fetch(url)
    assert path.read_bytes() == CONTENT
    assert path.name == "model.pkl"
    assert files(cache) == ["model.pkl", "model.pkl.sha256"]
    asked = len(server.asked)
    for same in (url, f"{url}#sha256={DIGEST}", f"{url}#sha256={DIGEST.upper()}"):
        assert fetch(same) == path
    assert fetch(url, sha256=DIGEST) == path
    assert len(server.asked) == asked
    checked = subprocess.run(["sha256sum", "-c", f"{path.name}.sha256"], cwd=path.parent, check=False)
    assert checked.returncode == 0


def test_two_urls_with_one_file_name_are_two_files(server: Server) -> None:
    server.files["other/model.pkl"] = b"other"
    assert fetch(server.url("zoo/model.pkl")).read_bytes() == CONTENT
    assert fetch(server.url("other/model.pkl")).read_bytes() == b"other"


def test_a_cached_file_needs_no_server(server: Server) -> None:
    url = server.url("zoo/model.pkl")
    path = fetch(url)
    server.shutdown()
    server.server_close()
    assert fetch(url) == path
    with pytest.raises(CheckpointError, match=r"cannot download .*other\.pkl.*remedy: check the network"):
        fetch(url.replace("model", "other"))


@pytest.mark.parametrize("by_name", [False, True])
def test_another_digest_is_refused_and_no_file_is_left(server: Server, cache: Path, by_name: bool) -> None:
    server.files["resnet18-01234567.pth"] = CONTENT
    url = server.url("resnet18-01234567.pth" if by_name else f"zoo/model.pkl#sha256={'0' * 64}")
    with pytest.raises(CheckpointError, match=f"another digest than expected; got: sha256 {DIGEST}"):
        fetch(url)
    assert files(cache) == []
    server.files[f"resnet18-{DIGEST[:8]}.pth"] = CONTENT
    assert fetch(server.url(f"resnet18-{DIGEST[:8]}.pth")).read_bytes() == CONTENT


def test_a_file_that_was_replaced_on_the_server(server: Server, cache: Path) -> None:
    url = server.url("zoo/model.pkl")
    fetch(url)
    server.files["zoo/model.pkl"] = b"new"
    new = hashlib.sha256(b"new").hexdigest()
    assert fetch(url).read_bytes() == CONTENT
    with pytest.raises(CheckpointError, match="another digest"):
        fetch(f"{url}#sha256={'0' * 64}")
    assert fetch(url).read_bytes() == CONTENT
    assert fetch(f"{url}#sha256={new}").read_bytes() == b"new"
    assert fetch(url).read_bytes() == b"new"
    assert files(cache) == ["model.pkl", "model.pkl.sha256"]


def test_a_file_that_was_changed_in_the_cache_is_refused(server: Server) -> None:
    url = server.url("zoo/model.pkl")
    path = fetch(url)
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"has changed since its download.*remedy: remove .*model\.pkl"):
        fetch(url)
    path.unlink()
    assert fetch(url).read_bytes() == CONTENT


def test_a_file_without_its_digest_is_downloaded_again(server: Server) -> None:
    """As after a kill between the two renames."""
    url = server.url("zoo/model.pkl")
    path = fetch(url)
    path.with_name("model.pkl.sha256").unlink()
    path.write_bytes(b"anything")
    assert fetch(url).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("short/zoo/model.pkl", "ended after 128000 of 256000 bytes"),
        ("zoo/absent.pkl", "404"),
        ("zoo/page", "is a web page"),
        ("redirect/ftp://127.0.0.1/model.pkl", "no checkpoint can be downloaded.*got: ftp://"),
        ("redirect/file:///etc/hostname", "no checkpoint can be downloaded|cannot download"),
        ("redirect/http://example.invalid/model.pkl", "no checkpoint can be downloaded"),
        ("redirect/redirect/redirect/zoo/absent", "404"),
    ],
)
def test_errors_are_reported_and_no_file_is_left(
    server: Server, cache: Path, path: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        fetch(server.url(path))
    assert files(cache) == []


def test_a_silent_server_times_out(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    with pytest.raises(CheckpointError, match=r"cannot download .*; got: TimeoutError"):
        fetch(server.url("slow/zoo/model.pkl"))
    assert files(cache) == []


FETCH = "import sys; from detexport.checkpoint import fetch; print(fetch(sys.argv[1]))"


def test_the_partial_file_of_a_killed_download_is_not_used(server: Server, cache: Path) -> None:
    url = server.url("slow/zoo/model.pkl")
    process = subprocess.Popen([sys.executable, "-c", FETCH, url], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list(cache.rglob("*.partial")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (partial,) = cache.rglob("*.partial")
    server.go_on.set()
    assert fetch(url).read_bytes() == CONTENT
    # A recent partial file may belong to another process; an old one is abandoned.
    assert partial.exists()
    os.utime(partial, (time.time() - 3600, time.time() - 3600))
    with pytest.raises(CheckpointError):
        fetch(f"{url}#sha256={'0' * 64}")
    assert files(cache) == ["model.pkl", "model.pkl.sha256"]


def test_two_processes_may_download_the_same_file(server: Server, cache: Path) -> None:
    command = [sys.executable, "-c", FETCH, server.url("zoo/model.pkl")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    (path,) = paths
    assert Path(path).read_bytes() == CONTENT
    assert files(cache) == ["model.pkl", "model.pkl.sha256"]


@pytest.mark.parametrize(
    "url",
    [
        "http://dl.fbaipublicfiles.com/detectron2/model.pkl",
        "http://127.0.0.1.example.org/model.pkl",
        "ftp://127.0.0.1/model.pkl",
        "file:///etc/hostname",
        "https:///model.pkl",
        "https://user:secret@127.0.0.1/model.pkl",
        "https://127.0.0.1:port/model.pkl",
        "https://[127.0.0.1/model.pkl",
        "catalog://model",
    ],
)
def test_urls_that_are_refused(url: str, cache: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint can be downloaded from this URL") as caught:
        fetch(url)
    assert "secret" not in str(caught.value)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("url", "sha256"),
    [
        ("https://127.0.0.1/a#sha256=12", None),
        ("https://127.0.0.1/a#readme", None),
        ("https://127.0.0.1/a", "12"),
        (f"https://127.0.0.1/a#sha256={'0' * 64}", "1" * 64),
    ],
)
def test_an_invalid_digest_is_refused(url: str, sha256: str | None) -> None:
    with pytest.raises(CheckpointError, match=r"the expected digest of https://127\.0\.0\.1/a"):
        fetch(url, sha256=sha256)


def test_a_query_is_not_shown(server: Server) -> None:
    with pytest.raises(CheckpointError) as caught:
        fetch(server.url("zoo/absent.pkl?token=secret"))
    assert server.asked == ["/zoo/absent.pkl?token=secret"]
    assert "secret" not in str(caught.value)


def test_detectron2_urls_refer_to_the_published_storage(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert download.PUBLISHED == {"detectron2://": "https://dl.fbaipublicfiles.com/detectron2/"}
    monkeypatch.setitem(download.PUBLISHED, "detectron2://", server.url(""))
    assert fetch("detectron2://zoo/model.pkl").read_bytes() == CONTENT
    assert server.asked == ["/zoo/model.pkl"]


def test_location_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert download.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("DETEXPORT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.cache_dir() == tmp_path / "detexport"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert download.cache_dir() == Path.home() / ".cache/detexport"


def test_a_file_name_cannot_leave_the_cache_folder(server: Server, cache: Path) -> None:
    for name in ("%2e%2e%2fup", "..", "a/.hidden", ".x.partial", "a b", ""):
        server.files[name.replace(" ", "%20")] = server.files[name] = CONTENT
        path = fetch(server.url(name.replace(" ", "%20")) + "?x=1")
        assert path.parent.parent == cache
        assert not path.name.startswith(".")


def test_a_checkpointer_loads_from_a_url(server: Server, tmp_path: Path) -> None:
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    DetectionCheckpointer(model, tmp_path).save("a", iteration=3)
    server.files["a.pth"] = (tmp_path / "a.pth").read_bytes()
    digest = hashlib.sha256(server.files["a.pth"]).hexdigest()
    assert DetectionCheckpointer(other).load(f"{server.url('a.pth')}#sha256={digest}") == {"iteration": 3}
    assert torch.equal(other.weight, model.weight)


class Touch:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("name", ["model_final.pkl", "model_final.pth", "model_final"])
@pytest.mark.parametrize("saved_by", ["pickle", "torch"])
def test_a_downloaded_file_is_not_executed(server: Server, tmp_path: Path, name: str, saved_by: str) -> None:
    marker, content = tmp_path / "marker", tmp_path / "content"
    value = {"model": {"weight": torch.zeros(2, 2).numpy()}, "x": Touch(marker)}
    if saved_by == "torch":
        torch.save(value, content)
    else:
        content.write_bytes(pickle.dumps(value))
    server.files[name] = content.read_bytes()
    with pytest.raises(CheckpointError, match=r"(posix|nt).system|multiarray"):
        DetectionCheckpointer(nn.Linear(2, 2)).load(server.url(name))
    assert not marker.exists()
