"""The pictures that leave the engine on the way: the frames, and between them one every few seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from daemon.settings import Frames

PREVIEW_S: Final = 5.0  # the longest time without a picture, so that people see progress


class Previews:
    """Chooses the iterations whose pictures leave the engine."""

    def __init__(self, frames: Frames, now_s: float) -> None:
        """Start counting at a monotonic time."""
        self._frames = frames
        self._last_s = now_s

    def choose(self, iteration: int, now_s: float) -> bool:
        """Decide on an iteration's picture; a chosen one puts the next preview off."""
        is_chosen = self._frames.keeps(iteration) or now_s - self._last_s >= PREVIEW_S
        self._last_s = now_s if is_chosen else self._last_s
        return is_chosen
