"""How near a result is to its painting and its photo, by measures most of which no contestant optimizes.

All in float32 on 8-bit pixels. 0 is equal, but for the multiples and the faces. `MEASURES` names them all.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import errors
import lite0
import numpy as np
import tensorflow as tf
from picture_files import read
from skimage import color, filters

from daemon.pictures import resampling

if TYPE_CHECKING:
    from daemon.job import Picture

DIRECTIONS: Final = 64
QUANTILES: Final = (np.arange(512) + 0.5) / 512
MOST_NEAREST: Final = 4096  # positions, of a regular grid
MOST_SIMILAR: Final = 1024
FINEST_PX: Final = 0.8


def scores(request: dict[str, Any]) -> dict[str, Any]:
    """Measure pictures, scaled to the photo's shape at a size, as the painting is by its longest side."""
    photo, painting, *results = map(read, (request["content"], request["style"], *request["pictures"]))
    fitted, style = errors.scaled(photo, request["size"]), errors.scaled(painting, request["size"])
    layers = {layer for *_, some in MEASURES for layer in some} - set(lite0.STAGES)
    arrays = lite0.load(Path(request["weights"]))
    sys.path.append(request["detector"])

    def features(picture: Picture) -> dict[str, Any]:
        return errors.features(picture, layers) | lite0.features(arrays, picture)

    targets = {"photo": features(fitted), "painting": features(style)}
    found = []
    for result in results:
        picture = resampling.resize(result, *fitted.shape[:2])
        ours, score = features(picture), {"faces": faces_kept(result, photo), **of_pixels(picture, style)}
        for name, measure, target, some in MEASURES:
            score[name] = float(np.mean([measure(ours[layer], targets[target][layer]) for layer in some]))
        found.append(score)
    return {"scores": found}


def sliced(found: Any, target: Any) -> float:
    """Compute the squared sliced Wasserstein-2 distance over the target's mean variance along a direction.

    Bonneel et al. (2015): the mean over directions of the distance of sorted projections.
    """
    spread = np.var(flat(target), axis=0).mean()
    return float(np.mean((_quantiles(found) - _quantiles(target)) ** 2) / spread)


def _quantiles(features: Any) -> Any:
    """(..., C) -> (quantiles, directions), along fixed directions."""
    directions = np.random.default_rng(0).standard_normal((features.shape[-1], DIRECTIONS), np.float32)
    projected = np.asarray(flat(features)) @ (directions / np.linalg.norm(directions, axis=0))
    return np.sort(projected, axis=0)[(QUANTILES * len(projected)).astype(int)]


def nearest(found: Any, target: Any, axis: int) -> float:
    """Compute the mean cosine distance, less the target's mean, from found to target (axis 1) or back (0).

    The two terms of Kolkin, Salavon & Shakhnarovich (2019), eq. 4.
    """
    mean = tf.reduce_mean(flat(target), 0)
    x, y = (unit(_grid(each, MOST_NEAREST) - mean) for each in (found, target))
    return float(tf.reduce_mean(tf.reduce_min(1 - tf.matmul(x, y, transpose_b=True), axis)))


def similarity(found: Any, target: Any) -> float:
    """Compare which places are alike in two pictures of one shape."""
    return float(structure(*(unit(_grid(each, MOST_SIMILAR)) for each in (found, target))))


def structure(x: Any, target: Any) -> Any:
    """Compare the cosine distances within two sets of N unit vectors, each column over its sum.

    Kolkin et al. (2019), eq. 7, times N: 0 to 2 for any number of positions.
    """
    first, second = (1 - symmetric(each) for each in (x, target))
    difference = first / tf.reduce_sum(first, 0) - second / tf.reduce_sum(second, 0)
    return tf.reduce_mean(tf.reduce_sum(tf.abs(difference), 0))


@tf.custom_gradient  # type: ignore[untyped-decorator]
def symmetric(x: Any) -> Any:
    """Multiply (N, C) by its transpose: -> (N, N), whose gradient takes one product instead of two."""
    return tf.matmul(x, x, transpose_b=True), lambda up: tf.matmul(up + tf.transpose(up), x)


