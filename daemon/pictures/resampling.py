"""Pictures at other sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageOps

from daemon.errors import Failure, JobError, Reason
from daemon.pictures.decoding import WHITE, Decoded
from daemon.settings import at_most, scaled

if TYPE_CHECKING:
    from daemon.job import DeepPicture, Picture

SHOWN_PX: Final = 1600  # the longest side of what a page shows of a picture
MIN_SIDE_PX: Final = 16  # VGG19 pools a picture four times before its fifth block: 16 px become 1


def fit(height: int, width: int, longest: int) -> tuple[int, int]:
    """Scale a (height, width) as `scaled` does; JobError if its short side would be below `MIN_SIDE_PX`."""
    fitted = scaled(height, width, longest)
    if min(fitted) < MIN_SIDE_PX:
        why = f"{width} x {height} px scaled to {longest} px is {min(fitted)} px on its short side"
        hint = f"VGG19 needs {MIN_SIDE_PX} px: use a larger size, or crop the picture"
        raise JobError(Failure(Reason.PICTURE_TOO_NARROW, why, hint))
    return fitted


def fit_style(height: int, width: int, longest: int, final: int) -> tuple[int, int]:
    """Scale a style as `fit` does, but no further down than VGG19 can take.

    For that it is enlarged to its longest side at the final size at most; JobError if that is not enough.
    """
    least = -(-MIN_SIDE_PX * max(height, width) // min(height, width))
    return fit(height, width, max(longest, min(least, max(final, height, width))))


def resize(picture: Picture, height: int, width: int) -> Picture:
    """Resample to (height, width, 3), or an alpha channel to (height, width), with Pillow's LANCZOS."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def reduced(picture: Picture | DeepPicture, longest: int) -> Picture:
    """Reduce what is larger than `longest`, to be looked at: 8 bits, on white: (h, w, 3)."""
    if picture.dtype == np.uint16:
        picture = (picture >> 8).astype(np.uint8)
    height, width = picture.shape[:2]
    height, width = at_most(height, width, longest)
    image = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return Decoded(image).over(WHITE)


def cover(picture: Picture, height: int, width: int) -> Picture:
    """Resample to (height, width, 3); crop the longer dimension instead of distorting the picture."""
    return np.asarray(ImageOps.fit(Image.fromarray(picture), (width, height), Image.Resampling.LANCZOS))
