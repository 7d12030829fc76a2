"""Fuzzed configurations are loaded, or refused by a one-line error."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from detexport.config import get_cfg
from detexport.config.cfg import _leaves, load_cfg
from detexport.config.plain_yaml import compute
from detexport.config.valid_values import check_values
from detexport.errors import ConfigError, OutOfMemoryError
from detexport.modeling import build_model
from fuzzing import FEW, LIMIT_MB, MANY, check, fuzzed

ROOT = Path(__file__).parents[2]
EXAMPLES = [FEW, pytest.param(MANY, marks=pytest.mark.slow)]
TEXT = (ROOT / "conf/detectron2/mask_rcnn.yaml").read_text() + (
    "RETINA: !!python/object/apply:eval ['[[x, x * 2**(1.0/3)] for x in [32, 64]]']\n"
    "TUPLE: !!python/tuple [1, 2]\n"
)
BASE = load_cfg(ROOT / "conf/detectron2/mask_rcnn.yaml")
BASE.MODEL.DEVICE = "cpu"
KEYS = sorted(_leaves(get_cfg(), get_cfg()))
TOKENS = st.sampled_from(
    [
        *"[]{}:,-?&*!|>'\"%@#~",
        "&a ", "*a", "<<: ", "!!int ", "!!float ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ",
        "!!python/name:os.system ",
        "!!python/object/apply:eval ", "_BASE_: ", "null", "1e400",
        ".nan", ".inf", "0x" + "F" * 40, "9" * 5000,
        "2020-99-99",
        "1:60:99", "\n", "  ", "\t", "\0", "\ud7ff", "MODEL", "../", "~nobody/", "/dev/zero", "/",
    ]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.integers(-(1 << 70), 1 << 70) | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["..x", "os.path.join", "p2", "GN", "[" * 3000, "os", "cuda:99", "a.b.c"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
WORDS = st.sampled_from(
    [*"0123456789+-*/()[],.x", "**", " for ", " in ", "x", "y", "[1, 2]", "[x for x in [1, 2]]", "1e9",
     "lambda", "'a'"]
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """Cut, repeat, move or insert some characters of ``text``."""
    for _ in range(draw(st.integers(1, 6))):
        at, length = draw(st.integers(0, len(text))), draw(st.integers(1, 60))
        match draw(st.sampled_from(["cut", "repeat", "insert", "move"])):
            case "cut":
                text = text[:at] + text[at + length :]
            case "repeat":
                text = text[:at] + text[at : at + length] * 2 + text[at + length :]
            case "move":
                text = text[:at] + text[at + length :] + text[at : at + length]
            case _:
                text = text[:at] + draw(TOKENS | st.text(max_size=4)) + text[at:]
    return text


@pytest.mark.parametrize("examples", EXAMPLES)
def test_damaged_text(examples: int, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"

    @fuzzed(examples)
    @given(damaged(TEXT))
    def property_of(text: str) -> None:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        check(lambda: load_cfg(path).dump(), ConfigError)

    property_of()


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_value_of_any_key(examples: int, tmp_path: Path) -> None:
    """Set a value in a file, in code or by a list; all are checked before a model is built."""

    @fuzzed(examples)
    @given(st.sampled_from(KEYS), VALUES, st.sampled_from(["file", "list", "code"]))
    def property_of(key: str, value: Any, route: str) -> None:
        check(lambda: check_values(configured(key, value, route, tmp_path), get_cfg()), ConfigError)

    property_of()


@pytest.mark.slow
def test_models_of_any_value(tmp_path: Path) -> None:
    """A model can be built from each value that is not refused."""
    read = []

    @fuzzed(MANY // 4)
    @given(st.sampled_from([key for key in KEYS if key.startswith("MODEL.")]), VALUES)
    def property_of(key: str, value: Any) -> None:
        kinds = (ConfigError, OutOfMemoryError)
        read.append(
            check(
                lambda: build_model(configured(key, value, "code", tmp_path)), *kinds, limit_mb=4 * LIMIT_MB
            )
        )

    property_of()
    assert any(read)
    assert not all(read)


def configured(key: str, value: Any, route: str, folder: Path) -> Any:
    cfg = BASE.clone()
    if route == "list":
        cfg.merge_from_list([key, value])
    elif route == "code":
        group, _, name = key.rpartition(".")
        (cfg.value_of(group) if group else cfg)[name] = value
    else:
        tree = value
        for part in reversed(key.split(".")):
            tree = {part: tree}
        (folder / "config.yaml").write_text(yaml.safe_dump(tree, allow_unicode=False))
        cfg.merge_from_file(folder / "config.yaml")
    return cfg


@pytest.mark.parametrize("examples", EXAMPLES)
def test_expressions(examples: int) -> None:
    def refused(text: str) -> None:
        try:
            compute(text)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @fuzzed(examples)
    @given(st.lists(WORDS, max_size=40))
    def property_of(words: list[str]) -> None:
        check(lambda: refused("".join(words)), ConfigError)

    property_of()
