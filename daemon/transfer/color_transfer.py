"""The colours of one picture moved to those of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from daemon.job import Picture

    Matrix = npt.NDArray[np.float64]

_FLOOR: Final = 1.0  # grey levels squared: a picture of few colours has directions without any variance
# Photos of everyday light need at most 4; what a nearly grey one has of colour is noise, which 50 would show.
_MOST_GAIN: Final = 5.0


class Colours(NamedTuple):
    """What is kept of a picture's colours."""

    mean: Matrix  # (3,), RGB, 0..255
    covariance: Matrix  # (3, 3)


def colours_of(picture: Picture) -> Colours:
    """Take the mean and the covariance of the pixels of (H, W, 3) uint8 RGB."""
    flat = picture.reshape(-1, 3).astype(np.float64)  # (H, W, 3) -> (H·W, 3)
    mean = flat.mean(axis=0)
    apart = flat - mean
    return Colours(mean, apart.T @ apart / len(flat))


def blended(parts: Sequence[tuple[Colours, float]]) -> Colours:
    """Average colours by their shares, which sum to 1."""
    mean = sum((share * colours.mean for colours, share in parts), np.zeros(3))
    covariance = sum((share * colours.covariance for colours, share in parts), np.zeros((3, 3)))
    return Colours(mean, covariance)


def moved(picture: Picture, wanted: Colours) -> Picture:
    """Move a picture's colours to a mean and covariance by the Monge-Kantorovich map.

    Pitié & Kokaram (2007), eq. 12: of all linear maps that give these moments, the one that changes the colours
    least. In no direction are differences stretched more than fivefold, so colours that hardly differ get fewer
    than are wanted.

    Args:
        picture: (H, W, 3) uint8 RGB.
        wanted: the colours it shall have.
    """
    own = colours_of(picture)
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
