"""The quality of a picture in three numbers: two relative style errors and a relative content error.

All are computed in float32 on 8-bit pixels, whatever precision the picture was painted in. Photo and painting
are scaled to the picture's size first.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from daemon.pictures import resampling
from daemon.transfer import pixels, weights
from daemon.transfer.vgg19 import Vgg19

if TYPE_CHECKING:
    from collections.abc import Collection

    from daemon.job import Picture

OPTIMIZED: Final = tuple(f"block{block}_conv1" for block in range(1, 6))
OTHER: Final = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3")  # no preset optimizes these
CONTENT: Final = "block4_conv2"


class Errors(NamedTuple):
    """Three errors: 0 for the target itself, about 1 for a picture that has nothing of it."""

    optimized: float
    other: float
    content: float


def errors(picture: Picture, content: Picture, style: Picture) -> Errors:
    """Compare a picture with its photo and its painting.

    Args:
        picture: (H, W, 3) uint8 RGB.
        content: the photo, (H', W', 3) uint8 RGB of the same aspect.
        style: the painting, of any size and aspect.
    """
    layers = (*OPTIMIZED, *OTHER)
    found = features(picture, (*layers, CONTENT))
    painting = features(scaled(style, max(picture.shape[:2])), layers)
    photo = features(resampling.resize(content, *picture.shape[:2]), [CONTENT])
    error = {layer: gram_error(found[layer], painting[layer]) for layer in layers}
    optimized, other = (float(np.mean([error[layer] for layer in some])) for some in (OPTIMIZED, OTHER))
    return Errors(optimized, other, relative(found[CONTENT], photo[CONTENT]))


def scaled(picture: Picture, longest_px: int) -> Picture:
    """Scale a picture by its longest side, with Lanczos."""
    return resampling.resize(picture, *resampling.fit(*picture.shape[:2], longest_px))


def relative(found: Any, target: Any) -> float:
    """Give |found - target|² / |target|² of two arrays of one shape, summed in double precision."""
    found, target = np.asarray(found, np.float64), np.asarray(target, np.float64)
    return float(np.sum((found - target) ** 2) / np.sum(target**2))


def gram_matrix(features: Any) -> Any:
    """Correlate channels: FᵀF / (H·W), (1, H, W, C) -> (C, C). Not by the code that is compared."""
    flat = np.asarray(features).reshape(-1, features.shape[-1])  # -> (H·W, C)
    return flat.T @ flat / np.float32(len(flat))


def gram_error(found: Any, target: Any) -> float:
    """Compare the Gram matrices of features: |G - Gs|² / |Gs|²."""
    return relative(gram_matrix(found), gram_matrix(target))


def features(picture: Picture, layers: Collection[str]) -> dict[str, Any]:
    """Compute features of VGG19: layer -> (1, H, W, C)."""
    return _network().features(pixels.to_vgg(picture), layers)


@functools.cache
def _network() -> Vgg19:
    return Vgg19(weights.load("bundled"), "float32")
