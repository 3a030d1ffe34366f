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
from daemon.transfer.scales import Area

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
_WHOLE: Final = Area([], np.ones((1, 1), np.float32))


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
    settings, method, protection = subject.settings, step.method, subject.protection
    size, styles = (scale.height, scale.width), subject.scaled_styles(scale)
    areas, masks = subject.areas(*size), subject.style_masks(styles)
    grams: dict[str, Tensor] = {}
    match: dict[str, Match] = {}
    guides: dict[str, Tensor] = {}
    for area in areas:
        found = [(one, _style_arrays(step, styles[n], masks[n], one, store)) for n, one in area.styles]
        for layer in method.style_layers:
            gram = sum(share * arrays[f"gram {layer}"] for share, arrays in found)  # (C, C)
            grams[layer + area.place] = tf.constant(gram)
        for layer in method.match_layers:
            taken = np.concatenate([arrays[f"samples {layer}"] for _, arrays in found])  # (m, C)
            places = _places(subject, layer, size, area.mask)
            match[layer + area.place] = match_with(taken, step.network.precision, *places)
        guides |= _guides(area, method.style_layers)
    content_weight, style_weight = _weights(settings)
    content = step.content_features(pixels.to_vgg(subject.content_at(scale)))
    return Targets(
        content=content,
        importance={}
        if protection is None
        else {layer: _importance(protection, *features.shape[1:3]) for layer, features in content.items()},
        style=grams,
        match=match,
        content_layers=_shares(settings.content_layers, [_WHOLE]),
        style_layers=_shares(settings.style_layers, areas),
        match_layers=_shares(dict.fromkeys(method.match_layers if guides else (), 1.0), areas),
        content_weight=tf.constant(content_weight, tf.float32),
        style_weight=tf.constant(style_weight, tf.float32),
        match_weight=tf.constant(_match_weight(subject, scale), tf.float32),
        tv_weight=tf.constant(settings.tv_weight, tf.float32),
        guides=guides,
    )


def _guides(area: Area, layers: Iterable[str]) -> dict[str, Tensor]:
    """Say how far each feature of every layer is within an area, (1, H', W', 1), mean 1; nothing of a whole."""
    is_whole = not area.place and area.mask.min() == 1
    found = {} if is_whole else {layer + area.place: _pooled(area.mask, layer) for layer in layers}
    return {name: tf.constant((guide / guide.mean())[None, ..., None]) for name, guide in found.items()}


def _pooled(mask: Map, layer: str) -> Map:
    """Average a mask, (H, W), over the square of pixels of each of a layer's features: (H', W')."""
    px = feature_px(layer)
    rows, columns = mask.shape[0] // px, mask.shape[1] // px
    return np.asarray(mask[: rows * px, : columns * px].reshape(rows, px, columns, px).mean(axis=(1, 3)))


def _importance(protection: Map, height: int, width: int) -> Tensor:
    """Say how often each place counts, (1, height, width, 1): once, and three times where it is protected."""
    values = tf.constant(protection[np.newaxis, :, :, np.newaxis])  # (1, h, w, 1)
    return 1.0 + 2.0 * tf.image.resize(values, (height, width), antialias=True)


def _places(subject: Subject, layer: str, size: tuple[int, int], mask: Map) -> tuple[Tensor, Tensor]:
    """Choose where a picture is sampled, (n, 2), and weights, (n,): a third where the content is protected."""
    positions, weights = _within(mask, layer, size)
    if subject.protection is not None:
        px = feature_px(layer)
        found = _importance(subject.protection, size[0] // px, size[1] // px)
        weights /= tf.gather_nd(found[0, :, :, 0], positions)
    return positions, weights


def _within(mask: Map, layer: str, size: tuple[int, int], share: float = 1.0) -> tuple[Tensor, Tensor]:
    """Choose positions, (n, 2), as `grid` does, where a mask has half of its greatest value there, or more.

    They have weights, (n,), that sum to 1.
    """
    levels = _pooled(mask, layer)
    denser = max(1.0, float(levels.max() / levels.mean()))  # so that there are as many as without a mask
    positions = grid(layer, size, share * denser)
    found = tf.gather_nd(levels, positions)
    is_within = found >= tf.reduce_max(found) / 2
    weights = tf.boolean_mask(found, is_within)
    return tf.boolean_mask(positions, is_within), weights / tf.reduce_sum(weights)


def match_with(style: npt.NDArray[np.float32], precision: str, positions: Tensor, weights: Tensor) -> Match:
    """Match features at some positions, (n, 2), with those of styles, (m, C)."""
    mean = style.mean(axis=0)  # (C,)
    return Match(tf.constant(mean), tf.cast(unit(tf.constant(style - mean)), precision), positions, weights)


def grid(layer: str, size: tuple[int, int], share: float = 1.0, most: int = _MOST_SAMPLES) -> Tensor:
    """Spread positions evenly over a layer's features of a picture: (n, 2) int32 rows and columns.

    They are a share of all features, or of `most` where there are more; at least one, and all at most.
    """
    px = feature_px(layer)
    rows, columns = size[0] // px, size[1] // px
    wanted = min(share * min(most, rows * columns), rows * columns)
    factor = math.sqrt(wanted / (rows * columns))
    down = max(1, min(int(factor * rows), int(wanted)))
    across = max(1, min(int(factor * columns), int(wanted / down)))
    chosen = np.meshgrid(_even(rows, down), _even(columns, across), indexing="ij")
    return tf.constant(np.stack(chosen, axis=-1).reshape(-1, 2), tf.int32)


def _even(count: int, chosen: int) -> npt.NDArray[np.intp]:
    """Choose numbers below a count, the middles of equal intervals."""
    return ((np.arange(chosen) + 0.5) * count / chosen).astype(int)


def _style_arrays(step: Step, style: Picture, mask: Map, share: float, store: StyleStore | None) -> Arrays:
    """Compute a style's Gram matrices and samples, or take those of the same pixels, computed the same way."""
    method, network = step.method, step.network
    is_on_gpu = bool(tf.config.list_logical_devices("GPU"))
    computed = (network.sha256, network.precision, step.core_px, is_on_gpu, tf.__version__, __version__)
    facts = (method.style_layers, method.match_layers, share, method.pooling, computed, style.shape)
    guides = _guides(Area([], mask), method.style_layers)
    masked = style.tobytes() + (mask.tobytes() if guides else b"")
    key = hashlib.sha256(repr(facts).encode() + masked).hexdigest()

    def compute() -> Arrays:
        size = (style.shape[0], style.shape[1])
        grids = {layer: _within(mask, layer, size, share)[0] for layer in method.match_layers}
        statistics = step.masked_statistics if guides else step.style_statistics
        found = statistics(pixels.to_vgg(style), Compared({}, {}, grids, guides))
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


def _shares(weights: dict[Any, float], areas: list[Area]) -> dict[Any, Tensor]:
    """Scale weights to sum to 1, or to an area's share of the picture times its own weight."""
    total = sum(weights.values())
    sized = [(area.place, area.weight * float(area.mask.mean())) for area in areas]
    shares = {
        layer + place: size * weight / total for place, size in sized for layer, weight in weights.items()
    }
    return {layer: tf.constant(share, tf.float32) for layer, share in shares.items()}
