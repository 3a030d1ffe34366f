"""The last check before a drop is accepted: the sandbox decodes every picture whole, and reports its size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from daemon import images
from daemon.errors import Failure, JobError
from daemon.job import printable

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.job import Part, Role
    from daemon.lifeline import Lifeline
    from daemon.sandbox.client import Decoder
    from daemon.settings import Settings


def examine(
    settings: Settings | None, parts: tuple[Part, ...], inputs: Path, decoder: Decoder, life: Lifeline
) -> tuple[tuple[Part, ...], Failure | None]:
    """Decode every picture among the copied files of a drop whole: half a JPEG passes anything less.

    Returns:
        The parts with their sizes, and the failure of the first picture that cannot be painted.

    Raises:
        NotReady: the sandbox does not start.
        NotTaken: the service stops.
        OSError: a copy cannot be read.
    """
    sized = []
    for part in parts:
        is_picture = part.role != "sidecar" and part.sha256  # one over the cap was not copied
        try:
            sized.append(_sized(settings, part, inputs, decoder, life) if is_picture else part)
        except JobError as error:
            return parts, replace(error.failure, file=printable(part.name))
    return tuple(sized), None


def _sized(settings: Settings | None, part: Part, inputs: Path, decoder: Decoder, life: Lifeline) -> Part:
    height, width = decoder.size(inputs / part.stored, printable(part.name), life)
    if part.role != "init":  # which is cropped to the content's shape
        images.fit(height, width, _least_size(settings, part.role, height, width))
    return replace(part, height_px=height, width_px=width)


def _least_size(settings: Settings | None, role: Role, height: int, width: int) -> int:
    """Give the smallest size at which a picture must not be too narrow."""
    if settings is None:
        return max(height, width)
    scales = settings.all_scales(height, width)
    return (scales[0] if role == "content" else scales[-1]).size  # a style is not made narrower than it may be
