"""What the pictures of one size are made from and compared with: the start, the content, the style."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from daemon import __version__, images
from daemon.transfer import color_transfer, pixels
from daemon.transfer.losses import Targets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from daemon.job import Picture
    from daemon.settings import Settings
    from daemon.transfer.program import AnyProgram

    Grams = dict[str, npt.NDArray[np.float32]]  # layer -> (C, C)


class GramStore(Protocol):
    """Where Gram matrices are kept from job to job."""

    def get(self, key: str, compute: Callable[[], Grams]) -> Grams:
        """Give what is kept under a key, or compute and keep it."""


class Forgetful:
    """Keeps no Gram matrices."""

    def get(self, key: str, compute: Callable[[], Grams]) -> Grams:  # noqa: ARG002
        """Compute."""
        return compute()


class Leg(NamedTuple):
    """One size of the road."""

    height: int
    width: int
    iterations: int

    @property
    def longest(self) -> int:
        """The longest side."""
        return max(self.height, self.width)


@dataclass(frozen=True)
class Subject:
    """The pictures and settings of one job, as the engine has them."""

    content: Picture
    styles: Sequence[tuple[Picture, float]]  # with their weights, one at least above 0
    settings: Settings
    init: Picture | None = None  # the start picture where settings.init names a file

    def legs(self) -> list[Leg]:
        """Turn the settings' road into sizes in pixels.

        Raises:
            JobError: a side would be too short for VGG19.
        """
        height, width = self.content.shape[:2]
        road = self.settings.all_scales(height, width)
        return [Leg(*images.fit(height, width, scale.size), scale.iterations) for scale in road]

    def shares(self) -> list[float]:
        """Scale the styles' weights to sum to 1."""
        total = sum(weight for _, weight in self.styles)
        return [weight / total for _, weight in self.styles]

    def scaled_styles(self, leg: Leg) -> list[Picture]:
        """Scale every style to the content's longest side, each with its own aspect.

        A Gram matrix needs no equal shape. A style that would become too narrow stays larger.

        Raises:
            JobError: one is too narrow for VGG19 at its own size and at the final one.
        """
        final = self.legs()[-1].longest
        return [_no_narrower(style, leg.longest, final) for style, _ in self.styles]

    def start(self, leg: Leg) -> Picture:
        """Make the first picture, (H, W, 3) uint8 RGB, as it would be at this size."""
        if self.init is not None:
            return images.cover(self.init, leg.height, leg.width)
        if self.settings.init == "style":
            return images.cover(self.styles[0][0], leg.height, leg.width)
        if self.settings.init == "noise":
            random = np.random.default_rng(self.settings.seed)
            return random.integers(0, 256, (leg.height, leg.width, 3), np.uint8)
        content = images.resize(self.content, leg.height, leg.width)
        if self.settings.init_colors == "content":
            return content
        found = [color_transfer.colours_of(style) for style in self.scaled_styles(leg)]
        wanted = color_transfer.blended(list(zip(found, self.shares(), strict=True)))
        return color_transfer.moved(content, wanted)

    def enlarged(self, image: Any, before: Leg, leg: Leg) -> Any:
        """Carry a picture up to a larger size.

        Of a start from the content only the change is enlarged (Lanczos), and added to the start as it is at
        the larger size: so the content's edges are as sharp there as they can be.

        Args:
            image: (1, H, W, 3) float32, of the size before.
            before: that size.
            leg: the larger size.

        Returns:
            (1, H', W', 3) float32.
        """
        size = (leg.height, leg.width)
        if self.init is not None or self.settings.init in {"style", "noise"}:
            return pixels.clip(tf.image.resize(image, size, "lanczos3"))
        change = image - pixels.to_vgg(self.start(before))
        return pixels.clip(pixels.to_vgg(self.start(leg)) + tf.image.resize(change, size, "lanczos3"))


def _no_narrower(style: Picture, longest: int, final: int) -> Picture:
    """Scale a style, no further down than VGG19 can take, and no further up than itself or the final size."""
    height, width = style.shape[:2]
    least = -(-images.MIN_SIDE_PX * max(height, width) // min(height, width))
    height, width = images.fit(height, width, max(longest, min(least, max(final, height, width))))
    return images.resize(style, height, width)


def targets(program: AnyProgram, subject: Subject, leg: Leg, kept: GramStore) -> Targets:
    """Compute once what every step of one size compares with, by the very network that iterates.

    So bfloat16's errors are in both: against float32's targets they would not cancel, and pull the picture to
    where float32 sees a loss 2 % higher. Several styles blend as the weighted mean of their Gram matrices.
    """
    grams: dict[str, Any] = {}
    for style, share in zip(subject.scaled_styles(leg), subject.shares(), strict=True):
        for layer, gram in _style_grams(program, style, kept).items():
            grams[layer] = grams.get(layer, 0.0) + share * gram
    settings = subject.settings
    content_weight, style_weight = _weights(settings)
    scaled = pixels.to_vgg(images.resize(subject.content, leg.height, leg.width))
    return Targets(
        content=program.content_features(scaled),
        style={layer: tf.constant(grams[layer]) for layer in program.plan.style_layers},
        content_layers=_shares(settings.content_layers),
        style_layers=_shares(settings.style_layers),
        content_weight=tf.constant(content_weight, tf.float32),
        style_weight=tf.constant(style_weight, tf.float32),
        tv_weight=tf.constant(settings.tv_weight, tf.float32),
    )


def _style_grams(program: AnyProgram, style: Picture, kept: GramStore) -> Grams:
    """Compute a style's Gram matrices, or find those of the same pixels, computed in the same way."""
    plan, network = program.plan, program.network
    is_on_gpu = bool(tf.config.list_logical_devices("GPU"))
    way = (network.sha256, network.precision, program.core_px, is_on_gpu, tf.__version__, __version__)
    facts = (plan.style_layers, plan.pooling, way, style.shape)
    key = hashlib.sha256(repr(facts).encode() + style.tobytes()).hexdigest()

    def compute() -> Grams:
        return {layer: gram.numpy() for layer, gram in program.style_grams(pixels.to_vgg(style)).items()}

    return kept.get(key, compute)


def _weights(settings: Settings) -> tuple[float, float]:
    """Give the weights of content and style; `strength` runs from 1 over 10 to 100 on a logarithmic scale."""
    if settings.objective == "balanced":
        return 1.0, 100.0**settings.strength
    return settings.content_weight, settings.style_weight


def _shares(weights: dict[Any, float]) -> dict[Any, Any]:
    """Scale weights to sum to 1."""
    total = sum(weights.values())
    return {name: tf.constant(weight / total, tf.float32) for name, weight in weights.items()}
