"""The glossary, and where pages use its terms."""

import re
from collections.abc import Iterator
from pathlib import Path

from pages import FENCE, ROOT

GLOSSARY = ROOT / "docs/glossary.md"
# Each of these pages describes the terms itself, or is written by a tool.
WITHOUT_LINKS = {"CONTRIBUTING.md", "benchmarks.md", "coverage.md", "glossary.md"}
# Not prose: comments, headings, rows of tables, images, inline code.
OTHER = re.compile(r"<!--.*?-->|^#.*?$|^ *\|.*?$|!\[[^\]]*\]\([^)]*\)|`[^`]*`", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\([^)]*\)")


def read_terms() -> dict[str, str]:
    """Return the text of each term of the glossary, by the term."""
    text = GLOSSARY.read_text(encoding="utf-8")
    entries = re.findall(r"^### ([^\n]+)\n\n(.+?)(?=\n\n#|\Z)", text, re.M | re.S)
    return dict(entries)


def pattern(term: str) -> re.Pattern[str]:
    """Return what a use of a term looks like: also in the plural, and broken across lines."""
    words = r"\s+".join(map(re.escape, term.split()))
    return re.compile(rf"(?<![\w@/.\-]){words}s?(?![\w/]|\.\w)", re.I)


def blank(text: str, other: re.Pattern[str]) -> str:
    """Return text with matches replaced by spaces, at the same offsets and lines."""
    return other.sub(lambda found: re.sub(r"\S", " ", found.group()), text)


def unlinked(page: Path, terms: dict[str, str]) -> Iterator[tuple[str, int, int]]:
    """Yield each term whose first use in a page's prose is no link, with start and end of the use.

    A page that the term's entry refers to describes it, and so does one that writes it *so*.
    """
    prose = blank(blank(page.read_text(encoding="utf-8"), FENCE), OTHER)
    links = [found.span() for found in LINK.finditer(prose)]
    for term, entry in terms.items():
        use = pattern(term).search(prose)
        if use is None or re.search(rf"\({re.escape(page.name)}[#)]", entry):
            continue
        is_linked = any(start <= use.start() < end for start, end in links)
        if not is_linked and prose[use.start() - 1] != "*":
            yield term, *use.span()
