"""The pictures that leave the engine during a painting: frames, and previews between them."""

from __future__ import annotations

from daemon.engine.session import PREVIEW_S, Previews
from daemon.settings import Frames


def test_frames_leave_at_their_interval() -> None:
    """Every tenth picture is chosen, the start included, and none in between while time stands still."""
    previews = Previews(Frames(every=10), 100)
    assert [iteration for iteration in range(31) if previews.choose(iteration, 100)] == [0, 10, 20, 30]


def test_a_preview_leaves_every_few_seconds() -> None:
    """Between frames, or without any, a picture is chosen when none has left for PREVIEW_S."""
    previews = Previews(Frames(every=0), 0)
    times = [(iteration, (iteration + 1) * PREVIEW_S / 4) for iteration in range(12)]
    assert [iteration for iteration, now_s in times if previews.choose(iteration, now_s)] == [3, 7, 11]


def test_a_frame_puts_the_next_preview_off() -> None:
    """A frame is a preview as well: the next one is due PREVIEW_S after it."""
    previews = Previews(Frames(every=10), 0)
    assert previews.choose(10, PREVIEW_S - 1)
    assert not previews.choose(11, 2 * PREVIEW_S - 2)
    assert previews.choose(12, 2 * PREVIEW_S - 1)
