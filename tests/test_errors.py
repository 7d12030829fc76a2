"""Messages are one printable line of bounded length, and each class of error has its exit code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detexport.errors import (
    BROKEN,
    LONGEST_MESSAGE,
    REQUEST,
    TRACEBACK,
    VERDICT,
    ArtifactError,
    CheckpointError,
    ConfigError,
    DataError,
    DetexportError,
    DiskError,
    ExportError,
    InputError,
    OutOfMemoryError,
    OutputError,
    RuntimeUnavailableError,
    did_you_mean,
    fail,
    listed,
    printable,
    shortened,
)


def test_a_message_says_what_got_expected_and_remedy() -> None:
    error = ConfigError("it is wrong.", got=1, expected="two", remedy="give two")
    assert str(error) == "it is wrong; got: 1; expected: two; remedy: give two"
    assert str(ConfigError("it is wrong")) == "it is wrong"


@given(st.text(), st.text(), st.text(), st.text())
def test_a_message_is_one_printable_line(what: str, got: str, expected: str, remedy: str) -> None:
    message = str(DetexportError(what, got=got, expected=expected, remedy=remedy))
    assert len(message) <= LONGEST_MESSAGE
    assert message.isprintable()


@pytest.mark.parametrize("character", ["x", "\x1b", "\udcff", "\n", "é"])
def test_a_huge_key_is_cut_and_the_remedy_stays(character: str) -> None:
    key = f"BEGIN{character * 10_000_000}END"
    message = str(ConfigError("unknown key", got=key, expected="a known one", remedy="correct the key"))
    assert len(message) <= LONGEST_MESSAGE
    assert message.startswith("unknown key; got: BEGIN")
    assert message.endswith("END; expected: a known one; remedy: correct the key")


def test_parts_that_are_all_too_long_are_all_cut() -> None:
    message = str(ConfigError("a" * 900, got="b" * 900, expected="c" * 900, remedy="d" * 900))
    assert LONGEST_MESSAGE - 4 < len(message) <= LONGEST_MESSAGE
    assert message.count("...") == 4


def test_an_integer_that_python_does_not_write_out_has_a_message() -> None:
    assert "got: a huge int" in str(ConfigError("too many", got=10**5000))


def test_control_characters_and_surrogates_are_escaped() -> None:
    assert printable("a\tb\r\nc \x1b[31mred\x07 \udcff \u202e é 字") == (
        r"a b c \x1b[31mred\x07 \udcff \u202e é 字"
    )


def test_a_text_is_shortened_in_the_middle() -> None:
    assert shortened("0123456789", 10) == "0123456789"
    assert shortened("0123456789ab", 10) == "0123...9ab"


def test_a_list_is_capped_with_a_count() -> None:
    assert listed([]) == ""
    assert listed("abcde") == "a, b, c, d, e"
    assert listed(range(12)) == "0, 1, 2, 3, 4 and 7 more"
    assert listed("abc", limit=1) == "a and 2 more"


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("retinanett", "did you mean 'retinanet'?"),
        ("MASK_RCNN", "did you mean 'mask_rcnn'?"),
        ("Onxx", "did you mean 'ONNX'?"),
        ("quite other", ""),
        ("", ""),
        ("retinanett" * 1_000_000, ""),
        (7, ""),
    ],
)
def test_a_suggestion_is_the_name_that_is_most_alike(name: object, suggestion: str) -> None:
    assert did_you_mean(name, ["mask_rcnn", "retinanet", "ONNX"]) == suggestion


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ExportError("x"), VERDICT),
        (ConfigError("x"), REQUEST),
        (CheckpointError("x"), REQUEST),
        (DataError("x"), REQUEST),
        (InputError("x"), REQUEST),
        (ArtifactError("x"), REQUEST),
        (OutputError("x"), REQUEST),
        (DiskError("x"), BROKEN),
        (OutOfMemoryError("x"), BROKEN),
        (RuntimeUnavailableError("x"), BROKEN),
        (ValueError("a\nb"), BROKEN),
        (RecursionError(), BROKEN),
    ],
)
def test_an_error_is_one_line_and_the_code_of_its_class(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRACEBACK, raising=False)
    assert fail(error) == code
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1


def test_an_unexpected_error_says_how_to_get_its_stack_trace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRACEBACK, raising=False)
    try:
        raise KeyError("gone")
    except KeyError as error:
        fail(error)
        assert "KeyError: 'gone'" in (brief := capsys.readouterr().err)
        assert f"{TRACEBACK}=1" in brief
        monkeypatch.setenv(TRACEBACK, "1")
        fail(error)
        assert "Traceback" in (whole := capsys.readouterr().err)
        assert whole.endswith(brief)
