"""`stylize` in this process, on an engine that runs a script: its output during the painting and at the end."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from support.fakes import INFO, PLAN
from support.trees import save

from daemon import sidecar
from daemon.job import Face, Losses, Painting, Step
from daemon.pictures import decoding
from daemon.sandbox.client import Decoder, Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.config import Config
    from daemon.job import EngineInfo, Plan, Request

    Stylize = Callable[..., Any]

LOSSES = Losses(3.0, 2.0, 1.0)
FACE = Face(0.25, 0.25, 0.5, 0.5)


@pytest.fixture
def stylize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any) -> Stylize:
    """Run the command on an engine that yields the given steps."""
    for seed, name in enumerate(("photo.png", "painting.png")):
        save(tmp_path / name, seed)

    def run(*steps: dict[str, Any], warning: str = "", options: tuple[str, ...] = ()) -> Any:
        class Scripted:
            def __init__(self, _config: Config) -> None:
                pass

            def start(self) -> EngineInfo:
                return INFO

            def stylize(self, request: Request) -> Iterator[Plan | Step]:
                run.asked.append(request)
                yield replace(PLAN, warning=warning)
                painting = Painting(decoding.read(request.content, 1), 0, LOSSES, LOSSES, LOSSES, 0.0, 0.0)
                for number, facts in enumerate(steps):
                    drawn = {"painting": painting} if facts.pop("is_last", False) else {}
                    yield Step(number, 9, 32, LOSSES, 0.0, **facts, **drawn)

        monkeypatch.setitem(sys.modules, "daemon.engine.local", SimpleNamespace(LocalEngine=Scripted))
        return command("stylize", "photo.png", "painting.png", "-o", "out.png", *options)

    run.asked = []
    return run


def test_remarks_are_printed_beside_the_result(stylize: Stylize) -> None:
    """Warnings and restarts are whole lines on stderr, however long; stdout has only the path."""
    trouble = "checkpoint not written: [full] " + "x" * 200
    done = stylize({}, {"trouble": trouble}, {"restart": "no descent"}, {"is_last": True})
    assert (done.code, done.out) == (0, "out.png\n")
    assert done.err.splitlines() == [
        f"iteration 1: {trouble}",
        "iteration 2: the optimizer was restarted: no descent",
    ]
    with Image.open("out.png") as image:
        assert image.size == (32, 24)


def test_memory_that_may_run_out_is_reported(stylize: Stylize) -> None:
    """The plan's warning is a line on stderr; the painting goes on."""
    warning = "memory may run out: [so]"
    assert stylize({"is_last": True}, warning=warning) == (0, "out.png\n", f"{warning}\n")
    assert stylize({"is_last": True}) == (0, "out.png\n", "")


def test_faces_of_the_photo_are_protected(stylize: Stylize, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked for in the sandbox, if there is a detector and the settings ask for faces."""
    monkeypatch.setattr(sidecar, "can_find_faces", lambda: True)
    monkeypatch.setattr(
        Decoder, "inspect", lambda *_args, wants_faces: ((24, 32), Found((FACE,) * wants_faces))
    )

    for preset in ("default", "paper"):
        assert stylize({"is_last": True}, options=("--set", f"preset={preset}")).code == 0

    assert [request.faces for request in stylize.asked] == [(FACE,), ()]


def test_the_name_chooses_the_format_and_set_the_rest(stylize: Stylize, tmp_path: Path) -> None:
    """`--set output.quality` is that of the file's own format, which refuses what it cannot hold."""
    sizes = []
    for quality in (20, 90):
        options = ("-o", "out.avif", "--set", f"output.quality={quality}", "--set", "output.format=png")
        assert stylize({"is_last": True}, options=options).code == 0
        sizes.append((tmp_path / "out.avif").stat().st_size)
    assert sizes[0] < sizes[1]
    refused = stylize({"is_last": True}, options=("-o", "out.jpg", "--set", "output.bits=16"))
    assert refused.code == 2
    assert "16 bits are for png and tiff" in " ".join(refused.err.split())
    assert stylize({"is_last": True}, options=("--set", "output=3")).code == 2


def test_a_sheet_shows_the_names_of_its_pictures(stylize: Stylize) -> None:
    """`preset=sheet` asks the engine for a page; any other preset does not."""
    for preset in ("sheet", "preview"):
        assert stylize({"is_last": True}, options=("--set", f"preset={preset}")).code == 0
    assert [request.sheet for request in stylize.asked] == [("photo.png", "painting.png"), ()]


def test_a_color_needs_no_quotes(stylize: Stylize) -> None:
    """YAML would take it for a comment, and the key for not set."""
    assert stylize({"is_last": True}, options=("--set", "background=#FF0000")).code == 0
    assert stylize.asked[0].settings.background == "#ff0000"
    assert stylize({}, options=("--set", "background=#12")).code == 2


def test_an_engine_without_a_picture_is_one_line(stylize: Stylize, tmp_path: Path) -> None:
    """Steps that end without a painting exit 1 with a plain message, and write nothing."""
    assert stylize({}, {}) == (1, "", "styletransferd: the engine ended without a picture\n")
    assert not (tmp_path / "out.png").exists()
