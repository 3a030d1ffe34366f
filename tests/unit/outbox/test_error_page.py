"""error.html: the lines and pictures of a failed drop are shown, and nothing that it contains is executed."""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from support.fakes import FakeEngine
from support.results import HOSTILE
from support.trees import Stepper, hasten, save

from daemon import config, safe_yaml
from daemon.errors import Failure, Reason
from daemon.job import Job, Part, printable
from daemon.outbox import error_page

if TYPE_CHECKING:
    from pathlib import Path

PICTURES = "content: a#b%20.png\nstyle: [wave.png, text.png, wave.tiff]"
FAULTY = PICTURES + 5 * "\n" + "size: 300\nstregth: 1\n</code><script>alert(1)</script>: 3\n"
LINES = [("6", ""), ("7", ""), ("8", "faulty"), ("9", "faulty")]


@pytest.fixture
def fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Drop a faulty sidecar beside four files, of which the last two cannot be shown; give the entry."""
    hasten(monkeypatch)

    def run() -> Path:
        settings = config.build({"inbox": {"settle_s": 0.01}}, tmp_path, environment={})
        (inbox := settings.folders.inbox).mkdir()
        (inbox / "sea.yaml").write_text(FAULTY, "utf-8")
        for seed, name in enumerate(("a#b%20.png", "wave.png", "wave.tiff")):
            save(inbox / name, seed)
        (inbox / "text.png").write_text("<script>alert(1)</script>")
        Stepper(settings, FakeEngine()).until_quiet(deadline_s=30)
        return next(settings.folders.outbox.glob("*.failed"))

    return run


def test_faults_stand_at_their_lines_beside_the_pictures(fail: Any) -> None:
    """What is no picture, and what browsers do not show, is only named."""
    entry = fail()
    text = (entry / "error.html").read_text("utf-8")
    assert re.findall('<li value="(.*?)"(?: class="(.*?)")?>', text) == LINES
    assert "<p><bdi>unknown key &#39;stregth&#39; (did you mean &#39;strength&#39;?)</bdi></p>" in text
    pictures = [unquote(address) for address in re.findall('<img src="(.*?)"', text)]
    assert pictures == ["drop/a#b%20.png", "drop/wave.png"]
    assert re.findall("<bdi>(.*?)</bdi>", text.partition("Not shown")[2]) == ["text.png", "wave.tiff"]
    assert Reason.BAD_SIDECAR.help in text
    assert {"error.html", *pictures} <= json.loads((entry / "manifest.json").read_bytes())["files"].keys()
    assert [fault["line"] for fault in safe_yaml.parse((entry / "error.yaml").read_bytes())["faults"]] == [8, 9]


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
    assert not {"script-src", "Traceback"} & set(re.findall(r"[\w-]+", text))


def test_a_page_that_cannot_be_made_costs_no_entry(fail: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure is published without it."""
    monkeypatch.setattr(error_page, "page", None)
    assert sorted(path.name for path in fail().iterdir()) == ["drop", "error.yaml", "manifest.json"]
