"""Most names of detectron2's documentation are here, and each other one is refused with a reason."""

import pytest

from count_detectron2_names import documented_names
from detexport.detectron2_names import REFUSED, refusal

NAMES = list(documented_names())
LEAST_SHARE = 0.75


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
