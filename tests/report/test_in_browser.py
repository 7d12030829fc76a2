"""The page in a real browser, on a desktop and on a phone."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from budgets import BUDGET

from detexport.report.collect import collect
from detexport.report.page import write_page

CHROMIUM = shutil.which("chromium")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
JOBS = {
    f"tiny-{target}": {"model": "tiny", "target": target, "artifact": target} for target in ("onnx", "lost")
}
FINISHED = os.environ.get("DETEXPORT_REPORT")
"""A report of the pipeline to check instead of the small one."""

CHECKS = (Path(__file__).parent / "browser_checks.js").read_text(encoding="utf-8").strip()


@pytest.fixture(scope="module")
def page_file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if FINISHED:
        return Path(FINISHED).resolve()
    path = tmp_path_factory.mktemp("report") / "index.html"
    results = collect(
        JOBS,
        run / "models",
        run / "registered.json",
        run / "data",
        run / "checkpoints",
        {"tiny-scripting": {"reason": "a loop of its own", "upstream": "issue 7"}},
        run / "promoted.json",
        Path(__file__).parents[2] / "docs" / "coverage.json",
    )
    write_page(results, path, budget=BUDGET)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--headless", "--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=SIZES)
def page(request: pytest.FixtureRequest, browser: Any, page_file: Path) -> Iterator[Any]:
    width, height = SIZES[request.param]
    opened = browser.new_page(viewport={"width": width, "height": height}, offline=True)
    opened.messages = []
    opened.on("console", lambda message: opened.messages.append(message.text))
    opened.on("pageerror", lambda error: opened.messages.append(str(error)))
    opened.on("request", lambda sent: opened.messages.append(sent.url) if _is_remote(sent.url) else None)
    opened.goto(page_file.as_uri())
    yield opened
    opened.close()


def _is_remote(url: str) -> bool:
    return not url.startswith(("file:", "data:"))


@pytest.fixture(params=["closed", "open"])
def state(request: pytest.FixtureRequest, page: Any) -> str:
    """The page as it opens, and with all details open."""
    if request.param == "open":
        page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    return str(request.param)


def test_nothing_is_reported_on_the_console_or_fetched(page: Any) -> None:
    assert page.messages == []


def test_all_images_load(page: Any) -> None:
    images = page.evaluate(f"{CHECKS}.images()")
    assert images["count"] > 0
    assert images["broken"] == []


@pytest.mark.parametrize("check", ["overlaps", "cut"])
def test_nothing_overlaps_and_nothing_is_cut(page: Any, state: str, check: str) -> None:
    found = page.evaluate(f"{CHECKS}.{check}()")
    assert not found, json.dumps(found[:8], indent=1)


def test_the_recommendation_and_the_table_are_on_the_first_two_screens(browser: Any, page_file: Path) -> None:
    width, height = SIZES["phone"]
    opened = browser.new_page(viewport={"width": width, "height": height})
    opened.goto(page_file.as_uri())
    bottoms = opened.evaluate(
        "['.ship', 'table.jobs'].map(s => document.querySelector(s).getBoundingClientRect().bottom)"
    )
    opened.close()
    assert bottoms[0] < height, "the recommendation is on the first screen"
    assert bottoms[1] < 2 * height, "the table is on the second"


def test_every_term_can_be_opened_without_a_mouse(page: Any) -> None:
    summaries = page.locator("details.terms > summary")
    assert summaries.count() >= 6
    assert page.locator("details.terms dd").count() >= 20
