"""The two targets of a descent at one size: the content's features and the style's Gram matrices."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Protocol

import tensorflow as tf

from daemon import __version__, images
from daemon.transfer import pixels
from daemon.transfer.losses import Targets

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from daemon.job import Picture
    from daemon.settings import Settings
    from daemon.transfer import Tensor
    from daemon.transfer.scales import Scale, Subject
    from daemon.transfer.step import Step

    Grams = dict[str, npt.NDArray[np.float32]]  # layer -> (C, C)


class GramStore(Protocol):
    """Keeps Gram matrices from job to job."""

    def get(self, key: str, compute: Callable[[], Grams]) -> Grams:
        """Give the Gram matrices that are stored under a key, or compute and store them."""


def targets(step: Step, subject: Subject, scale: Scale, store: GramStore | None) -> Targets:
    """Compute once what every step at one size compares with, by the very network that iterates.

    So bfloat16's errors are on both sides: against float32's targets they would not cancel, and the picture
    would end where float32 sees a loss 2 % higher. Several styles blend as the weighted mean of their Gram
    matrices.
    """
    grams: dict[str, Any] = {}
    for style, share in zip(subject.scaled_styles(scale), subject.shares(), strict=True):
        for layer, gram in _style_grams(step, style, store).items():
            grams[layer] = grams.get(layer, 0.0) + share * gram  # (C, C)
    settings = subject.settings
    content_weight, style_weight = _weights(settings)
    content = pixels.to_vgg(images.resize(subject.content, scale.height, scale.width))  # (1, H, W, 3)
    return Targets(
        content=step.content_features(content),
        style={layer: tf.constant(grams[layer]) for layer in step.method.style_layers},
        content_layers=_shares(settings.content_layers),
        style_layers=_shares(settings.style_layers),
        content_weight=tf.constant(content_weight, tf.float32),
        style_weight=tf.constant(style_weight, tf.float32),
        tv_weight=tf.constant(settings.tv_weight, tf.float32),
    )


def _style_grams(step: Step, style: Picture, store: GramStore | None) -> Grams:
    """Compute a style's Gram matrices, or take those of the same pixels, computed in the same way."""
    method, network = step.method, step.network
    is_on_gpu = bool(tf.config.list_logical_devices("GPU"))
    computed = (network.sha256, network.precision, step.core_px, is_on_gpu, tf.__version__, __version__)
    facts = (method.style_layers, method.pooling, computed, style.shape)
    key = hashlib.sha256(repr(facts).encode() + style.tobytes()).hexdigest()

    def compute() -> Grams:
        return {layer: gram.numpy() for layer, gram in step.style_grams(pixels.to_vgg(style)).items()}

    return compute() if store is None else store.get(key, compute)


def _weights(settings: Settings) -> tuple[float, float]:
    """Give the weights of content and style; `strength` runs from 1 over 10 to 100 on a logarithmic scale."""
    if settings.objective == "balanced":
        return 1.0, 100.0**settings.strength
    return settings.content_weight, settings.style_weight


def _shares(weights: dict[Any, float]) -> dict[Any, Tensor]:
    """Scale weights to sum to 1."""
    total = sum(weights.values())
    return {name: tf.constant(weight / total, tf.float32) for name, weight in weights.items()}
