"""report.html in a real browser, opened from the disk as people do."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from playwright.sync_api import Page, sync_playwright
from support.results import HOSTILE, make_result

from daemon.job import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
SHOWN = "[frame.getAttribute('src'), ...[...readout.querySelectorAll('b')].map((cell) => cell.textContent)]"


@pytest.fixture
def page() -> Iterator[Page]:
    """Open a browser on a phone, and see afterwards that it loaded files alone and had no complaint."""
    seen: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False)
        page = browser.new_page(viewport={"width": 390, "height": 800}, has_touch=True)
        page.on("request", lambda request: seen.append(request.url.partition("/")[0]))
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        yield page
        browser.close()
    assert set(seen) == {"file:"}


def _click(page: Page, selector: str, across: float, *, is_touch: bool = False) -> None:
    box = page.locator(selector).bounding_box() or {}
    position = {"x": across * box["width"], "y": box["height"] / 2}
    (page.tap if is_touch else page.click)(selector, position=position)


def test_a_page_of_hostile_names_is_whole_on_a_phone(page: Page, tmp_path: Path) -> None:
    """Curve and pictures are there, nothing is wider than the screen, and names are texts."""
    for number, stem in enumerate(HOSTILE):
        page.goto(make_result(tmp_path / str(number), stem).as_uri())
        assert page.title() == " ".join(printable(stem).split())
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
        lengths = page.evaluate("[...curve.querySelectorAll('path')].map((path) => path.getTotalLength())")
        assert [length > 100 for length in lengths] == [True] * 3


@pytest.mark.nightly
def test_the_slider_follows_mouse_touch_and_keyboard(page: Page, tmp_path: Path) -> None:
    """The line between photo and painting goes where it is put, and says where it is."""
    page.goto(make_result(tmp_path / "out").as_uri())
    slider = page.locator("#compare input")
    _click(page, "#compare input", 0.25)
    for _ in range(5):
        slider.press("ArrowRight")
    cut = int(slider.input_value()) / 10
    assert cut == pytest.approx(35, abs=1)
    style = page.evaluate("getComputedStyle(document.querySelector('.before')).clipPath")
    assert style == f"inset(0px {100 - cut:g}% 0px 0px)"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).display") == "block"  # or it has no outline
    slider.press("End")
    assert slider.get_attribute("aria-valuetext") == "100 % photo"
    _click(page, "#compare input", 0.8, is_touch=True)
    assert int(slider.input_value()) == pytest.approx(800, abs=10)


@pytest.mark.nightly
def test_the_scrubber_shows_frames_and_their_losses(page: Page, tmp_path: Path) -> None:
    """Keys, the mouse on the scrubber and the pointer over the curve choose a frame, and show its losses."""
    page.goto(make_result(tmp_path / "out", frames={"every": 2}).as_uri())
    assert page.evaluate(SHOWN) == ["frames/0008.png", "8", "0.333", "0.222", "1"]
    _click(page, "#scrub", 0.02)
    assert page.evaluate(SHOWN) == ["frames/0000.png", "0", "3", "2", "0"]
    page.locator("#scrub").press("ArrowRight")
    assert page.evaluate(SHOWN) == ["frames/0002.png", "2", "1", "0.667", "0.25"]
    _click(page, "#curve", 0.67)
    assert page.evaluate(SHOWN) == ["frames/0004.png", "5", "0.5", "0.333", "0.625"]
    assert "iteration 5 at 32 px, total loss 0.5" in page.locator("#scrub").evaluate("scrub.outerHTML")
    assert page.inner_text("#frame-name") == "at iteration 4"


@pytest.mark.nightly
@pytest.mark.parametrize("way", ["async (text) => { window.said = text; }", "() => Promise.reject()"])
def test_the_sidecar_is_copied(way: str, page: Page, tmp_path: Path) -> None:
    """The button copies result.yaml; where the browser does not allow that, the text is selected."""
    path = make_result(tmp_path / "out", frames={"every": 0})
    page.goto(path.as_uri())
    page.evaluate(f"() => {{ navigator.clipboard.writeText = {way}; document.execCommand = () => false; }}")
    page.click("#copy")
    assert (
        page.evaluate("(window.said || getSelection() + '').trim()")
        == (path.parent / "result.yaml").read_text("utf-8").strip()
    )


@pytest.mark.nightly
def test_the_parts_of_a_picture_an_eighth_as_wide_have_their_names(page: Page, tmp_path: Path) -> None:
    """No word of a caption is broken on a phone, and none is wider than its picture."""
    tall = np.zeros((256, 32, 3), np.uint8)
    page.goto(make_result(tmp_path / "out", result=tall).as_uri())
    words = "[...document.querySelectorAll('.ends span, figcaption b')]"
    assert page.evaluate(f"{words}.every((word) => word.getClientRects().length === 1)")
    assert page.evaluate(f"{words}.every((word) => word.parentNode.scrollWidth <= word.parentNode.offsetWidth)")


@pytest.mark.nightly
def test_what_does_nothing_there_is_neither_printed_nor_shown_without_a_script(
    page: Page, tmp_path: Path
) -> None:
    """Paper has the curve with its legend, and no second result; without a script there is losses.png."""
    page.goto(make_result(tmp_path / "out").as_uri())
    page.emulate_media(media="print")
    assert _visible(page) == {"#readout", "#curve"}
    assert page.context.browser
    plain = page.context.browser.new_page(java_script_enabled=False)
    plain.goto(page.url)
    assert _visible(plain) == {"#frame", "noscript img"}


def _visible(page: Page) -> set[str]:
    parts = ("#compare", "#scrub", "#copy", "#readout", "#curve", "#frame", "noscript img")
    return {part for part in parts if page.is_visible(part)}
