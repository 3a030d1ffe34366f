"""error.html: the lines and pictures of a failed drop are shown, and nothing that it contains is executed."""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from PIL import Image
from structlog.testing import capture_logs
from support.fakes import FakeEngine
from support.results import HOSTILE
from support.trees import Stepper, hasten, save

from daemon import config, safe_yaml
from daemon.errors import Failure, Reason
from daemon.job import Job, Part, printable
from daemon.outbox import error_page

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FAULTY = (
    "content: a#b%20.png\nstyle: wave.png\n\n\n\n\nsize: 300\nstregth: 1\n</code><script>alert(1)</script>: 3\n"
)


@pytest.fixture
def fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Drop a sidecar beside four files; `wave.tiff` and `text.png` cannot be shown. Gives the entry."""
    hasten(monkeypatch)

    def run(sidecar: str, name: str = "sea") -> Path:
        settings = config.build({"inbox": {"settle_s": 0.01}}, tmp_path, environment={})
        settings.folders.inbox.mkdir()
        for seed, picture in enumerate(("a#b%20.png", "wave.png")):
            save(settings.folders.inbox / picture, seed)
        Image.new("RGB", (32, 24)).save(settings.folders.inbox / "wave.tiff")
        (settings.folders.inbox / "text.png").write_text("<script>alert(1)</script>")
        (settings.folders.inbox / f"{name}.yaml").write_text(sidecar, "utf-8")
        Stepper(settings, FakeEngine()).until_quiet(deadline_s=30)
        (entry,) = settings.folders.outbox.glob("*.failed")
        return entry

    return run


def test_faults_stand_at_their_lines_beside_the_pictures(fail: Callable[..., Path]) -> None:
    """Each below its line, some lines around them, and what was dropped where browsers show it."""
    entry = fail(FAULTY)
    text = (entry / "error.html").read_text("utf-8")
    assert re.findall('<li value="(.*?)"( class="faulty")?>', text) == [
        *(("6", ""), ("7", ""), ("8", ' class="faulty"'), ("9", ' class="faulty"')),
    ]
    assert "<p><bdi>unknown key &#39;stregth&#39; (did you mean &#39;strength&#39;?)</bdi></p>" in text
    pictures = [unquote(address) for address in re.findall('<img src="(.*?)"', text)]
    assert pictures == ["drop/a#b%20.png", "drop/wave.png"]
    assert all((entry / picture).is_file() for picture in pictures)
    assert "error.html" in json.loads((entry / "manifest.json").read_bytes())["files"]
    assert [fault["line"] for fault in safe_yaml.parse((entry / "error.yaml").read_bytes())["faults"]] == [8, 9]


def test_a_picture_that_cannot_be_decoded_is_named_not_shown(fail: Callable[..., Path]) -> None:
    """Nor is one whose format browsers do not show; the others are."""
    text = (fail("{content: text.png, style: [wave.png, wave.tiff]}") / "error.html").read_text("utf-8")
    assert re.findall('<img src="(.*?)"', text) == ["drop/wave.png"]
    assert re.findall("<bdi>([a-z.]+)</bdi>[,<]", text.partition("Not shown")[2]) == ["text.png", "wave.tiff"]
    assert Reason.NOT_A_PICTURE.help in text


@pytest.mark.parametrize("stem", HOSTILE)
def test_whatever_a_drop_contains_is_text(stem: str, tmp_path: Path) -> None:
    """No element comes from names and messages, and the policy allows no script at all."""

    def page(text: str) -> str:
        parts = (Part("content", text, "content-0.jpg", height_px=3, width_px=4), Part("style", "b.png"))
        job = Job("3f9c21ab00000001", 1, text, ".", parts, "default", None, "2026-01-01T00:00:00+00:00")
        failure = Failure(Reason.DIVERGED, printable(text), hint=printable(text), last_lines=("Traceback",))
        return error_page.make(job, failure, tmp_path, has_last_good=True).decode("utf-8")

    text, names = page(stem), re.compile(r"<(/?\w+)")
    assert names.findall(text) == names.findall(page("sea.jpg"))
    assert f"<bdi>{printable(stem)}</bdi></h1>" in html.unescape(text)
    assert "script-src" not in text
    assert "Traceback" not in text
    assert "last_good.png" in text


def test_a_page_that_cannot_be_made_costs_no_entry(
    fail: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure is published without it, with a warning."""
    monkeypatch.setattr(error_page, "page", lambda *_: 1 / 0)
    with capture_logs() as records:
        entry = fail(FAULTY)
    assert sorted(path.name for path in entry.iterdir()) == ["drop", "error.yaml", "manifest.json"]
    assert "outbox.report_failed" in [record["event"] for record in records]
