"""The film of a painting's frames."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from daemon.settings import at_most

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

FILM_FRAMES: Final = 120
FILM_SIZE_PX: Final = 1024
FRAME_MS: Final = 120
LAST_FRAME_MS: Final = 2000


def animate(frames: Sequence[Path], format: str, beat: Callable[[], None] = lambda: None) -> bytes:  # noqa: A002
    """Make a looping webp or gif animation that pauses on its last frame.

    It has at most `FILM_FRAMES` of the frames, evenly chosen, at the size of the last one, but at most
    `FILM_SIZE_PX` on its longest side, since the frames themselves are published beside it. An exception that
    `beat` raises before a frame ends the encoding.
    """
    step = max(1, -(-(len(frames) - 1) // (FILM_FRAMES - 1)))  # the last frame is added to these
    chosen = [*frames[:-1:step], frames[-1]]
    with Image.open(frames[-1]) as last:
        height, width = at_most(last.height, last.width, FILM_SIZE_PX)

    def pictures() -> Iterator[Image.Image]:
        for path in chosen:
            beat()
            with Image.open(path) as image:
                yield image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)

    film = pictures()
    durations = [FRAME_MS] * (len(chosen) - 1) + [LAST_FRAME_MS]
    options: dict[str, Any] = {"quality": 85} if format == "webp" else {}
    buffer = io.BytesIO()
    next(film).save(buffer, format, save_all=True, append_images=film, duration=durations, loop=0, **options)
    return buffer.getvalue()
