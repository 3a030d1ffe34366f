"""How good a picture is, in three numbers: two relative style errors and a relative content error.

All are computed in float32, whatever the picture was painted in, on its 8-bit pixels. What it is compared with
is scaled to its size first: a picture is judged at the size at which it is given.
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

OPTIMISED: Final = tuple(f"block{block}_conv1" for block in range(1, 6))
OTHER: Final = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3")  # no preset optimises these
CONTENT: Final = "block4_conv2"


class Errors(NamedTuple):
    """0 is the same; a picture that has nothing of the target has about 1."""

    optimised: float
    other: float
    content: float


def errors(picture: Picture, content: Picture, style: Picture) -> Errors:
    """Compare a picture with what it was made of.

    Args:
        picture: (H, W, 3) uint8 RGB.
        content: the photo, (H', W', 3) uint8 RGB of the same aspect.
        style: the painting, of any size and aspect.
    """
    layers = (*OPTIMISED, *OTHER, CONTENT)
    found = _features(picture, layers)
    grams = _grams(_like(style, picture), (*OPTIMISED, *OTHER))
    return Errors(
        _style_error(found, grams, OPTIMISED),
        _style_error(found, grams, OTHER),
        _content_error(found, content, picture),
    )


def style_error(picture: Picture, style: Picture, layers: Sequence[str] = OPTIMISED) -> float:
    """Compare Gram matrices: |G - Gs|² / |Gs|², the mean over some layers."""
    return _style_error(_features(picture, layers), _grams(_like(style, picture), layers), layers)


def content_error(picture: Picture, content: Picture) -> float:
    """Compare features of block4_conv2: |F - Fc|² / |Fc|²."""
    return _content_error(_features(picture, [CONTENT]), content, picture)


def scaled(picture: Picture, longest_px: int) -> Picture:
    """Scale a picture by its longest side, with Lanczos."""
    return images.resize(picture, *images.fit(*picture.shape[:2], longest_px))


def relative(found: Any, target: Any) -> float:
    """Give |found - target|² / |target|² of two arrays of one shape, summed in double precision."""
    found, target = np.asarray(found, np.float64), np.asarray(target, np.float64)
    return float(np.sum((found - target) ** 2) / np.sum(target**2))


def gram_matrix(features: Any) -> Any:
    """Correlate channels: FᵀF / (H·W), (1, H, W, C) -> (C, C). Not by the product's code, which is judged."""
    flat = np.asarray(features).reshape(-1, features.shape[-1])  # -> (H·W, C)
    return flat.T @ flat / np.float32(len(flat))


def _style_error(found: dict[str, Any], grams: dict[str, Any], layers: Sequence[str]) -> float:
    return float(np.mean([relative(gram_matrix(found[layer]), grams[layer]) for layer in layers]))


def _content_error(found: dict[str, Any], content: Picture, picture: Picture) -> float:
    target = _features(images.resize(content, *picture.shape[:2]), [CONTENT])
    return relative(found[CONTENT], target[CONTENT])


def _like(style: Picture, picture: Picture) -> Picture:
    """Scale as a job does: to the picture's longest side, in the style's own aspect."""
    return scaled(style, max(picture.shape[:2]))


def _grams(style: Picture, layers: Iterable[str]) -> dict[str, Any]:
    return {layer: gram_matrix(features) for layer, features in _features(style, tuple(layers)).items()}


def _features(picture: Picture, layers: Sequence[str]) -> dict[str, Any]:
    return _network().features(pixels.to_vgg(picture), layers)


@functools.cache
def _network() -> Vgg19:
    return Vgg19(weights.load("bundled"), "float32")
