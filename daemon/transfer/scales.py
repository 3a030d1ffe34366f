"""Coarse to fine: the sizes of a job, and the picture that each of them starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import tensorflow as tf

from daemon.pictures import resampling
from daemon.transfer import chroma_limit, color_transfer, luminance, pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from daemon.job import AnyPicture, Picture
    from daemon.settings import Settings
    from daemon.transfer import Tensor


class Scale(NamedTuple):
    """One size of a job, in pixels, and the iterations at it."""

    height: int
    width: int
    iterations: int

    @property
    def longest(self) -> int:
        """The longest side."""
        return max(self.height, self.width)


@dataclass(frozen=True)
class Subject:
    """The decoded pictures and the settings of one job."""

    content: Picture
    styles: Sequence[tuple[Picture, float]]  # with their weights, one at least above 0
    settings: Settings
    init: Picture | None = None  # the start picture where settings.init names a file
    protection: npt.NDArray[np.float32] | None = None  # (h, w), 0 to 1, of the content's aspect, at any size
    alpha: Picture | None = None  # (H, W), of the content, to be kept in the result
    style_scales: Sequence[float] = ()  # each style's own, times the settings' `style_scale`; (): 1 each

    def scales(self) -> list[Scale]:
        """Turn the settings' scales into sizes in pixels, coarse to fine.

        Raises:
            JobError: a side would be too short for VGG19.
        """
        height, width = self.content.shape[:2]
        scales = self.settings.all_scales(height, width)
        return [Scale(*resampling.fit(height, width, scale.size), scale.iterations) for scale in scales]

    def shares(self) -> list[float]:
        """Scale the styles' weights to sum to 1."""
        total = sum(weight for _, weight in self.styles)
        return [weight / total for _, weight in self.styles]

    def style_factors(self) -> list[float]:
        """Give the longest side of every style, in longest sides of the content."""
        own = self.style_scales or [1.0] * len(self.styles)
        return [self.settings.style_scale * factor for _, factor in zip(self.styles, own, strict=True)]

    def content_at(self, scale: Scale) -> Picture:
        """Scale the content; where only luminance is transferred, in gray."""
        return self._seen(resampling.resize(self.content, scale.height, scale.width))

    def _seen(self, picture: Picture) -> Picture:
        return luminance.grays(picture) if self.settings.preserve_color == "luminance" else picture

    def _adapted(self, styles: list[Picture], scale: Scale) -> list[Picture]:
        """Move styles to the mean and covariance of the content's colors, if these are preserved.

        Gatys et al. (2016, "Preserving Color"), section 3: of the linear maps that do, not theirs, but the one
        that changes the painting least. In luminance it is their 3.2, the match of mean and variance.
        """
        if self.settings.preserve_color == "none":
            return styles
        wanted = color_transfer.colors_of(self.content_at(scale))
        return [color_transfer.moved(self._seen(style), wanted) for style in styles]

    def scaled_styles(self, scale: Scale) -> list[Picture]:
        """Scale every style to its factor of the content's longest side, each with its own aspect.

        Gram matrices of any two sizes compare, so no style is stretched. A style that would become too narrow
        stays larger.

        Raises:
            JobError: one is too narrow for VGG19 at its own size and at the final one.
        """
        final, scaled = self.scales()[-1].longest, []
        for (style, _), factor in zip(self.styles, self.style_factors(), strict=True):
            height, width = style.shape[:2]
            size = resampling.fit_style(height, width, round(factor * scale.longest), round(factor * final))
            scaled.append(resampling.resize(style, *size))
        return self._adapted(scaled, scale)

    def start(self, scale: Scale) -> Picture:
        """Make the first picture of a job that begins at this size: (H, W, 3) uint8 RGB."""
        if self.init is not None:
            return self._seen(resampling.cover(self.init, scale.height, scale.width))
        if self.settings.init == "style":
            return self._adapted([resampling.cover(self.styles[0][0], scale.height, scale.width)], scale)[0]
        if self.settings.init == "noise":
            random = np.random.default_rng(self.settings.seed)
            return self._seen(random.integers(0, 256, (scale.height, scale.width, 3), np.uint8))
        content = self.content_at(scale)
        if self.settings.init_colors == "content" or self.settings.preserve_color != "none":
            return content
        found = [color_transfer.colors_of(style) for style in self.scaled_styles(scale)]
        wanted = color_transfer.blended(list(zip(found, self.shares(), strict=True)))
        return color_transfer.moved(content, wanted)

    def shown(self, picture: AnyPicture) -> AnyPicture:
        """Turn a picture of the descent, (H, W, 3) RGB, 0 to 255, into what people see, in the kept colors."""
        if self.settings.preserve_color != "luminance":
            return picture
        return luminance.with_colors(picture, resampling.resize(self.content, *picture.shape[:2]))

    def finished(self, picture: AnyPicture) -> AnyPicture:
        """Take the last step from the best picture of the last size to the painting, (H, W, 3) RGB, 0 to 255.

        Several styles allow the mean of their mean squares by their shares. The content's colors have no limit.
        """
        if not self.settings.chroma_limit or self.settings.preserve_color == "luminance":
            return self.shown(picture)
        styles = zip(self.scaled_styles(self.scales()[-1]), self.shares(), strict=True)
        allowed = [share * chroma_limit.mean_squares(style) for style, share in styles]
        return chroma_limit.limited(picture, np.sum(allowed, axis=0))

    def enlarged(self, image: Tensor, before: Scale, scale: Scale) -> Tensor:
        """Enlarge a picture to the next size.

        If the start is made from the content, only the change is enlarged (Lanczos), and added to the start as
        it is at the larger size: so the content's edges are as sharp there as they can be.
        """
        size = (scale.height, scale.width)
        if self.init is not None or self.settings.init in {"style", "noise"}:
            return pixels.clip(tf.image.resize(image, size, "lanczos3"))
        change = image - pixels.to_vgg(self.start(before))  # (1, H, W, 3)
        return pixels.clip(pixels.to_vgg(self.start(scale)) + tf.image.resize(change, size, "lanczos3"))
