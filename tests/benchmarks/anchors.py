"""STROTSS and NNST-Opt from their papers' equations, on the product's VGG19 in its precision.

Kolkin, Salavon & Shakhnarovich (2019), "Style Transfer by Relaxed Optimal Transport and Self-Similarity", and
Kolkin et al. (2022), "Neural Neighbor Style Transfer". Steps, rates and layers are the authors', but of VGG19
(the last of blocks 4 and 5 for VGG16's). NNST's correction of colors after its last step is left out.
Pictures are (1, H, W, 3) RGB, 0 to 1.
"""

from __future__ import annotations

import functools
import math
import time
from typing import TYPE_CHECKING, Any, Final

import keras
import numpy as np
import picture_files
import tensorflow as tf
from errors import scaled
from measures import flat, structure, symmetric, unit

from daemon.transfer import pixels, weights
from daemon.transfer.backend import device
from daemon.transfer.vgg19 import Vgg19

if TYPE_CHECKING:
    from collections.abc import Callable

_EARLY: Final = (
    *("block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2"),
    *("block3_conv1", "block3_conv2", "block3_conv3"),
)
STROTSS_LAYERS: Final = (*_EARLY, "block4_conv4", "block5_conv4")
NNST_LAYERS: Final = (*_EARLY, "block4_conv1", "block4_conv2", "block4_conv4")
UNIT: Final = 57.4  # these features are so much larger: theirs are of pixels over 255 and 0.225
ALPHA: Final = 0.25  # of the picture so far, where NNST looks for neighbors; the rest is the photo


class Run:
    """The passes of one painting, one a size and NNST's last; each optimizes a Laplacian pyramid."""

    def __init__(self, request: dict[str, Any], largest: int, seconds: float) -> None:
        """Read the pictures; the sizes double up to the largest."""
        self._pictures = [picture_files.read(request[role]) for role in ("content", "style")]
        self.sizes = [*(size for size in (64, 128, 256, 512, 1024) if size < largest), largest]
        self._passes = len(self.sizes) + (request["anchor"] == "nnst")
        self._begun, self._seconds = time.perf_counter(), seconds
        self.steps: list[int] = []  # of each pass

    def pictures(self, size: int) -> list[Any]:
        """Scale photo and painting."""
        return [tf.constant(scaled(each, size)[np.newaxis] / np.float32(255)) for each in self._pictures]

    def minimize(
        self, image: Any, loss: Callable[..., Any], targets: Any, optimizer: Any, *, count: int, bands: int
    ) -> Any:
        """Take steps: all, or at least one until the time is over; half of it is for the last pass."""
        levels = [tf.Variable(level) for level in split(image, bands)]
        self.steps.append(0)
        end = self._begun + self._seconds * 0.5 ** (self._passes - len(self.steps))
        while self.steps[-1] < count and not (self.steps[-1] and time.perf_counter() > end):
            found = _gradient(loss, targets, [tf.convert_to_tensor(level) for level in levels])
            optimizer.apply_gradients(zip(found, levels, strict=True))
            self.steps[-1] += 1
        return join(levels)


