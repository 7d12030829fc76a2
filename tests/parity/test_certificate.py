"""Certificates and reports that are read back: what was written, or one error of one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detexport.errors import DataError, DetexportError
from detexport.parity.certificate import read_certificate
from detexport.parity.noise_floor import read_noise_floor
from detexport.results.latency import read_latency
from detexport.results.parity_report import read_parity_report
from detexport.system.digests import sha256_json

CERTIFICATE: dict[str, Any] = {
    "job": "toy-onnx",
    "passed": True,
    "artifact": {"sha256": "a" * 64, "files": {}},
    "runtime": {"_target_": "x"},
    "report_sha256": "b" * 64,
    "plan": {},
    "verdicts": {},
}
READERS = (read_certificate, read_noise_floor, read_parity_report, read_latency)
KEYS = (
    "job",
    "passed",
    "artifact",
    "runtime",
    "sha256",
    "variants",
    "samples",
    "environment",
    "max",
    "devices",
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
)


def write(path: Path, body: dict[str, Any]) -> None:
    path.write_text(json.dumps({**body, "sha256": sha256_json(body)}))


def test_a_certificate_is_read_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path / "c.json", CERTIFICATE)
    assert read_certificate(tmp_path / "c.json") == {**CERTIFICATE, "sha256": sha256_json(CERTIFICATE)}


@pytest.mark.parametrize("name", [name for name in CERTIFICATE if name != "verdicts"])
@pytest.mark.parametrize("value", [None, [], 1])
def test_an_entry_of_another_type_is_named(name: str, value: Any, tmp_path: Path) -> None:
    write(tmp_path / "c.json", {**CERTIFICATE, name: value})
    with pytest.raises(DataError, match=rf"is not a certificate; got: ValueError: c\.json\.{name}: "):
        read_certificate(tmp_path / "c.json")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"\xff", b"[" * 5_000, b"9" * 5_000, b'{"variants": []}'], ids=repr
)
def test_a_file_that_is_something_else_is_an_error(reader: Any, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(DataError, match="is not a") as raised:
        reader(tmp_path / "file.json")
    assert len(str(raised.value)) <= 500


def check_readers(folder: Path, examples: int) -> None:
    """Give arbitrary JSON to every reader."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(value=VALUES)
    def check(value: Any) -> None:
        (folder / "file.json").write_text(json.dumps(value))
        for reader in READERS:
            try:
                reader(folder / "file.json")
            except DetexportError as error:
                assert len(str(error).splitlines()) == 1  # noqa: PT017 - a value that fits is right too

    check()


def test_whatever_a_file_holds_is_read_or_an_error(tmp_path: Path) -> None:
    check_readers(tmp_path, 200)


@pytest.mark.slow
def test_thousands_of_files(tmp_path: Path) -> None:
    check_readers(tmp_path, 5_000)
