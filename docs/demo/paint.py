"""Paint a swirling, futurist picture of brush strokes: `python paint.py painting.jpg`.

The same seed always gives the same strokes. A stream function with a few vortices gives every stroke its
direction and, in bands along the flow, its color; rays from outside one corner ("force lines") break them.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Array = NDArray[np.float64]

SEED = 1910
WIDTH, HEIGHT = 640, 512
SCALE = 2  # painted this much larger, then reduced, which smooths the bristles
POINTS = 14  # steps along a stroke
VORTICES = (  # x, y, radius, strength; the sign of the strength is the sense of rotation
    (190, 190, 120, 1.0),
    (470, 150, 80, -0.8),
    (400, 380, 110, 0.9),
    (110, 430, 70, -0.7),
    (600, 430, 60, -0.6),
)
RAYS_FROM = (-60, 620)
PALETTE = np.array(  # dark to light; a band of the flow runs through them in this order
    [
        (10, 14, 48),  # prussian blue, nearly black
        (22, 38, 118),  # ultramarine
        (38, 92, 178),  # cobalt
        (206, 58, 30),  # vermilion
        (226, 148, 38),  # yellow earth
        (250, 232, 184),  # cream
    ],
    dtype=np.float64,
)


class Layer(NamedTuple):
    """One pass over the canvas: how many strokes, how long and wide, how far their tones stray."""

    strokes: int
    length: float
    width: float
    stray: float


LAYERS = (
    Layer(700, 120, 34, 0.04),
    Layer(1500, 90, 21, 0.07),
    Layer(1300, 66, 13, 0.1),
    Layer(700, 46, 8, 0.16),
)


def stream(x: Array, y: Array) -> Array:
    """Return the stream function: strokes follow the lines where it is constant."""
    value = 0.25 * x / 100 + 0.55 * y / 100 + 0.25 * np.sin(x / 90 + y / 140)
    for centre_x, centre_y, radius, strength in VORTICES:
        value += 1.6 * strength * np.exp(-0.7 * np.hypot(x - centre_x, y - centre_y) / radius)
    return np.asarray(value)


def flow(x: Array, y: Array) -> tuple[Array, Array]:
    """Return the unit vector along the flow."""
    dx, dy = stream(x + 1, y) - stream(x - 1, y), stream(x, y + 1) - stream(x, y - 1)
    norm = np.hypot(dx, dy) + 1e-9
    return dy / norm, -dx / norm


def tone(x: Array, y: Array) -> Array:
    """Return where in the palette a place lies, 0 (dark) to 1 (light)."""
    band = np.sin(2 * np.pi * 1.15 * stream(x, y))
    angle = np.arctan2(RAYS_FROM[1] - y, x - RAYS_FROM[0])
    return np.clip(0.5 + 0.46 * band + np.where(np.sin(angle * 26) > 0, 0.16, -0.16), 0, 1)


def color(position: float) -> Array:
    """Return the palette's color at a tone: mostly a pure one, a little mixed between two."""
    place = float(np.clip(position, 0, 1)) * (len(PALETTE) - 1)
    low = min(int(place), len(PALETTE) - 2)
    share = np.clip((place - low - 0.5) * 3 + 0.5, 0, 1)
    return np.asarray(PALETTE[low] * (1 - share) + PALETTE[low + 1] * share)


def paths(layer: Layer, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return the x and y of the strokes' middle lines, each (points, strokes), from places drawn at random."""
    x = rng.uniform(-20, WIDTH + 20, layer.strokes)
    y = rng.uniform(-20, HEIGHT + 20, layer.strokes)
    xs, ys = [x], [y]
    for _ in range(POINTS):
        dx, dy = flow(x, y)
        x, y = x + layer.length / POINTS * dx, y + layer.length / POINTS * dy
        xs.append(x)
        ys.append(y)
    return np.array(xs), np.array(ys)


class Canvas:
    """The paint's color and, as a gray picture, how thick it lies."""

    def __init__(self) -> None:
        """Prime the canvas with the second darkest color."""
        size = (WIDTH * SCALE, HEIGHT * SCALE)
        red, green, blue = PALETTE[1].astype(int).tolist()
        self.paint, self.relief = Image.new("RGB", size, (red, green, blue)), Image.new("L", size, 128)
        self.brush, self.thickness = ImageDraw.Draw(self.paint), ImageDraw.Draw(self.relief)

    def stroke(self, x: Array, y: Array, width: float, base: Array, rng: np.random.Generator) -> None:
        """Draw one stroke: bristles side by side, each a little lighter or darker, with ragged ends."""
        tx, ty = np.gradient(x), np.gradient(y)
        norm = np.hypot(tx, ty) + 1e-9
        taper = np.sin(np.linspace(0.35, np.pi - 0.15, len(x))) ** 0.5
        count = max(3, round(width * SCALE / 2.4))
        shade = rng.normal(0, 13, count)
        for bristle in rng.permutation(count):
            offset = ((bristle + 0.5) / count - 0.5) * width * taper / norm
            ends = slice(rng.integers(0, 3), len(x) - rng.integers(0, 4))
            points = np.stack([x - ty * offset, y + tx * offset], axis=1)[ends] * SCALE
            line = [(float(px), float(py)) for px, py in points]
            red, green, blue = np.clip(np.rint(base + shade[bristle]), 0, 255).astype(int).tolist()
            self.brush.line(line, fill=(red, green, blue), width=4, joint="curve")
            self.thickness.line(
                line, fill=int(np.clip(128 + 4 * shade[bristle], 0, 255)), width=3, joint="curve"
            )

    def picture(self) -> Image.Image:
        """Return the painting lit from the upper left, so that the paint's ridges show."""
        height = np.asarray(self.relief.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.float64)
        slope = np.roll(height, (2, 2), (0, 1)) - height
        pixels = np.asarray(self.paint, dtype=np.float64) - 0.22 * slope[..., None]
        lit = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
        return lit.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def main() -> None:
    """Paint the layers, coarse strokes first, and save the picture at the path given."""
    rng, canvas = np.random.default_rng(SEED), Canvas()
    for layer in LAYERS:
        xs, ys = paths(layer, rng)
        tones = tone(xs[POINTS // 2], ys[POINTS // 2]) + rng.normal(0, layer.stray, layer.strokes)
        for x, y, position in zip(xs.T, ys.T, tones, strict=True):
            base = color(position) + rng.normal(0, 9, 3) + rng.normal(0, 10)
            canvas.stroke(x, y, layer.width * rng.uniform(0.6, 1.2), base, rng)
    canvas.picture().save(sys.argv[1], quality=92)


if __name__ == "__main__":
    main()
