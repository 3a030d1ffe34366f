"""A painting's frames become one film."""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from daemon.pictures import film

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("format_", ["webp", "gif"])
def test_a_film_shows_every_frame_and_rests_on_the_last(tmp_path: Path, format_: str) -> None:
    """Frames of different sizes become one looping film at the last one's size."""
    paths = []
    for number, size in enumerate([(16, 12), (32, 24), (32, 24)]):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", size, (90 * number, 0, 0)).save(paths[-1])

    found = Image.open(io.BytesIO(film.animate(paths, format_)))

    durations = []
    for frame in range(found.n_frames):
        found.seek(frame)
        found.load()
        durations.append(found.info["duration"])
    assert found.size == (32, 24)
    assert durations == [120, 120, 2000]
    assert found.info["loop"] == 0


@pytest.mark.parametrize("count", [1, 2, 119, 120, 121, 239, 240, 360, 1001])
def test_a_film_has_its_ends_and_no_more_than_its_share(tmp_path: Path, count: int) -> None:
    """However many frames there are, a film shows at most 120 of them, the first and the last among them."""
    paths = []
    for number in range(count):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (1, 1), (number % 256, number // 256, 0)).save(paths[-1])

    found = Image.open(io.BytesIO(film.animate(paths, "gif")))

    shown = []
    for frame in range(found.n_frames):
        found.seek(frame)
        red, green, _ = found.convert("RGB").getpixel((0, 0))
        shown.append(red + 256 * green)
    assert min(count, 60) <= len(shown) <= 120
    assert (shown[0], shown[-1]) == (0, count - 1)
    assert len({after - before for before, after in itertools.pairwise(shown[:-1])}) <= 1
