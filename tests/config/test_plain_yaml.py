import time

import pytest
import yaml

from detexport.config.cfg import load_cfg
from detexport.config.plain_yaml import compute, load
from detexport.errors import ConfigError

ANCHORS = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"


def test_computed_anchors_of_the_published_retinanet(tmp_path):
    path = tmp_path / "config.yaml"
    text = f'MODEL:\n  ANCHOR_GENERATOR:\n    SIZES: !!python/object/apply:eval ["{ANCHORS}"]\n'
    path.write_text(text)
    sizes = load_cfg(path).MODEL.ANCHOR_GENERATOR.SIZES
    assert sizes == [[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (32, 64, 128, 256, 512)]


def test_tuples_are_lists():
    assert load("A: !!python/tuple [1, 2]") == {"A": [1, 2]}


@pytest.mark.parametrize(("text", "value"), [("-3 * (2 + 1) / 2 - 1", -5.5), ("(1, [2.5])", [1, [2.5]])])
def test_arithmetic(text, value):
    assert compute(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "[].__class__",
        "open('x')",
        "x",
        "[x for x in 3]",
        "[x for x in [1] if x]",
        "9**9**9**9",
        "[1] * 1000",
        "'a' * 3",
        "True + 1",
        "(-8)**0.5",
        "1 / 0",
        "1 +",
    ],
)
def test_other_expressions_are_refused(text, tmp_path):
    with pytest.raises(ValueError):  # noqa: PT011 - the messages differ
        compute(text)
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump({"SEED": "here"}).replace("here", f'!!python/object/apply:eval ["{text}"]')
    )
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        load_cfg(path)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system"])
def test_other_python_tags_are_refused(tag):
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        load(f"A: {tag}")


NESTED = f"[[[[[[a for a in L] for b in L] for c in L] for d in L] for e in L] for L in [[{'1,' * 31}1]]]"


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (NESTED, "more than 10000 operations"),
        (f"[[x for x in {[1] * 200}] for y in {[1] * 200}]", "more than 10000 operations"),
        ("[[e, e] for e in [[d] * 9 for d in [1]]]", "is not a number"),
        ("-" * 3000 + "1", "cannot be computed|nested"),
        ("-" * 100_000 + "1", "more than 4000 characters"),
        ("(" * 1900 + "1" + ")" * 1900, "cannot be computed"),
        ("1" * 3900, "not arithmetic|cannot be computed"),
        ("1e9 * 1e9", "not a number of at most"),
        ("1e999", "not arithmetic"),
        ("[a for a in a]", "not arithmetic"),
    ],
)
def test_the_work_of_an_expression_is_bounded(expression, message):
    start = time.process_time()
    with pytest.raises(ValueError, match=message) as caught:
        compute(expression)
    assert time.process_time() - start < 5
    assert len(str(caught.value)) < 300


def test_lists_of_shared_lists_are_bounded():
    levels = "1"
    for name in "abcdefghijklmnopqrst":
        levels = f"[[{name}, {name}] for {name} in [{levels}]]"
    with pytest.raises(ValueError, match="more than 10000 operations"):
        compute(levels)


def test_the_number_of_values_of_aliases_is_bounded():
    """Ten lines expand to ten billion values, as sequences, as mappings, and as merged mappings."""
    for first, level in (
        ("[1, 1]", "[*{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}]"),
        (
            "{{x: 1}}",
            "{{a: *{0}, b: *{0}, c: *{0}, d: *{0}, e: *{0}, f: *{0}, g: *{0}, h: *{0}, i: *{0}, j: *{0}}}",
        ),
        ("{{x: 1}}", "{{<<: [*{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}]}}"),
    ):
        lines = [f"l0: &l0 {first.format()}"]
        lines += [f"l{n + 1}: &l{n + 1} {level.format(f'l{n}')}" for n in range(10)]
        start = time.process_time()
        with pytest.raises(yaml.YAMLError, match="more than 100000 values"):
            load("\n".join(lines))
        assert time.process_time() - start < 5
    assert load("a: &a [1, 2]\nb: *a\nc: {<<: {d: 3}}") == {"a": [1, 2], "b": [1, 2], "c": {"d": 3}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a: &a [*a]", "a part of"),
        ("a: 2020-99-99", "does not fit its type"),
        ("a: " + "9" * 5000, "does not fit its type"),
        ("a: !!int x", "does not fit its type"),
        ("a: !!int ''", "does not fit its type"),
        ("a: !!bool x", "does not fit its type"),
        ("a: !!timestamp x", "does not fit its type"),
        ("a: !!float x", "does not fit its type"),
        ("? [a]\n: 1", "unhashable"),
        ("a: \0", "special characters"),
        ("a: *b", "undefined alias"),
    ],
)
def test_errors_of_the_parser_are_yaml_errors(text, message):
    with pytest.raises(yaml.YAMLError, match=message):
        load(text)
