"""The targets of a descent at one size: the content's features, and the styles' Gram matrices and samples."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import tensorflow as tf

from daemon import __version__
from daemon.transfer import pixels
from daemon.transfer.backend.tile_layout import feature_px
from daemon.transfer.losses import Compared, Match, Targets, unit

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from daemon.job import Picture
    from daemon.settings import Settings
    from daemon.transfer import Tensor
    from daemon.transfer.scales import Scale, Subject
    from daemon.transfer.step import Step

    Map = npt.NDArray[np.float32]
    Arrays = dict[str, npt.NDArray[np.float32]]

_MATCHED_PX: Final = 256  # the least longest side at which a coarse size is matched
_MOST_SAMPLES: Final = 3072  # of a layer: as many positions as block 4 has of a picture of 512 x 384 px


class StyleStore(Protocol):
    """Keeps a style's Gram matrices and samples from job to job."""

    def get(self, key: str, compute: Callable[[], Arrays]) -> Arrays:
        """Give the arrays that are stored under a key, or compute and store them."""


def targets(step: Step, subject: Subject, scale: Scale, store: StyleStore | None) -> Targets:
    """Compute once what every step at one size compares with, by the very network that iterates.

    So bfloat16's errors are on both sides: against float32's targets they would not cancel, and the picture
    would end where float32 sees a loss 2 % higher. Several styles blend as the weighted mean of their Gram
    matrices, and of the samples to match each has its share.
    """
    grams: dict[str, Any] = {}
    samples: dict[str, list[Any]] = {layer: [] for layer in step.method.match_layers}
    for style, share in zip(subject.scaled_styles(scale), subject.shares(), strict=True):
        if not share:
            continue
        found = _style_arrays(step, style, share, store)
        for layer in step.method.style_layers:
            grams[layer] = grams.get(layer, 0.0) + share * found[f"gram {layer}"]  # (C, C)
        for layer, taken in samples.items():
            taken.append(found[f"samples {layer}"])  # (m, C)
    settings = subject.settings
    content_weight, style_weight = _weights(settings)
    size, protection = (scale.height, scale.width), subject.protection
    content = step.content_features(pixels.to_vgg(subject.content_at(scale)))
    return Targets(
        content=content,
        importance={}
        if protection is None
        else {layer: _importance(protection, *features.shape[1:3]) for layer, features in content.items()},
        style={layer: tf.constant(grams[layer]) for layer in step.method.style_layers},
        match={
            layer: match_with(np.concatenate(taken), step.network.precision, *_places(subject, layer, size))
            for layer, taken in samples.items()
        },
        content_layers=_shares(settings.content_layers),
        style_layers=_shares(settings.style_layers),
        content_weight=tf.constant(content_weight, tf.float32),
        style_weight=tf.constant(style_weight, tf.float32),
        match_weight=tf.constant(_match_weight(subject, scale), tf.float32),
        tv_weight=tf.constant(settings.tv_weight, tf.float32),
    )


def _importance(protection: Map, height: int, width: int) -> Tensor:
    """Say how often each place counts, (1, height, width, 1): once, and three times where it is protected."""
    values = tf.constant(protection[np.newaxis, :, :, np.newaxis])  # (1, h, w, 1)
    return 1.0 + 2.0 * tf.image.resize(values, (height, width), antialias=True)


def _places(subject: Subject, layer: str, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Choose where a picture is sampled, (n, 2), and weights, (n,): a third where the content is protected."""
    positions = grid(layer, size)
    weights = tf.fill([len(positions)], 1.0 / len(positions))
    if subject.protection is not None:
        px = feature_px(layer)
        found = _importance(subject.protection, size[0] // px, size[1] // px)
        weights /= tf.gather_nd(found[0, :, :, 0], positions)
    return positions, weights


def match_with(style: npt.NDArray[np.float32], precision: str, positions: Tensor, weights: Tensor) -> Match:
    """Match features at some positions, (n, 2), with those of styles, (m, C)."""
    mean = style.mean(axis=0)  # (C,)
    return Match(tf.constant(mean), tf.cast(unit(tf.constant(style - mean)), precision), positions, weights)


def grid(layer: str, size: tuple[int, int], share: float = 1.0, most: int = _MOST_SAMPLES) -> Tensor:
    """Spread positions evenly over a layer's features of a picture: (n, 2) int32 rows and columns.

    They are a share of all features, or of `most` where there are more; at least one.
    """
    px = feature_px(layer)
    rows, columns = size[0] // px, size[1] // px
    wanted = share * min(most, rows * columns)
    factor = math.sqrt(wanted / (rows * columns))
    down = max(1, min(int(factor * rows), int(wanted)))
    across = max(1, min(int(factor * columns), int(wanted / down)))
    chosen = np.meshgrid(_even(rows, down), _even(columns, across), indexing="ij")
    return tf.constant(np.stack(chosen, axis=-1).reshape(-1, 2), tf.int32)


def _even(count: int, chosen: int) -> npt.NDArray[np.intp]:
    """Choose numbers below a count, the middles of equal intervals."""
    return ((np.arange(chosen) + 0.5) * count / chosen).astype(int)


def _style_arrays(step: Step, style: Picture, share: float, store: StyleStore | None) -> Arrays:
    """Compute a style's Gram matrices and samples, or take those of the same pixels, computed the same way."""
    method, network = step.method, step.network
    is_on_gpu = bool(tf.config.list_logical_devices("GPU"))
    computed = (network.sha256, network.precision, step.core_px, is_on_gpu, tf.__version__, __version__)
    facts = (method.style_layers, method.match_layers, share, method.pooling, computed, style.shape)
    key = hashlib.sha256(repr(facts).encode() + style.tobytes()).hexdigest()

    def compute() -> Arrays:
        grids = {layer: grid(layer, (style.shape[0], style.shape[1]), share) for layer in method.match_layers}
        found = step.style_statistics(pixels.to_vgg(style), Compared({}, {}, grids))
        kept = {f"gram {layer}": gram.numpy() for layer, gram in found.grams.items()}
        return kept | {f"samples {layer}": taken.numpy() for layer, taken in found.samples.items()}

    return compute() if store is None else store.get(key, compute)


def _weights(settings: Settings) -> tuple[float, float]:
    """Give the weights of content and style; `strength` runs from 1 over 10 to 100 on a logarithmic scale."""
    if settings.objective == "balanced":
        return 1.0, 100.0**settings.strength
    return settings.content_weight, settings.style_weight


def _match_weight(subject: Subject, scale: Scale) -> float:
    """Give the share of the matching; at the coarsest sizes it would copy motifs to senseless places."""
    is_coarse = scale.longest < _MATCHED_PX and scale != subject.scales()[-1]
    return 0.0 if is_coarse else subject.settings.match_weight


def _shares(weights: dict[Any, float]) -> dict[Any, Tensor]:
    """Scale weights to sum to 1."""
    total = sum(weights.values())
    return {name: tf.constant(weight / total, tf.float32) for name, weight in weights.items()}
