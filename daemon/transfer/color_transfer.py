"""Move the colors of one picture to those of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from daemon.job import Picture

    Matrix = npt.NDArray[np.float64]

_FLOOR: Final = 1.0  # gray levels squared: a picture of few colors has directions without any variance
# Photos of everyday light need at most 4; what a nearly gray one has of color is noise, which 50 would show.
_MOST_GAIN: Final = 5.0


class Colors(NamedTuple):
    """The moments of a picture's colors."""

    mean: Matrix  # (3,), RGB, 0..255
    covariance: Matrix  # (3, 3)


def colors_of(picture: Picture, mask: npt.NDArray[np.float32] | None = None) -> Colors:
    """Take the mean and the covariance of the pixels of (H, W, 3) uint8 RGB.

    With a mask, (H, W): only of those where it has half of its greatest value, or more.
    """
    pixels = picture if mask is None else picture[mask >= mask.max() / 2]
    flat = pixels.reshape(-1, 3).astype(np.float64)  # (H, W, 3) -> (H·W, 3)
    mean = flat.mean(axis=0)
    apart = flat - mean
    return Colors(mean, apart.T @ apart / len(flat))


def blended(parts: Sequence[tuple[Colors, float]]) -> Colors:
    """Average colors by their shares, which sum to 1."""
    mean = sum((share * colors.mean for colors, share in parts), np.zeros(3))
    covariance = sum((share * colors.covariance for colors, share in parts), np.zeros((3, 3)))
    return Colors(mean, covariance)


def moved(picture: Picture, wanted: Colors, own: Colors | None = None) -> Picture:
    """Move a picture's colors to a mean and covariance by the Monge-Kantorovich map.

    Pitié & Kokaram (2007), eq. 12: of all linear maps that give these moments, the one that changes the colors
    least. In no direction are differences stretched more than fivefold, so colors that hardly differ
    stay closer together than wanted. `own` are the colors that become the wanted ones; default: all.
    """
    own = own or colors_of(picture)
    root = _power(own.covariance, 0.5)
    inverse = _power(own.covariance, -0.5)
    transport = _capped(inverse @ _power(root @ wanted.covariance @ root, 0.5) @ inverse)
    flat = (picture.reshape(-1, 3) - own.mean) @ transport.T + wanted.mean
    return np.clip(np.rint(flat), 0, 255).astype(np.uint8).reshape(picture.shape)


def _power(matrix: Matrix, exponent: float) -> Matrix:
    """Raise a symmetric matrix to a power, its eigenvalues floored."""
    values, vectors = np.linalg.eigh(matrix)
    scaled: Matrix = (vectors * np.maximum(values, _FLOOR) ** exponent) @ vectors.T
    return scaled


def _capped(transport: Matrix) -> Matrix:
    """Bound what a symmetric map stretches, in every direction."""
    gains, directions = np.linalg.eigh(transport)
    bounded: Matrix = (directions * np.minimum(gains, _MOST_GAIN)) @ directions.T
    return bounded
