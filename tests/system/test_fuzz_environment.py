"""Environment variables of any content: used, or refused by one line; never a trace of their own."""

import io
import os
from contextlib import redirect_stderr
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detexport.checkpoint.download import cache_dir
from detexport.data.images import LIMIT_VARIABLE, max_image_pixels
from detexport.errors import LONGEST_MESSAGE, TRACEBACK, ConfigError, DataError, fail
from detexport.system.redaction import redact
from fuzzing import check, fuzzed

# What the system takes: no NUL, and of the surrogates those that stand for bytes that are no text.
TEXT = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",))
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=("Cs",)),
    max_size=40,
)
ADDRESSES = st.lists(
    TEXT
    | st.sampled_from(
        [
            *"@:/?#[]&;=%",
            *("://", "http", "https", "sqlite", "postgresql+psycopg2", "file", "[::1", "user:pass@", "%ZZ"),
            *("host:99999", "a" * 5000),
        ]
    ),
    max_size=8,
).map("".join)
NAMES = st.sampled_from(["DB_PASSWORD", "MY_TOKEN", "MLFLOW_TRACKING_URI", "http_proxy", TRACEBACK, "X"])


@fuzzed(200)
@given(TEXT | st.from_regex(r"\s*[0-9_]{1,25}\s*", fullmatch=True))
def test_the_limit_of_pixels(value: str) -> None:
    with mock.patch.dict(os.environ, {LIMIT_VARIABLE: value}):
        check(lambda: max_image_pixels() > 0 or pytest.fail("no limit"), ConfigError)


@fuzzed(200)
@given(st.sampled_from(["DETEXPORT_CACHE", "XDG_CACHE_HOME"]), TEXT | st.builds("~{}".format, TEXT))
def test_the_folder_of_downloads(name: str, value: str) -> None:
    with mock.patch.dict(os.environ, {name: value}):
        check(lambda: os.fsencode(cache_dir()), ConfigError)


@fuzzed(200)
@given(st.dictionaries(NAMES, ADDRESSES, max_size=3), TEXT)
def test_an_error_is_one_line_whatever_is_to_be_redacted(variables: dict[str, str], text: str) -> None:
    printed = io.StringIO()
    with mock.patch.dict(os.environ, variables), redirect_stderr(printed):
        assert fail(DataError("it is wrong", got=f"{text}{''.join(variables.values())}")) == 2
    *_, line = printed.getvalue().splitlines()
    assert line.startswith("error: it is wrong")
    assert line.isprintable()
    assert len(line) <= len("error: ") + LONGEST_MESSAGE


@pytest.mark.parametrize("value", ["geheim\udcff", "user:geheim\udcff@host"])
def test_a_secret_that_is_no_text_is_redacted(value: str) -> None:
    with mock.patch.dict(os.environ, {"DB_PASSWORD": value}):
        assert redact(f"before {value} after") == "before *** after"
