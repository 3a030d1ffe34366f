"""The quality of a picture in three numbers: two relative style errors and a relative content error.

All are computed in float32 on 8-bit pixels, whatever precision the picture was painted in. Photo and painting
are scaled to the picture's size first.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from daemon import images
from daemon.transfer import pixels, weights
from daemon.transfer.vgg19 import Vgg19

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
    layers = (*OPTIMIZED, *OTHER, CONTENT)
    found = features(picture, layers)
    grams = _grams(_like(style, picture), (*OPTIMIZED, *OTHER))
    return Errors(
        _style_error(found, grams, OPTIMIZED),
        _style_error(found, grams, OTHER),
        _content_error(found, content, picture),
    )


def style_error(picture: Picture, style: Picture, layers: Sequence[str] = OPTIMIZED) -> float:
    """Compare Gram matrices: |G - Gs|² / |Gs|², the mean over some layers."""
    return _style_error(features(picture, layers), _grams(_like(style, picture), layers), layers)


def content_error(picture: Picture, content: Picture) -> float:
    """Compare features of block4_conv2: |F - Fc|² / |Fc|²."""
    return _content_error(features(picture, [CONTENT]), content, picture)


def scaled(picture: Picture, longest_px: int) -> Picture:
    """Scale a picture by its longest side, with Lanczos."""
    return images.resize(picture, *images.fit(*picture.shape[:2], longest_px))


def relative(found: Any, target: Any) -> float:
    """Give |found - target|² / |target|² of two arrays of one shape, summed in double precision."""
    found, target = np.asarray(found, np.float64), np.asarray(target, np.float64)
    return float(np.sum((found - target) ** 2) / np.sum(target**2))


def gram_matrix(features: Any) -> Any:
    """Correlate channels: FᵀF / (H·W), (1, H, W, C) -> (C, C). Not by the code that is compared."""
    flat = np.asarray(features).reshape(-1, features.shape[-1])  # -> (H·W, C)
    return flat.T @ flat / np.float32(len(flat))


def _style_error(found: dict[str, Any], grams: dict[str, Any], layers: Sequence[str]) -> float:
    return float(np.mean([relative(gram_matrix(found[layer]), grams[layer]) for layer in layers]))


def _content_error(found: dict[str, Any], content: Picture, picture: Picture) -> float:
    target = features(images.resize(content, *picture.shape[:2]), [CONTENT])
    return relative(found[CONTENT], target[CONTENT])


def _like(style: Picture, picture: Picture) -> Picture:
    """Scale as a job does: to the picture's longest side, in the style's own aspect."""
    return scaled(style, max(picture.shape[:2]))


def _grams(style: Picture, layers: Iterable[str]) -> dict[str, Any]:
    return {layer: gram_matrix(found) for layer, found in features(style, tuple(layers)).items()}


def features(picture: Picture, layers: Sequence[str]) -> dict[str, Any]:
    """Compute features of VGG19: layer -> (1, H, W, C)."""
    return _network().features(pixels.to_vgg(picture), layers)


@functools.cache
def _network() -> Vgg19:
    return Vgg19(weights.load("bundled"), "float32")
