"""MkDocs hooks: generate pages from documentation outside docs/.

These are the API reference (one page per package and top-level module of ``detexport``), the programs of
``examples/`` and ``CONTRIBUTING.md``. Links between them and the pages of ``docs/`` work in the repository
and on the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "detexport"
# Documented by its own page, docs/cli.md.
NO_REFERENCE = {"detexport.cli"}
# Marks how a test runs the code block below it: see tests/docs/pages.py.
MARKER = re.compile(r"^ *<!-- (?:not )?run: .*-->\n", re.M)
LINK = re.compile(r"(\]\()([^)\s#]+)([^)]*\))")


def _reference_pages() -> dict[str, str]:
    """Return a page for each package, with its modules, and for each module at the top."""
    # `alias_in_children` is a folder of PYTHONPATH, whose package is not one of `detexport`.
    packages = [
        path.parent
        for path in PACKAGE.rglob("__init__.py")
        if path.parent != PACKAGE and (path.parents[1] / path.name).is_file()
    ]
    pages = {path: _modules(path) for path in packages} | {path: [] for path in _modules(PACKAGE)}
    return {
        f"reference/{'.'.join(path.relative_to(PACKAGE).parts)}.md": _directives(path, modules)
        for path, modules in sorted(pages.items())
        if _dotted(path) not in NO_REFERENCE
    }


def _modules(package: Path) -> list[Path]:
    """Return the public modules of a package, without their suffix."""
    return sorted(path.with_suffix("") for path in package.glob("*.py") if not path.name.startswith("_"))


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).parts)


def _directives(path: Path, modules: list[Path]) -> str:
    heading = f"::: {_dotted(path)}\n"
    return heading + "".join(
        f"\n::: {_dotted(module)}\n    options:\n      heading_level: 2\n" for module in modules
    )


def _example_pages() -> dict[str, str]:
    programs = sorted((ROOT / "examples").glob("*.py"))
    return {
        f"examples/{path.stem}.md": f"# {path.name}\n\n```python\n{path.read_text('utf-8')}```\n"
        for path in programs
    }


def _generated_pages() -> dict[str, str]:
    """Return the Markdown of each generated page, by its path on the site."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    return {**_reference_pages(), **_example_pages(), "contributing.md": _site_links(contributing, "")}


def _site_path(target: str) -> str:
    """Return the path on the site of a file of the repository."""
    if target == "CONTRIBUTING.md":
        return "contributing.md"
    if target.startswith("examples/") and target.endswith(".py"):
        return target.removesuffix(".py") + ".md"
    return target.removeprefix("docs/")


def _site_links(markdown: str, folder: str) -> str:
    """Turn the relative links of a file in a folder of the repository into links of the site."""

    def replace(match: re.Match[str]) -> str:
        opening, target, closing = match.groups()
        if ":" in target:
            return match.group()
        return opening + _site_path(posixpath.normpath(posixpath.join(folder, target))) + closing

    return LINK.sub(replace, markdown)


def _expanded(nav: Any, pages: list[str]) -> Any:
    """Replace each entry that names a folder (``reference/``) by the pages in it."""
    if isinstance(nav, list):
        return [_expanded(entry, pages) for entry in nav]
    if isinstance(nav, dict):
        return {title: _expanded(entry, pages) for title, entry in nav.items()}
    if nav.endswith("/"):
        return [{page.removeprefix(nav).removesuffix(".md"): page} for page in pages if page.startswith(nav)]
    return nav


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the generated pages to the navigation."""
    config.nav = _expanded(config.nav, list(_generated_pages()))
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of docs/."""
    for path, content in _generated_pages().items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Remove the markers of code blocks, and resolve links to files outside docs/."""
    markdown = MARKER.sub("", markdown)
    return markdown if page.file.generated_by else _site_links(markdown, "docs")
