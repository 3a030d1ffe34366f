"""report.html and contact.png: what they show of a result, and that a name or a sidecar is only shown."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from support.results import HOSTILE, ROWS, make_result, picture

from daemon.job import printable
from daemon.outbox import report_page
from daemon.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("stem", HOSTILE)
def test_names_and_sidecars_are_shown_not_executed(stem: str, tmp_path: Path) -> None:
    """Whatever they contain, the page has its own elements and no other; the texts arrive as they are."""
    text = make_result(tmp_path / "hostile", stem).read_text("utf-8")
    plain = make_result(tmp_path / "plain").read_text("utf-8")
    assert re.findall(r"<(\w+)", text) == re.findall(r"<(\w+)", plain)
    assert f"<bdi>{printable(stem)}</bdi></h1>" in html.unescape(text)
    assert (tmp_path / "hostile" / "result.yaml").read_text("utf-8") in html.unescape(text)


def test_only_the_pages_own_style_and_script_are_allowed(tmp_path: Path) -> None:
    """The policy forbids everything but pictures beside the page and two inline texts, by their hashes."""
    text = make_result(tmp_path / "out").read_text("utf-8")
    inline = [re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[0] for tag in ("style", "script")]
    style, script = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in inline)
    policy = "default-src 'none'; img-src 'self' file:; base-uri 'none'; form-action 'none'; "
    policy += f"style-src 'sha256-{style}'; script-src 'sha256-{script}'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in html.unescape(text)


@pytest.mark.parametrize("keys", [{}, {"output": {"format": "tiff"}}, {"frames": {"every": 0}}], ids=str)
def test_every_link_and_picture_is_beside_the_page(keys: dict[str, Any], tmp_path: Path) -> None:
    """Each address names a file of the result, and each picture says what it shows."""
    text = make_result(tmp_path / "out", **keys).read_text("utf-8")
    addresses = re.findall('(?:href|src)="(.*?)"', text)
    assert [address for address in addresses if not (tmp_path / "out" / address).is_file()] == []
    assert {"result.yaml", "losses.csv", "contact.png", "report/style-2.jpg"} < set(addresses)
    assert len(re.findall("<img ", text)) == len(re.findall('<img [^>]*alt="[^"]+"', text)) >= 7


def test_the_page_has_the_losses_and_what_is_unusual(tmp_path: Path) -> None:
    """Rows and frames for the curve, and the settings that are not the preset's."""
    text = make_result(tmp_path / "out", strength=0.7, frames={"every": 4}).read_text("utf-8")
    facts = json.loads(text.partition('id="facts">')[2].partition("</script>")[0])
    assert facts == {"rows": [list(row[:5]) for row in ROWS], "frames": [0, 4, 8]}
    listed = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert (listed["strength"], listed["frames"], listed["device"]) == (
        "0.7",
        "every 4, animation webp",
        "fake, float32",
    )
    assert "pooling" not in listed
    assert report_page.changed(Settings.model_validate(report_page.PRESETS["paper"]), "paper") == {}


@pytest.mark.parametrize(("every", "bands"), [(0, 1), (2, 2)])
def test_the_contact_sheet_shows_what_there_is(every: int, bands: int, tmp_path: Path) -> None:
    """Content, styles and result lie in one row, and frames in another below it."""
    make_result(tmp_path / "out", frames={"every": every})
    with Image.open(tmp_path / "out" / "contact.png") as image:
        is_colored = np.ptp(np.asarray(image).astype(int), axis=2).max(axis=1) > 20
    assert np.diff(is_colored.astype(int)).tolist().count(1) == bands


@pytest.mark.timeout(20)
def test_a_sidecar_of_many_regions_has_a_page(tmp_path: Path) -> None:
    """A line too long for the sheet is cut off at once; names are escaped, bad UTF-8 as well."""
    regions = [{"content": "\udcff\u202e.png", "style": "s" * 250}] * 16
    text = make_result(tmp_path / "out", regions=regions).read_text("utf-8")
    assert f"<dd>content \\udcff\\u202e.png, style {'s' * 250}, weight 1.0; content" in text
    with Image.open(tmp_path / "out" / "contact.png") as image:
        assert image.width == 1800
        assert np.asarray(image)[:, -70:].min() > 230  # the margin


def test_what_a_browser_does_not_show_has_a_jpeg(tmp_path: Path) -> None:
    """A TIFF of 16 bits with alpha is shown as a JPEG on white."""
    deep = np.dstack([picture(3).astype(np.uint16) * 257, np.zeros((24, 32), np.uint16)])
    make_result(tmp_path / "out", result=deep, output={"format": "tiff", "bits": 16})
    with Image.open(tmp_path / "out" / "report" / "result.jpg") as image:
        assert np.asarray(image).min() > 250
