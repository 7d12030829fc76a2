"""Folders of this machine and of a bucket, read and written in the same way."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from detexport.errors import ConfigError, DataError

pytest.importorskip("pyarrow")
from detexport.batch_prediction.location import Location


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "deep/er/c.png", "notes.txt"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "images"


def test_images_are_listed_with_subfolders(folder: Path) -> None:
    assert Location.of(str(folder)).images() == ["a.JPG", "b.png", "deep/er/c.png"]
    assert Location.of(f"{folder}/").read("deep/er/c.png") == b"deep/er/c.png"


def test_a_relative_path_is_that_of_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert Location.of("images") == Location(str(folder))


def test_what_fsspec_alone_knows_can_be_read() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/pictures/x.png", b"x")
    location = Location.of("memory://pictures")
    assert location.images() == ["x.png"]
    assert location.read("x.png") == b"x"


def test_a_file_appears_when_it_is_complete(folder: Path) -> None:
    output = Location.of(str(folder / "out"))

    def fails(stream: object) -> None:
        stream.write(b"half")  # type: ignore[attr-defined]
        raise ValueError("seven")

    with pytest.raises(ValueError, match="seven"):
        output.write("parts/one", fails)
    assert "parts/one" not in output.files(missing=True)
    output.write("parts/one", lambda stream: stream.write(b"whole") and None)
    assert (folder / "out/parts/one").read_bytes() == b"whole"
    assert output.files() == ["parts/one"]


def test_two_writers_of_a_file_do_not_disturb_each_other(folder: Path) -> None:
    output = Location.of(str(folder))

    def first(stream: BinaryIO) -> None:
        stream.write(b"one")
        output.write("same", lambda other: other.write(b"two"))
        assert (folder / "same").read_bytes() == b"two"
        stream.write(b" and more")

    output.write("same", first)
    assert (folder / "same").read_bytes() == b"one and more"


def test_what_a_killed_writer_left_is_removed(folder: Path) -> None:
    code = "import os, sys; from detexport.batch_prediction.location import Location as L; "
    code += "L(sys.argv[1]).write('parts/one', lambda stream: os.kill(os.getpid(), 9))"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    (left,) = (folder / "parts").iterdir()
    assert left.name.startswith(".")
    Location.of(str(folder)).remove_partial()
    assert not list((folder / "parts").iterdir())
    assert (folder / "b.png").exists()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nowhere", DataError, "cannot be listed"),
        ("empty", DataError, "there is no image in"),
        ("gopher9://x/y", ConfigError, "the location cannot be opened"),
    ],
)
def test_a_location_without_images_is_named(
    name: str, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        Location.of(name).images()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server on this machine, and the URL of a bucket in it."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    import boto3

    boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(
        Bucket="pictures"
    )
    yield f"s3://pictures/{{}}?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
    server.stop()


def test_a_bucket_is_a_folder(bucket: str) -> None:
    location = Location.of(bucket.format("photos"))
    assert location.files(missing=True) == []
    location.write("deep/one.png", lambda stream: stream.write(b"1") and None)
    assert location.images() == ["deep/one.png"]
    assert location.read("deep/one.png") == b"1"

    def fails(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise ValueError("seven")

    with pytest.raises(ValueError, match="seven"):
        location.write("two.png", fails)
    assert location.images() == ["deep/one.png"]
    with pytest.raises(DataError, match=r"two\.png cannot be read"):
        location.read("two.png")
