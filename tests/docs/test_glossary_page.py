"""The glossary has the report's words, and each page links a term where it first uses it."""

from pathlib import Path

import pytest
from glossary_terms import WITHOUT_LINKS, read_terms, unlinked
from pages import PAGES

from detexport.report.glossary import TERMS


def test_a_term_has_the_same_words_as_in_the_report() -> None:
    terms = read_terms()
    shared = terms.keys() & TERMS.keys()
    assert shared >= {
        "artifact",
        "target",
        "job",
        "eager",
        "champion",
        "noise floor",
        "contract",
        "certificate",
    }
    for term in shared:
        assert " ".join(terms[term].partition("\n\n")[0].split()) == TERMS[term], term


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in WITHOUT_LINKS], ids=lambda page: page.name
)
def test_a_page_links_a_term_where_it_first_uses_it(page: Path) -> None:
    assert [term for term, *_ in unlinked(page, read_terms())] == []


def test_a_use_is_found_in_prose_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Champions\n\n| champion |\n\nThe `champion`, an\n*artifact*. "
        "Noise\nfloors of jobs.json, [a job](x.md).\n"
    )
    assert [term for term, *_ in unlinked(page, dict.fromkeys(read_terms(), ""))] == ["noise floor"]
