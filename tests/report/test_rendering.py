"""The template engine: a misspelt name is an error, and text from outside is escaped."""

import pytest
from jinja2 import UndefinedError

from detexport.report.rendering import environment


def test_a_misspelt_name_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        environment({}, {}).from_string("{{ latencyms }}").render(latency_ms=3)


def test_text_from_outside_is_escaped() -> None:
    assert environment({}, {}).from_string("{{ name }}").render(name="<b>") == "&lt;b&gt;"


def test_a_template_has_the_numbers_formats_and_its_own_filters() -> None:
    engine = environment({"unit": "ms"}, {"double": lambda value: 2 * value})
    assert engine.from_string("{{ 2.345678|double|number(unit) }}").render() == "4.69 ms"
