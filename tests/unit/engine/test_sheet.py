"""A sheet: which pictures it holds, that each is the one of its sidecar, and one job from start to end."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.fakes import AskedLife, steps_of
from support.narrow_vgg import narrow_engine
from support.trees import save

from daemon import sidecar
from daemon.engine import sheet
from daemon.job import Request, Style
from daemon.pictures import page
from daemon.presets import PRESETS
from daemon.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.engine.local import LocalEngine

SMALL = {"size": 32, "iterations": 2}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    """A loaded engine."""
    return narrow_engine(tmp_path_factory.mktemp("engine"))


def request_for(folder: Path, *scales: float, **keys: Any) -> Request:
    """Ask for a sheet of as many paintings as there are scales."""
    names = ["photo.png", *(f"painting-{number}.png" for number in range(len(scales)))]
    content, *styles = (save(folder / name, seed, 24 + seed) for seed, name in enumerate(names))
    settings = Settings.model_validate({**PRESETS["sheet"], **keys})
    weighted = map(Style, styles, range(len(styles)), scales)  # the weights count for nothing
    return Request(content, tuple(weighted), None, settings, sheet=tuple(names))


def blocks_of(text: str) -> list[sidecar.Sidecar]:
    """Read the sidecars of a sheet's text with the service's own parser."""
    blocks = [block.partition("\n") for block in text.split("--- # ")[1:]]
    assert [number for number, _, _ in blocks] == [str(number + 1) for number in range(len(blocks))]
    return [sidecar.parse(block.encode(), "s.yaml") for _, _, block in blocks]


def test_strengths_and_strokes_are_around_those_asked_for(tmp_path: Path) -> None:
    """Three strengths in each of two scales, different and allowed also where the key is at its limit."""
    for strength, style_scale, strengths, scales in (
        (0.4, 1, [0.15, 0.4, 0.65], [1, 2]),
        (1, 3, [0.5, 0.75, 1], [2, 4]),
        (0, 0.1, [0, 0.25, 0.5], [0.1, 0.2]),
    ):
        made = list(sheet.cells(request_for(tmp_path, 1, strength=strength, style_scale=style_scale)))
        found = [(cell.settings.style_scale, cell.settings.strength) for cell in made]
        assert found == [(scale, amount) for scale in scales for amount in strengths]
        keys = f"style: painting-0.png\nstrength: {found[5][1]}\nstyle_scale: {found[5][0]}\n"
        assert made[5].caption == f"6   {keys}"


def test_each_picture_is_that_of_its_sidecar(engine: LocalEngine, tmp_path: Path) -> None:
    """Read by the service and painted alone, each block gives the pixels of its place on the page."""
    keys = {**SMALL, "preserve_color": "match", "protect": "none", "output": {"format": "tiff", "bits": 16}}
    request = request_for(tmp_path, 1.0, 0.5, **keys)
    *_, last = steps_of(engine, request)
    whole, blocks = last.painting.picture, blocks_of(last.painting.sheet)
    for number, block in zip(range(12), blocks, strict=True):
        assert (block.faults, block.content, block.settings.output.bits) == ((), "photo.png", 16)
        (style,) = block.styles
        assert (style.image, style.scale) == (("painting-0.png", 1.0), ("painting-1.png", 0.5))[number // 6]
        settings = block.settings.model_copy(update={**SMALL, "output": Settings().output})
        alone = Request(request.content, (Style(tmp_path / style.image, scale=style.scale),), None, settings)
        *_, painted = steps_of(engine, alone)
        y, x = 116 + 100 * (number // 3), 16 + 224 * (number % 3)
        assert np.array_equal(whole[y : y + 24, x : x + 32], painted.painting.picture), number


def test_names_keep_to_their_line(tmp_path: Path) -> None:
    """A long name, or one with a line break, leaves the keys their lines; the sidecar has it as it is."""
    for name in ("wave, as seen from the shore " * 8, "line\nbreak.png", "\udcff.png"):
        first = next(sheet.cells(replace(request_for(tmp_path, 1.0), sheet=(f"photo {name}", name))))
        assert first.caption.splitlines()[1:] == ["strength: 0.25", "style_scale: 1.0"]
        assert first.caption.isascii()
        block = sidecar.parse(first.sidecar.partition("\n")[2].encode(), "s.yaml")
        assert (block.content, [style.image for style in block.styles]) == (f"photo {name}", [name])


def test_its_plan_is_of_the_picture_that_takes_most(engine: LocalEngine, tmp_path: Path) -> None:
    """With a large painting in large strokes, which is neither the first picture nor the last one."""
    request = request_for(tmp_path, 0.5, 2.0, 0.5, size=512, style_scale=2, protect="none")
    settings = request.settings.model_copy(update={"style_scale": 4})
    large = replace(request, styles=request.styles[1:2], settings=settings, sheet=())
    planned, wanted = (next(engine.stylize(asked)).memory_estimate_mb for asked in (request, large))
    assert planned == wanted


def test_its_steps_are_those_of_one_job(engine: LocalEngine, tmp_path: Path) -> None:
    """Numbers from 0 to the end, and a page after each picture; no checkpoint: a stopped one begins again."""
    request = replace(request_for(tmp_path, 1.0, **SMALL), checkpoints=tmp_path / "checkpoints")
    answers = iter([False] * 4 + [True])
    stopped = list(steps_of(engine, request, AskedLife(lambda: next(answers))))
    steps = list(steps_of(engine, request))
    assert [step.iteration for step in stopped] == [0, 1, 2, 2, 3]
    assert not (tmp_path / "checkpoints").exists()
    assert not any(step.painting for step in (*stopped, *steps[:-1]))
    assert [step.iteration for step in steps] == [2 * cell + one for cell in range(6) for one in range(3)]
    assert {step.iterations for step in steps} == {12}
    assert [step.iteration for step in steps if step.picture is not None] == [2, 4, 6, 8, 10, 12]
    pages = [step.picture for step in steps if step.picture is not None]
    assert all((one != other).any() for one, other in itertools.pairwise(pages))
    assert np.array_equal(steps[-1].painting.picture, pages[-1])
    assert [step.losses for step in steps[:5]] == [step.losses for step in stopped]
    assert steps[-1].painting.best_iteration > 10


def test_names_are_legible() -> None:
    """A letter with an accent is drawn as itself, not as the box of what the font lacks."""
    assert not np.array_equal(*(page.draw([(letter, None)], 16, 16) for letter in ("é", "Ж")))
