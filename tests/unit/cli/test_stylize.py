"""`stylize` in this process, on an engine that does what it is told: what is said on the way and in the end."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from support.fakes import INFO, PLAN
from support.trees import save

from daemon import images
from daemon.cli import main
from daemon.job import Losses, Painting, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.config import Config
    from daemon.job import EngineInfo, Plan, Request

    Stylize = Callable[..., int]

LOSSES = Losses(3.0, 2.0, 1.0)


@pytest.fixture
def stylize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stylize:
    """Run the command on an engine that yields the given steps; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("photo.png", "painting.png")):
        save(tmp_path / name, seed)

    def run(*steps: dict[str, Any], warning: str = "") -> int:
        class Scripted:
            def __init__(self, _config: Config) -> None:
                pass

            def start(self) -> EngineInfo:
                return INFO

            def stylize(self, request: Request) -> Iterator[Plan | Step]:
                yield replace(PLAN, warning=warning)
                painting = Painting(images.read(request.content, 1), 0, LOSSES, LOSSES, LOSSES, 0.0, 0.0)
                for number, facts in enumerate(steps):
                    drawn = {"painting": painting} if facts.pop("is_last", False) else {}
                    yield Step(number, 9, 32, LOSSES, 0.0, **facts, **drawn)

        monkeypatch.setitem(sys.modules, "daemon.engine.local", SimpleNamespace(LocalEngine=Scripted))
        monkeypatch.setattr(
            sys, "argv", ["styletransferd", "stylize", "photo.png", "painting.png", "-o", "out.png"]
        )
        with pytest.raises(SystemExit) as ended:
            main.main()
        return int(ended.value.code or 0)

    return run


def test_turns_are_told_beside_the_result(stylize: Stylize, capsys: pytest.CaptureFixture[str]) -> None:
    """Troubles and fresh starts are lines on stderr, whole however long; stdout has the path alone."""
    trouble = "checkpoint not written: [full] " + "x" * 200
    assert stylize({}, {"trouble": trouble}, {"restart": "no descent"}, {"is_last": True}) == 0
    said = capsys.readouterr()
    assert said.out == "out.png\n"
    assert said.err.splitlines() == [
        f"iteration 1: {trouble}",
        "iteration 2: the optimiser began afresh: no descent",
    ]
    with Image.open("out.png") as image:
        assert image.size == (32, 24)


def test_memory_that_may_run_out_is_told(stylize: Stylize, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan's warning is a line on stderr; it goes on."""
    assert stylize({"is_last": True}, warning="memory may run out: [so]") == 0
    said = capsys.readouterr()
    assert said.out == "out.png\n"
    assert said.err == "memory may run out: [so]\n"
    assert stylize({"is_last": True}) == 0
    assert capsys.readouterr().err == ""


def test_an_engine_without_a_picture_is_told_in_one_line(
    stylize: Stylize, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps that end without a painting exit 1 with a plain message, and write nothing."""
    assert stylize({}, {}) == 1
    said = capsys.readouterr()
    assert said.err == "styletransferd: the engine ended without a picture\n"
    assert not (tmp_path / "out.png").exists()