def paint(request: dict[str, Any]) -> dict[str, Any]:
    """Paint in some seconds, or (null) in full; before, once at small sizes, so that everything is traced."""
    chosen = device.choose("auto", request["precision"], None)
    tf.random.set_seed(0)
    network = Vgg19(weights.load("bundled"), chosen.precision, chosen.backward)
    method = {"strotss": strotss, "nnst": nnst}[request["anchor"]]
    method(network, Run(request, 128, 0))
    begun = time.perf_counter()
    run = Run(request, request["size"], math.inf if request["seconds"] is None else request["seconds"])
    image = method(network, run).numpy()[0]
    seconds = time.perf_counter() - begun
    picture_files.write(request["output"], np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
    return {"seconds": seconds, "sizes": run.sizes, "steps": run.steps, "precision": chosen.precision}


def split(image: Any, bands: int) -> list[Any]:
    """Decompose into bands and a rest: Burt & Adelson (1983), with bilinear filters."""
    levels = []
    for _ in range(bands):
        height, width = image.shape[1:3]
        coarse = tf.image.resize(image, [max(1, height // 2), max(1, width // 2)])
        levels.append(image - tf.image.resize(coarse, [height, width]))
        image = coarse
    return [*levels, image]


def join(levels: list[Any]) -> Any:
    """Put a picture together from its bands and its rest."""
    return functools.reduce(
        lambda image, level: tf.image.resize(image, tf.shape(level)[1:3]) + level, levels[::-1]
    )


@tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
def _gradient(loss: Callable[..., Any], targets: Any, levels: list[Any]) -> list[Any]:
    """Differentiate a loss of targets and a picture by the picture's bands."""
    with tf.GradientTape() as tape:
        tape.watch(levels)
        found = loss(targets, join(levels))
    return list(tape.gradient(found, levels))


def strotss(network: Vgg19, run: Run) -> Any:
    """Kolkin et al. (2019), section 2."""
    loss, image = functools.partial(_strotss_loss, network), None
    for index, size in enumerate(run.sizes):
        photo, painting = run.pictures(size)
        start = tf.reduce_mean(painting, [1, 2], keepdims=True) if image is None else image
        start, is_last = tf.image.resize(start, photo.shape[1:3]), size == run.sizes[-1]
        if image is None or not is_last:
            start += split(photo, 1)[0]  # its finest band
        style = _sampled(_strotss_maps(network, painting), tf.random.uniform([5000, 2]))
        known = unit(style), tf.image.rgb_to_yuv(style[:, :3]), _moments(style)
        targets = _strotss_maps(network, photo), *known, tf.constant(16 * 0.5**index)
        optimizer = keras.optimizers.RMSprop(1e-3 if is_last else 2e-3, rho=0.99, epsilon=1e-8)
        image = run.minimize(start, loss, targets, optimizer, count=250, bands=5)
    return image


def _strotss_loss(network: Vgg19, targets: Any, image: Any) -> Any:
    """Eq. 8, of eq. 7, 4 and 6, and 4 again for colors, at random positions."""
    photo, y, palette, moments, alpha = targets
    at = tf.random.uniform([1024, 2])
    columns = _sampled(_strotss_maps(network, image), at)
    x, colors = unit(columns), tf.image.rgb_to_yuv(columns[:, :3])
    content = structure(x, unit(_sampled(photo, at)))
    style = _relaxed(x, y, _likeness(x, y), _cosine)
    for found, target in zip(_moments(columns), moments, strict=True):
        style += tf.reduce_mean(tf.abs(found - target))
    used = _relaxed(colors, palette, _nearness(colors, palette), _length)
    return (alpha * content + style + used / alpha) / (2 + alpha + 1 / alpha)


def _strotss_maps(network: Vgg19, image: Any) -> list[Any]:
    return [image, *(found / UNIT for found in _maps(network, image, STROTSS_LAYERS))]


def _sampled(maps: list[Any], at: Any) -> Any:
    """Interpolate each map at (N, 2) positions, 0 to 1, into hypercolumns: -> (N, 2179)."""
    boxes, first = tf.concat([at, at], 1), tf.zeros(tf.shape(at)[0], tf.int32)
    return tf.concat([tf.image.crop_and_resize(item, boxes, first, [1, 1])[:, 0, 0] for item in maps], 1)


def _moments(x: Any) -> tuple[Any, Any]:
    """(N, C) -> mean (C,) and covariance (C, C)."""
    mean = tf.reduce_mean(x, 0)
    return mean, symmetric(tf.transpose(x - mean)) / tf.cast(tf.shape(x)[0], tf.float32)


def _relaxed(x: Any, y: Any, likeness: Any, distance: Callable[[Any, Any], Any]) -> Any:
    """Eq. 4: the larger mean distance to nearest neighbors; gradients go through these only."""
    there, back = tf.gather(y, tf.argmax(likeness, 1)), tf.gather(x, tf.argmax(likeness, 0))
    return tf.maximum(tf.reduce_mean(distance(x, there)), tf.reduce_mean(distance(back, y)))


def _likeness(x: Any, y: Any) -> Any:
    """Compute cosines of unit vectors, only to compare them: (N, C), (M, C) -> (N, M)."""
    return tf.stop_gradient(tf.matmul(tf.cast(x, tf.bfloat16), tf.cast(y, tf.bfloat16), transpose_b=True))


def _cosine(x: Any, y: Any) -> Any:
    return 1 - tf.reduce_sum(x * y, 1)


def _nearness(x: Any, y: Any) -> Any:
    """Compute -|x - y|², only to compare: (N, C), (M, C) -> (N, M)."""
    ours, theirs = (tf.reduce_sum(each**2, 1) for each in (x, y))
    return tf.stop_gradient(2 * tf.matmul(x, y, transpose_b=True) - ours[:, tf.newaxis] - theirs)


def _length(x: Any, y: Any) -> Any:
    return tf.sqrt(tf.reduce_sum((x - y) ** 2, 1) + 1e-8)


def _maps(network: Vgg19, image: Any, layers: tuple[str, ...]) -> list[Any]:
    return list(network.features(image[..., ::-1] * 255 - pixels.MEAN_BGR, layers).values())


def nnst(network: Vgg19, run: Run) -> Any:
    """Kolkin et al. (2022), section 3, the variant that optimizes."""
    matching, splitting = (functools.partial(each, network) for each in (_matching_loss, _splitting_loss))
    image = run.pictures(run.sizes[0])[0]
    for size in run.sizes:
        photo, painting = run.pictures(size)
        rotated = [tf.image.rot90(painting, quarters) for quarters in range(4)]
        image = tf.image.resize(image, photo.shape[1:3])
        query = ALPHA * (image + split(photo, 1)[0]) + (1 - ALPHA) * photo if run.steps else photo
        style = tf.concat([_quarter(network, each) for each in rotated], 0)
        targets = _replaced(_quarter(network, query), style)
        image = run.minimize(image, matching, targets, keras.optimizers.Adam(2e-3), count=200, bands=8)
    maps = [_maps(network, each, NNST_LAYERS) for each in rotated]
    return run.minimize(image, splitting, maps, keras.optimizers.Adam(2e-3), count=200, bands=8)


def _quarter(network: Vgg19, image: Any) -> Any:
    """Give hypercolumns at a quarter of the sides, each layer over its channels: -> (N, 2688)."""
    side, maps = tf.shape(image)[1:3] // 4, _maps(network, image, NNST_LAYERS)
    return tf.concat([flat(tf.image.resize(each, side)) / each.shape[-1] for each in maps], 1)


def _replaced(x: Any, y: Any) -> Any:
    """Replace each row by its nearest one, by cosine of centered vectors: unit vectors."""
    ours, theirs = (unit(each - tf.reduce_mean(each, 0)) for each in (x, y))
    found = [tf.argmax(_likeness(ours[row : row + 2048], theirs), 1) for row in range(0, len(ours), 2048)]
    return unit(tf.gather(y, tf.concat(found, 0)))


def _matching_loss(network: Vgg19, targets: Any, image: Any) -> Any:
    return tf.reduce_mean(_cosine(unit(_quarter(network, image)), targets))


def _splitting_loss(network: Vgg19, paintings: list[list[Any]], image: Any) -> Any:
    """Each layer has neighbors of its own, found at each step, at every n-th position."""
    total = 0.0
    for index, found in enumerate(_maps(network, image, NNST_LAYERS)):
        step = (tf.reduce_max(tf.shape(found)[1:3]) + 63) // 64
        top, left = tf.unstack(tf.random.uniform([2], 0, 1 << 16, tf.int32) % step)
        x = flat(found[:, top::step, left::step])
        y = tf.concat([flat(maps[index][:, top::step, left::step]) for maps in paintings], 0)
        x, y = (unit(each - tf.reduce_mean(each, 0)) for each in (x, y))
        total += tf.reduce_mean(_cosine(x, tf.gather(y, tf.argmax(_likeness(x, y), 1))))
    return total