def flat(features: Any) -> Any:
    """(..., C) -> (N, C)."""
    return tf.reshape(features, [-1, tf.shape(features)[-1]])


def unit(vectors: Any) -> Any:
    """Normalize (N, C) along C."""
    return vectors * tf.math.rsqrt(tf.reduce_sum(vectors**2, 1, keepdims=True) + 1e-8)


def _grid(features: Any, most: int) -> Any:
    """Take every n-th row and column of (1, H, W, C), so that at most so many positions are left: -> (N, C)."""
    _, height, width, _ = features.shape
    step = next(step for step in range(1, height + width) if -(-height // step) * -(-width // step) <= most)
    return flat(features[:, ::step, ::step])


_STAGES: Final = tuple(lite0.STAGES)
_HIGH: Final = ("stage3", "stage5")
_MIDDLE: Final = ("block3_conv2", "block4_conv4")
_SLICED: Final = ("block1_conv2", "block2_conv2", "block3_conv2", "block3_conv4", "block4_conv4")
MEASURES: Final = (
    ("Gram, held-out layers", errors.gram_error, "painting", errors.OTHER),
    ("Gram, optimized layers", errors.gram_error, "painting", errors.OPTIMIZED),
    ("sliced Wasserstein-2", sliced, "painting", _SLICED),
    ("nearest in the painting", partial(nearest, axis=1), "painting", _MIDDLE),
    ("nearest in the result", partial(nearest, axis=0), "painting", _MIDDLE),
    ("self-similarity", similarity, "photo", ("block3_conv4", "block4_conv4", "block5_conv2")),
    ("content, block4_conv2", errors.relative, "photo", ("block4_conv2",)),
    ("content, block5_conv2", errors.relative, "photo", ("block5_conv2",)),
    ("Gram, Lite0", errors.gram_error, "painting", _STAGES),
    ("sliced Wasserstein-2, Lite0", sliced, "painting", _STAGES),
    ("nearest in the painting, Lite0", partial(nearest, axis=1), "painting", _HIGH),
    ("nearest in the result, Lite0", partial(nearest, axis=0), "painting", _HIGH),
    ("self-similarity, Lite0", similarity, "photo", _HIGH),
)


def of_pixels(picture: Picture, painting: Picture) -> dict[str, Any]:
    """Compare the finest detail, and the colors by the sliced Wasserstein-1 distance."""
    ours, theirs = (color.rgb2ycbcr(each) for each in (picture, painting))
    bands = [each - filters.gaussian(each, FINEST_PX, channel_axis=-1) for each in (ours, theirs)]
    luma, chroma = ([np.std(band[..., part]) + 1e-6 for band in bands] for part in (slice(1), slice(1, 3)))
    first, second = (_quantiles(color.rgb2lab(each).astype(np.float32)) for each in (picture, painting))
    return {
        "finest luma, of the painting's": float(luma[0] / luma[1]),
        "finest chroma, of the painting's": float(chroma[0] / chroma[1]),
        "sliced Wasserstein-1, CIELAB": float(np.mean(np.abs(first - second))),
    }


def faces_kept(picture: Picture, photo: Picture) -> tuple[int, int]:
    """Count the photo's faces that are found in the result within half their width, and all of the photo's."""
    there, wanted = _faces(picture), _faces(photo)
    kept = [any(np.hypot(y - v, x - u) < width / 2 for v, u, _ in there) for y, x, width in wanted]
    return sum(kept), len(kept)


def _faces(picture: Picture) -> list[tuple[float, float, float]]:
    """Find faces of 40 px or more in 512 px, by histograms of gradients: middle and width.

    Dalal & Triggs (2005), with the weights of King (2015).
    """
    import dlib  # noqa: PLC0415 - from the folder that `scores` was given

    boxes = dlib.get_frontal_face_detector()(errors.scaled(picture, 512), 1)
    return [((box.top() + box.bottom()) / 2, (box.left() + box.right()) / 2, box.width()) for box in boxes]
