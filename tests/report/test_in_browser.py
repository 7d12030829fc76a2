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
from detexport.system.files import read_json

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


@pytest.fixture(scope="module")
def page_of_three_models(three_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "index.html"
    registered, promoted = three_models / "registered.json", three_models / "promoted.json"
    jobs = {
        one["job"]: {"model": one["model"], "target": one["target"], "artifact": one["target"]}
        for one in read_json(registered)["registered"]
    }
    models, data = three_models / "models", three_models / "data"
    write_page(collect(jobs, models, registered, data, promoted=promoted), path, budget=BUDGET, data_dir=data)
    return path


@pytest.mark.parametrize("of", ["page_file", "page_of_three_models"])
def test_the_recommendation_and_the_table_are_on_the_first_two_screens(
    of: str, browser: Any, request: pytest.FixtureRequest
) -> None:
    """On a phone, also with three models of three jobs each."""
    width, height = SIZES["phone"]
    opened = browser.new_page(viewport={"width": width, "height": height})
    opened.goto(request.getfixturevalue(of).as_uri())
    ends = {
        name: opened.evaluate(
            f"Array.from(document.querySelectorAll('{name}'), e => e.getBoundingClientRect().bottom)"
        )
        for name in (".ship", "table.jobs")
    }
    rows = opened.evaluate(
        "Array.from(document.querySelectorAll('table.jobs tbody tr'), e => e.getBoundingClientRect().height)"
    )
    faults = {check: opened.evaluate(f"{CHECKS}.{check}()") for check in ("overlaps", "cut")}
    opened.close()
    assert ends[".ship"][0] < height, "a recommendation is on the first screen"
    assert max(ends["table.jobs"]) < 2 * height, "the table is on the second"
    assert max(rows) < 36, "a job is one line"
    assert faults == {"overlaps": [], "cut": []}


def test_every_term_can_be_opened_without_a_mouse(page: Any) -> None:
    summaries = page.locator("details.terms > summary")
    assert summaries.count() >= 6
    assert page.locator("details.terms dd").count() >= 20
