"""No page of the documentation and no source has a banned phrase."""

from collections import Counter

import banned
import pytest

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(path.relative_to(banned.ROOT).as_posix() for path in banned.files_of("docs")),
]


@pytest.mark.parametrize("name", [*PAGES, "src", "stages", "tools"])
def test_there_is_no_banned_phrase(name: str) -> None:
    """``python tests/docs/banned.py NAME`` lists them by file and line."""
    assert banned.count(name) == Counter()


def test_a_phrase_is_found_across_lines_and_in_comments() -> None:
    text = "# It is held\n    # against the model.\nLikewise, an image of\nnothing: unlikewise.\n"
    assert banned.find(text) == [(1, "held against"), (3, "likewise"), (3, "of nothing")]
