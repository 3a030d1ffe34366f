"""Where the content counts more: a map from the faces that were found, or from a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.pictures import decoding, resampling
from daemon.settings import at_most
from daemon.transfer import pixels

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from daemon.job import Face, Picture, Request

    Map = npt.NDArray[np.float32]  # (h, w), 0 to 1

SIDE_PX: Final = 512
LEVELS_PX: Final = 2048  # the longest side of the masks of regions and paintings
# The half axes of the ellipse around a face, in widths and heights of its square: with hair, ears and chin.
_ACROSS: Final = 0.55
_DOWN: Final = 0.68
_REACH: Final = 1.25  # radii at which the protection has fallen to 0
_LUMA: Final = np.array(pixels.LUMA, np.float32)


def of(request: Request, content: Picture, max_megapixels: float) -> Map | None:
    """Make the map of a request, of its content's aspect; None where nothing is protected.

    It has at most `SIDE_PX` on its longest side; a mask of another aspect is stretched.

    Raises:
        JobError, OSError: the mask cannot be read; see `decoding.read`.
    """
    height, width = content.shape[:2]
    height, width = at_most(height, width, SIDE_PX)
    if request.mask is not None:
        made = _drawn(request.mask, height, width, max_megapixels)
    else:
        made = np.zeros((height, width), np.float32)
        for face in request.faces:
            made = np.maximum(made, around(face, height, width))
    return made if made.any() else None


def levels(mask: Path, size: tuple[int, int], max_megapixels: float) -> Picture:
    """Read a mask of a picture of some (height, width): (h, w) of its aspect, 0 to 255."""
    height, width = at_most(*size, LEVELS_PX)
    return np.rint(255 * _drawn(mask, height, width, max_megapixels)).astype(np.uint8)


def _drawn(mask: Path, height: int, width: int, max_megapixels: float) -> Map:
    """Read a mask's luma, stretched to (height, width): 0 in its black, 1 in its white."""
    picture = resampling.resize(decoding.read(mask, max_megapixels), height, width)
    return np.asarray(picture @ _LUMA / np.float32(255))


def around(face: Face, height: int, width: int) -> Map:
    """Draw one face: 1 in its ellipse, falling smoothly to 0 at `_REACH` radii; (height, width)."""
    down = (np.arange(height, dtype=np.float32) + 0.5) / height - (face.top + face.height / 2)  # (height,)
    across = (np.arange(width, dtype=np.float32) + 0.5) / width - (face.left + face.width / 2)  # (width,)
    radius = np.hypot(down[:, None] / (_DOWN * face.height), across / (_ACROSS * face.width))  # (height, width)
    left = np.clip((_REACH - radius) / (_REACH - 1), 0, 1)  # of the way from 1 radius to `_REACH`
    return np.asarray(left * left * (3 - 2 * left), np.float32)
