"""Most names of detectron2's documentation are here, and each other one is refused with a reason."""

from typing import Any

import pytest

from count_detectron2_names import DocumentedName, documented_names
from detexport.detectron2_names import REFUSED, refusal

NAMES = list(documented_names())
LEAST_SHARE = 0.95


def test_no_name_is_listed_twice() -> None:
    paths = [one.path for one in NAMES]
    assert len(paths) == len(set(paths))


def test_most_names_are_here() -> None:
    assert sum(one.is_here() for one in NAMES) >= LEAST_SHARE * len(NAMES)


@pytest.mark.parametrize("page", sorted({one.page for one in NAMES}))
def test_a_name_is_here_or_refused_with_a_reason(page: str) -> None:
    missing = [one.path for one in NAMES if one.page == page and not one.is_here() and not refusal(one.path)]
    assert missing == []


def test_what_is_refused_is_not_here() -> None:
    assert [one.path for one in NAMES if one.is_here() and one.path in REFUSED] == []


def test_the_names_that_are_here_have_the_documented_arguments() -> None:
    assert [one.path for one in NAMES if one.is_here() and not one.has_arguments()] == []


@pytest.mark.parametrize(
    ("arguments", "same"),
    [(("a", "b"), True), (("b", "a"), False), (("a", "c"), True), (("a", "z"), False), (("a", "d"), True)],
)
def test_order_and_keywords_that_are_passed_on_are_compared(
    arguments: tuple[str, ...], same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Parent:
        def __init__(self, *, c: int, d: int) -> None: ...

    class Child(Parent):
        def __init__(self, a: int, b: int, **options: Any) -> None: ...

    monkeypatch.setattr("count_detectron2_names.find", lambda module, name: Child)
    assert DocumentedName("page", "module", "Child", arguments).has_arguments() == same
