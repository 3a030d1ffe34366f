"""Limit the finest color contrasts of a picture to those of the painting, where colored fringes would show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.transfer import pixels

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from daemon.job import AnyPicture, Picture

    Plane = npt.NDArray[np.float32]  # (H, W)
    MeanSquares = npt.NDArray[np.float64]  # (2, 3): of Cb and Cr, in each of the three bands

SIGMAS_PX: Final = (0.8, 1.6, 3.2)  # of the Gaussians between which the bands lie, from fine to coarse
_RED, _GREEN, _BLUE = pixels.LUMA  # so Cb = (B - Y) / 1.772 and Cr = (R - Y) / 1.402
_STRIP: Final = 256  # rows of a picture that are put together at a time


def mean_squares(picture: Picture) -> MeanSquares:
    """Take the mean square of every band of Cb and Cr of (H, W, 3) uint8 RGB, in squared gray levels."""
    return np.array([[np.mean(np.square(band)) for band in _bands(plane)] for plane in _chroma(picture)])


def limited(picture: AnyPicture, allowed: MeanSquares) -> AnyPicture:
    """Scale every band of Cb and Cr down to the mean square that is allowed; none is scaled up, and luma stays.

    The bands overlap, so that of strong contrasts somewhat more than allowed remains. A color that cannot be
    shown at its pixel's luma moves toward gray. Only whole gray levels are rounded.
    """
    planes = []
    for plane, squares in zip(_chroma(picture), allowed, strict=True):
        kept = plane.copy()
        for band, square in zip(_bands(plane), squares, strict=True):
            own = float(np.mean(np.square(band)))
            if own > square:
                kept -= np.float32(1 - (square / own) ** 0.5) * band
        planes.append(kept)
    return _with_chroma(picture, *planes)


def _chroma(picture: AnyPicture) -> Iterator[Plane]:
    """Give Cb, then Cr, from differences to green: of gray pixels exactly 0."""
    red: Plane = np.subtract(picture[..., 0], picture[..., 1], dtype=np.float32)
    blue: Plane = np.subtract(picture[..., 2], picture[..., 1], dtype=np.float32)
    yield 0.5 * blue - _RED / 1.772 * red
    yield 0.5 * red - _BLUE / 1.402 * blue


def _bands(plane: Plane) -> Iterator[Plane]:
    """Split off what each Gaussian takes away, from fine to coarse."""
    fine = plane
    for sigma_px in SIGMAS_PX:
        coarse = _smoothed(plane, sigma_px)
        yield fine - coarse
        fine = coarse


def _smoothed(plane: Plane, sigma_px: float) -> Plane:
    """Convolve with a Gaussian, cut off at four sigmas; beyond its borders a plane goes on mirrored."""
    radius = int(np.ceil(4 * sigma_px))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_px) ** 2)
    for _ in range(2):  # down the columns, then along the rows, which the transpose has made columns
        padded = np.pad(plane, ((radius, radius), (0, 0)), "symmetric")
        plane, weighed = np.zeros_like(plane), np.empty_like(plane)
        for first, weight in enumerate((weights / weights.sum()).tolist()):
            plane += np.multiply(padded[first : first + len(plane)], weight, out=weighed)
        plane = plane.T
    return plane


def _with_chroma(picture: AnyPicture, blueness: Plane, redness: Plane) -> AnyPicture:
    """Give a picture other Cb and Cr; one of whole gray levels is rounded to the nearest."""
    found = np.empty_like(picture)
    for top in range(0, len(picture), _STRIP):
        rows = slice(top, top + _STRIP)
        levels = np.asarray(picture[rows], np.float32)
        luma = levels @ np.array([[_RED], [_GREEN], [_BLUE]], np.float32)  # (h, W, 3) -> (h, W, 1)
        red, blue = 1.402 * redness[rows], 1.772 * blueness[rows]
        apart = np.stack([red, -(_RED * red + _BLUE * blue) / _GREEN, blue], axis=-1)  # (h, W, 3), without luma
        exact = pixels.toward_gray(luma, apart, 255)
        found[rows] = np.rint(exact) if picture.dtype == np.uint8 else exact
    return found
