"""The page in a real browser, at the width of a desktop and of a phone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_server import png, running

import detexport
from tiny_artifacts import tiny_image, write_tiny_onnx

CHROMIUM = shutil.which("chromium") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Debian's chromium is not installed")
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
HIDDEN_WORDS = "els => els.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Open a server's page; its messages and requests are kept in ``page.seen``."""
    contexts = []

    def open_page(url: str, width: str = "desktop", **options: Any) -> Any:
        size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
        contexts.append(browser.new_context(viewport=size, **options))
        page = contexts[-1].new_page()
        page.seen = {"messages": [], "requests": []}
        page.on("console", lambda message: page.seen["messages"].append(message.text))
        page.on("pageerror", lambda error: page.seen["messages"].append(str(error)))
        page.on("request", lambda request: page.seen["requests"].append(request.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()


def show(page: Any, encoded: bytes, name: str = "photo.png") -> None:
    from playwright.sync_api import expect

    expect(page.locator("#model")).to_contain_text("sha256")
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": encoded})
    expect(page.locator("#times")).to_contain_text("model")


@pytest.mark.parametrize("width", sorted(WIDTHS))
def test_an_image_is_shown_with_its_detections(
    server: Any, tiny_onnx: Path, open_page: Any, width: str
) -> None:
    page = open_page(server.url, width)
    show(page, png(tiny_image(120, 200)))
    assert page.inner_text("#count") == "2 of 3 detections"
    rows = page.locator("#list tbody tr")
    found = detexport.load(tiny_onnx)(tiny_image(120, 200).transpose(1, 2, 0), score_threshold=0.5)
    wanted = [[n, f"{s:.3f}"] for n, s in zip(found.class_names, found.scores, strict=True)]
    assert [row.split("\t")[:2] for row in rows.all_inner_texts()] == wanted
    assert page.inner_text("#times").startswith("200 \N{MULTIPLICATION SIGN} 120 px in ")
    page.locator("#score").fill("0")
    page.wait_for_timeout(100)
    assert rows.count() == 3
    # Nothing wider than the screen, no text cut, no error, and nothing from another address.
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS[width][0]
    assert page.eval_on_selector_all("header *, main :not(input), footer *", HIDDEN_WORDS) == []
    assert page.seen["messages"] == []
    assert all(one.startswith((server.url, "data:", "blob:")) for one in page.seen["requests"])


def pixels(page: Any, *places: tuple[float, float]) -> list[tuple[int, ...]]:
    """The colours of the canvas at fractions of its width and height."""
    code = """(canvas, places) => places.map(([x, y]) => [...canvas.getContext("2d").getImageData(
        Math.round(x * canvas.width), Math.round(y * canvas.height), 1, 1).data])"""
    return [tuple(one) for one in page.eval_on_selector("#canvas", code, [list(place) for place in places])]


def test_boxes_and_masks_are_drawn_where_they_are(server: Any, open_page: Any) -> None:
    """The circle's box is at fractions 0.1, 0.2, 0.6, 0.7 of the image, its mask around the centre."""
    page = open_page(server.url)
    flat = np_full(120, 200)
    show(page, png(flat))
    page.uncheck("#labels")
    page.wait_for_timeout(100)
    edge, centre, outside = pixels(page, (0.1, 0.5), (0.35, 0.45), (0.05, 0.9))
    assert edge[:3] == (0xE6, 0x9F, 0x00)  # the first colour of the palette
    assert outside[:3] == (200, 90, 140)
    mixed = [round(0.45 * a + 0.55 * b) for a, b in zip((0xE6, 0x9F, 0x00), (200, 90, 140), strict=True)]
    assert all(abs(got - want) < 12 for got, want in zip(centre[:3], mixed, strict=True)), (centre, mixed)
    page.uncheck("#masks")
    page.uncheck("#boxes")
    page.wait_for_timeout(100)
    assert {one[:3] for one in pixels(page, (0.1, 0.5), (0.35, 0.45))} == {(200, 90, 140)}


def np_full(height: int, width: int) -> Any:
    import numpy as np

    return np.broadcast_to(np.array([200, 90, 140], np.uint8)[:, None, None], (3, height, width)).copy()


def test_an_image_can_be_dropped(server: Any, open_page: Any) -> None:
    from playwright.sync_api import expect

    page = open_page(server.url)
    code = """async ([bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "photo.png", {type: "image/png"}));
        return data;
    }"""
    data = page.evaluate_handle(code, [list(png())])
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    expect(page.locator("#count")).to_have_text("2 of 3 detections")


def test_an_error_is_shown_and_the_next_image_is_answered(server: Any, open_page: Any) -> None:
    page = open_page(server.url, "phone")
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error").startswith("the input is not an image")
    show(page, png())
    assert page.is_hidden("#error")


@pytest.mark.parametrize(
    ("kind", "count", "option"),
    [
        ("keypoints", "2 of 3 detections", "#keypoints"),
        ("panoptic", "2 segments", "#masks"),
        ("semantic", "1 class", "#masks"),
        ("proposals", "3 proposals", "#boxes"),
    ],
)
@pytest.mark.parametrize("width", sorted(WIDTHS))
def test_every_kind_of_model_has_its_outputs_on_the_page(
    tmp_path: Path, open_page: Any, kind: str, count: str, option: str, width: str
) -> None:
    write_tiny_onnx(tmp_path / "model", kind)
    with running(tmp_path / "model") as server:
        page = open_page(server.url, width)
        show(page, png(tiny_image(120, 200)))
        assert page.inner_text("#count") == count
        assert page.is_visible(option)
        assert page.is_visible("#score") == (kind == "keypoints")
        assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS[width][0]
        assert page.seen["messages"] == []
