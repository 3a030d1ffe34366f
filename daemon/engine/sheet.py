"""`preset: sheet`: each style alone, in strengths and sizes of strokes, painted as one job onto one page."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from daemon import safe_yaml
from daemon.job import printable
from daemon.pictures import page
from daemon.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.job import Painting, Request
    from daemon.transfer.scales import Subject

_STEP: Final = 0.25  # from strength to strength
_STROKES: Final = 2  # the larger style_scale, in smaller ones
_HEAD: Final = "# Each block is a sidecar: `preset: preview` repeats its picture, `fine` makes a large one.\n"


class Cell(NamedTuple):
    """One picture of a page."""

    style: int  # its only one
    settings: Settings
    caption: str
    sidecar: str  # which paints it in another preset


def cells(request: Request) -> Iterator[Cell]:
    """Yield the pictures of a page: of each style two sizes of strokes, each in three strengths."""
    settings, (photo, *names) = request.settings, request.sheet
    middle, scale = min(max(settings.strength, _STEP), 1 - _STEP), min(settings.style_scale, 4 / _STROKES)
    strengths = [round(middle + _STEP * number, 6) for number in (-1, 0, 1)]
    of_the_sheet = {"size", "iterations", "frames", "priority"}
    own, usual = (one.model_dump(mode="json", exclude=of_the_sheet) for one in (settings, Settings()))
    others = {key: own[key] for key in own if own[key] != usual[key]}
    eight_bits = {"output": settings.output.model_copy(update={"bits": 8})}
    styles = enumerate(zip(names, (style.scale for style in request.styles), strict=True))
    variants = itertools.product(styles, (scale, _STROKES * scale), strengths)
    for number, ((style, (name, factor)), style_scale, strength) in enumerate(variants, start=1):
        keys = {"strength": strength, "style_scale": style_scale}
        image = name if factor == 1 else [{"image": name, "scale": factor}]
        text = safe_yaml.dump({"content": photo, "style": image, "preset": "default"} | others | keys)
        caption = f"{number}   style: {printable(name)}\n{safe_yaml.dump(keys)}"  # three lines
        chosen = settings.model_copy(update=keys | eight_bits)
        yield Cell(style, chosen, caption, f"--- # {number}\n{text}")


def paint(
    request: Request, subject: Subject, paint_one: Callable[[Request, Subject], Iterator[Any]]
) -> Iterator[Any]:
    """Paint each cell by `paint_one`: yield the plan that takes most memory, then steps that are numbered on.

    A cell's last step shows the page so far. The painting is the page, with the losses of the last cell.
    """
    begun, chosen = time.perf_counter(), list(cells(request))
    inputs: list[Any] = [subject.content, *(style.image for style in subject.styles)]
    tiles = [*zip(map(printable, request.sheet), inputs, strict=True)]
    tiles += [("", None)] * (-len(inputs) % page.COLUMNS)
    first, tiles = len(tiles), [*tiles, *((cell.caption, None) for cell in chosen)]
    done: list[Painting] = []
    cell_steps = []
    for cell in chosen:
        one = replace(request, settings=cell.settings, sheet=(), checkpoints=None)
        styles = [subject.styles[cell.style]._replace(weight=1.0)]
        cell_steps.append(paint_one(one, replace(subject, settings=cell.settings, styles=styles)))
    yield max(map(next, cell_steps), key=lambda plan: plan.memory_estimate_mb or 0)
    for number, (cell, steps) in enumerate(zip(chosen, cell_steps, strict=True)):
        for step in steps:
            before, drawn = number * step.iterations, None
            if step.painting:
                done.append(step.painting)
                tiles[first + number] = cell.caption, step.painting.picture
                drawn = page.draw(tiles, *subject.scales()[-1][:2])
            total, elapsed_s = len(chosen) * step.iterations, time.perf_counter() - begun
            numbered = replace(step, iteration=before + step.iteration, iterations=total, elapsed_s=elapsed_s)
            whole = _whole(drawn, done, before, chosen) if len(done) == len(chosen) else None
            yield replace(numbered, picture=drawn, painting=whole)
        if len(done) == number:  # asked to stop
            return


def _whole(drawn: Any, done: list[Painting], before: int, chosen: list[Cell]) -> Painting:
    """Make the painting that is the page: the last cell's, after so many iterations, with the times of all."""
    text = _HEAD + "".join(cell.sidecar for cell in chosen)
    sums = {name: sum(getattr(one, name) for one in done) for name in ("target_s", "loop_s")}
    last = done[-1]
    return replace(last, picture=drawn, best_iteration=before + last.best_iteration, sheet=text, **sums)
