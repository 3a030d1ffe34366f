"""The time that a painting takes: measured at each size, kept from job to job, estimated for the rest."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.settings import scaled

if TYPE_CHECKING:
    from daemon.job import Job, Step

    # What takes time, by what kind of step -> px, in two digits -> seconds a px, at the weight below.
    Rates = dict[tuple[object, ...], dict[float, float]]

# In steps: the first picture of a size, with its targets; that of the last size, 2 to 5, since a job in
# bfloat16 reports its losses in float32; a step; the end, beyond its last step.
_STEPS: Final = {"first": 2.0, "final": 4.0, "step": 1.0, "end": 0.5}
_BESIDE_PX: Final = 1500  # what every step takes beside its pixels, measured on a CPU
_TILED: Final = 2.0  # times as many px: tiles overlap, and are computed forward twice
_RECENT: Final = 16  # steps that show the speed of the moment


class Pace:
    """The speed of one attempt, beside what earlier jobs took."""

    def __init__(self, job: Job, known: Rates, *, tiled: bool = False) -> None:
        """Begin a job with what is known, which `add` adds to; `tiled` is the last size."""
        self._known, self._kept = known.copy(), known
        self._scales, chosen, (content,) = job.scales, job.settings, job.parts_of("content")
        sizes = (scaled(content.height_px, content.width_px, scale.size) for scale in self._scales)
        self._pixels = [float(math.prod(size) + _BESIDE_PX) for size in sizes]
        self._pixels[-1] *= _TILED if tiled else 1
        self._method = chosen and (chosen.objective, chosen.optimizer, chosen.match_layers)
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)  # seconds and px

    def add(self, step: Step, taken_s: float, *, warm: bool) -> None:
        """Measure a step by the time since the item before; `warm` is all but the first one of an attempt."""
        number, done = self._place(step)
        pixels, taken_s = self._pixels[number], max(taken_s, 1e-6)
        if done == 0:
            self._note("final" if pixels == self._pixels[-1] else "first", pixels, taken_s)
        elif step.painting:
            self._note("end", pixels, max(0.0, taken_s - (self.iteration_s or taken_s)))
        elif warm:
            self._recent.append((taken_s, pixels))
            self._note("step", pixels, self.iteration_s or taken_s)

    @property
    def iteration_s(self) -> float | None:
        """The seconds that a step took of late at its size; None before the second one of the attempt."""
        here = [taken_s for taken_s, pixels in self._recent if pixels == self._recent[-1][1]]
        return round(sum(here) / len(here), 4) if here else None

    def eta_s(self, step: Step | None = None) -> float | None:
        """Estimate the seconds left after a step, or those of the whole; None while no speed is known."""
        if not (self._recent or ("step", self._method) in self._known):
            return None
        number, done = self._place(step) if step else (0, -1)
        left = 0.0 if step and step.painting else self._expected("end", self._pixels[-1])
        for pixels, scale in zip(self._pixels[number:], self._scales[number:], strict=True):
            left += self._expected("step", pixels) * (scale.iterations - max(done, 0))
            first = "final" if pixels == self._pixels[-1] else "first"
            left += self._expected(first, pixels) if done < 0 else 0.0
            done = -1
        expected = sum(self._expected("step", pixels) for _, pixels in self._recent)
        slowness = sum(taken for taken, _ in self._recent) / expected if self._recent else 1.0
        return round(max(0.0, slowness * left), 1)

    def _expected(self, name: str, pixels: float) -> float:
        """Interpolate what earlier jobs took; beyond the sizes measured it is in proportion to the px."""
        known = self._known.get((name, self._method)) or self._known.get(("step", self._method)) or {1.0: 1.0}
        keys = sorted(known)
        near = min(max(pixels, keys[0]), keys[-1])
        rate = float(np.interp(near, keys, [key * known[key] for key in keys])) / near
        return rate * _STEPS[name] * pixels

    def _note(self, name: str, pixels: float, seconds: float) -> None:
        kind, found = (name, self._method), {_key(pixels): seconds / pixels / _STEPS[name]}
        self._kept[kind] = self._kept.get(kind, {}) | found  # replaced, since other threads read it

    def _place(self, step: Step) -> tuple[int, int]:
        """Find the number of a step's size, and its iteration there; a sheet has the same sizes again."""
        place, begun = (0, step.iteration), 0
        for number, scale in enumerate(self._scales):
            if scale.size == step.size_px and begun <= step.iteration:
                place = number, step.iteration - begun
            begun += scale.iterations
        return place


def _key(pixels: float) -> float:
    return float(f"{pixels:.2g}")
