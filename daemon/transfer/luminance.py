"""Luminance in linear light: pictures of nothing else, and pictures of one's luminance in another's colors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from daemon.transfer import pixels

if TYPE_CHECKING:
    import numpy.typing as npt

    from daemon.job import AnyPicture, Picture

    Floats = npt.NDArray[np.float32]

# IEC 61966-2-1 (sRGB): the shares of linear red, green and blue, and the curve from gray levels to light.
_SHARES: Final = np.array([[0.2126], [0.7152], [0.0722]], np.float32)
_SLOPE, _OFFSET, _GAMMA, _KNEE = 12.92, 0.055, 2.4, 0.0031308
# Of white. The colors of what is darker in a photo are mostly noise, which a light stroke over it would show.
_FLARE: Final = 0.02
_STRIP: Final = 256  # rows of a picture that are computed at a time


def luminance(picture: npt.NDArray[Any]) -> Floats:
    """Take the relative luminance of (H, W, 3) sRGB, 0 to 255: (H, W, 1), from 0 to 1."""
    return _linear(picture) @ _SHARES


def grays(picture: Picture) -> Picture:
    """Replace every pixel by the gray level of its luminance, rounded; (H, W, 3) uint8."""
    return np.rint(_encoded(luminance(picture))).astype(np.uint8).repeat(3, axis=2)


def with_colors(picture: AnyPicture, photo: Picture) -> AnyPicture:
    """Give each pixel of a picture the chromaticity of a photo of its size, and leave its luminance.

    A dark pixel of the photo counts as less colored; a color that cannot be shown at its luminance moves toward
    gray. Only whole gray levels are rounded.
    """
    found = np.empty_like(picture)
    for top in range(0, len(picture), _STRIP):
        rows = slice(top, top + _STRIP)
        wanted, light = luminance(picture[rows]), _linear(photo[rows])
        own = light @ _SHARES
        apart = (wanted + _FLARE) / (own + _FLARE) * (light - own)  # (h, W, 3), without luminance
        exact = _encoded(pixels.toward_gray(wanted, apart, 1))
        found[rows] = np.rint(exact) if found.dtype == np.uint8 else exact
    return found


def _linear(picture: npt.NDArray[Any]) -> Floats:
    """Turn gray levels, 0 to 255, into linear light, 0 to 1."""
    levels = np.asarray(picture, np.float32) / np.float32(255)
    bent = ((levels + _OFFSET) / (1 + _OFFSET)) ** _GAMMA
    return np.where(levels <= _KNEE * _SLOPE, levels / _SLOPE, bent).astype(np.float32)


def _encoded(light: Floats) -> Floats:
    """Turn linear light into gray levels, not rounded."""
    light = np.clip(light, 0, 1)
    bent = (1 + _OFFSET) * light ** (1 / _GAMMA) - _OFFSET
    return np.float32(255) * np.where(light <= _KNEE, _SLOPE * light, bent).astype(np.float32)
