"""The documentation site: it builds without a warning, its links lead somewhere, and it needs no network."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pages import PAGES, ROOT

# What a browser fetches by itself; links that a reader follows may lead elsewhere.
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src", "video": "src"}
SECTIONS = [
    "Get started",
    "Pipeline",
    "Data sets",
    "Command line",
    "Python API",
    "For detectron2 users",
    "Parity",
    "Formats and runtimes",
    "C++",
    "Custom models",
    "Coverage",
    "Benchmarks",
    "Glossary",
    "Contributing",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a link or an anchor that leads nowhere is an error."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'detexport[docs]'")
    folder = tmp_path_factory.mktemp("site") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        # Whatever reaches for the network fails.
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://localhost:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    return folder


class Loaded(HTMLParser):
    """Addresses that a page loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADED.get(tag, ""), "") or ""
        if re.match(r"(https?:)?//", address):
            self.found.append(address)


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        parser = Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.found == [], page
    for sheet in site.rglob("*.css"):
        found = re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text(encoding="utf-8"))
        assert found is None, sheet


def test_the_navigation_has_every_section(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    navigation = page[page.index("md-nav--primary") : page.index("md-content")]
    names = [re.sub(r"\s+", " ", name).strip() for name in re.findall(r">([^<>]+)<", navigation)]
    assert [name for name in dict.fromkeys(names) if name in SECTIONS] == SECTIONS


def test_the_reference_has_the_docstrings(site: Path) -> None:
    page = (site / "reference" / "runtime.html").read_text(encoding="utf-8")
    assert 'id="detexport.runtime.load"' in page
    assert "RuntimeUnavailableError" in page


def test_pages_of_files_outside_docs_are_there(site: Path) -> None:
    assert "Adding a target" in (site / "contributing.html").read_text(encoding="utf-8")
    custom = (site / "custom_models.html").read_text(encoding="utf-8")
    assert 'href="examples/custom_detector.html"' in custom
    assert "PeakDetector" in (site / "examples" / "custom_detector.html").read_text(encoding="utf-8")


def test_the_marker_of_a_block_is_not_shown(site: Path) -> None:
    assert not [page for page in site.glob("*.html") if "<!-- not run" in page.read_text(encoding="utf-8")]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_relative_link_in_the_repository_leads_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target
