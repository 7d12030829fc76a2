"""The pages of the documentation have no banned phrase; their number in the sources does not grow."""

from collections import Counter

import banned
import pytest

# Pages and sources that still have some. A number only ever becomes smaller; lower it with the text.
LEFT: dict[str, dict[str, int]] = {
    "src": {
        "anew": 5,
        "are told": 1,
        "images a call": 1,
        "is said": 1,
        "is told": 1,
        "learnt from": 7,
        "likewise": 6,
        "see the class": 1,
        "takes and gives": 9,
        "wherever": 2,
    },
    "stages": {},
}
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(path.relative_to(banned.ROOT).as_posix() for path in banned.files_of("docs")),
]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in LEFT])
def test_a_page_has_no_banned_phrase(page: str) -> None:
    assert banned.count(page) == Counter()


@pytest.mark.parametrize("name", LEFT)
def test_banned_phrases_do_not_spread(name: str) -> None:
    more = banned.count(name) - Counter(LEFT[name])
    assert not more, (
        f"more than before in {name}: {dict(more)}; python tests/docs/banned.py {name} lists them"
    )


def test_a_phrase_is_found_across_lines_and_in_comments() -> None:
    text = "# It is held\n    # against the model.\nLikewise, an image of\nnothing: unlikewise.\n"
    assert banned.find(text) == [(1, "held against"), (3, "likewise"), (3, "of nothing")]
