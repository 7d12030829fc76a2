"""JSON on the standard output, in streams of any encoding."""

import io
import json
import sys

import pytest

from detexport.cli.output import print_json

DOCUMENT = {"class_names": ["Käfer", "猫", "🚲"], "scores": [0.5]}


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "ascii", "latin-1", "cp1252"])
def test_a_document_is_read_back_from_a_stream_of_any_encoding(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    print_json(DOCUMENT)
    stream.flush()
    text = raw.getvalue().decode(encoding)
    assert json.loads(text) == DOCUMENT
    assert ("猫" in text) == (encoding in ("utf-8", "UTF8"))


def test_letters_are_escaped_in_a_stream_without_an_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    print_json(DOCUMENT)
    assert stream.getvalue().isascii()
    assert json.loads(stream.getvalue()) == DOCUMENT


def test_the_output_is_one_document_with_one_key_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": 1, "b": {"c": None}})
    out, err = capsys.readouterr()
    assert out == '{\n "a": 1,\n "b": {\n  "c": null\n }\n}\n'
    assert err == ""
