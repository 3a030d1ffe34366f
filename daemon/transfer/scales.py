"""Coarse to fine: the sizes of a job, and the picture that each of them starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import tensorflow as tf

from daemon.pictures import resampling
from daemon.transfer import chroma_limit, color_transfer, luminance, pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from daemon.job import AnyPicture, Picture, Style
    from daemon.settings import Settings
    from daemon.transfer import Tensor

    Map = npt.NDArray[np.float32]

_LEAST: Final = 1e-6  # of a mask, so that no region is empty at any layer
_LEAST_REST: Final = 0.01  # of the content, that is painted with the ordinary styles beside regions


class Scale(NamedTuple):
    """One size of a job, in pixels, and the iterations at it."""

    height: int
    width: int
    iterations: int

    @property
    def longest(self) -> int:
        """The longest side."""
        return max(self.height, self.width)


class Area(NamedTuple):
    """A part of a picture, and the styles that are blended in it."""

    styles: list[tuple[int, float]]  # by number, with shares that sum to 1
    mask: Map  # (H, W), above 0; with those of the other areas it sums to 1
    weight: float = 1.0  # how strong the style is
    place: str = ""  # of a region, what `tile_layout.regional` adds to a layer


@dataclass(frozen=True)
class Subject:
    """The decoded pictures and the settings of one job."""

    content: Picture
    styles: Sequence[Style[Picture]]  # one weight of the blend above 0
    settings: Settings
    init: Picture | None = None  # the start picture where settings.init names a file
    protection: Map | None = None  # (h, w), 0 to 1, of the content's aspect, at any size
    alpha: Picture | None = None  # (H, W), of the content, to be kept in the result

    def scales(self) -> list[Scale]:
        """Turn the settings' scales into sizes in pixels, coarse to fine.

        Raises:
            JobError: a side would be too short for VGG19.
        """
        height, width = self.content.shape[:2]
        scales = self.settings.all_scales(height, width)
        return [Scale(*resampling.fit(height, width, scale.size), scale.iterations) for scale in scales]

    @property
    def regions(self) -> int:
        """The number of areas, the rest included if it is large enough; 0 if the picture is one area."""
        own = [style.region for style in self.styles if style.region is not None]
        left = 1 - np.minimum(np.sum(own, axis=0) / 255, 1).mean() if own else 0.0
        return len(own) + int(left > _LEAST_REST)

    def areas(self, height: int, width: int) -> list[Area]:
        """Divide a picture of a size into the regions, in their styles' order, and the rest; masks sum to 1."""
        blend = {number: style.weight for number, style in enumerate(self.styles) if style.region is None}
        total = sum(blend.values())
        rest = [(number, weight / total) for number, weight in blend.items() if weight]
        own = [(number, style) for number, style in enumerate(self.styles) if number not in blend]
        if not own:
            return [Area(rest, np.ones((height, width), np.float32))]
        areas = [Area([(number, 1.0)], _levels(one.region, height, width), one.weight) for number, one in own]
        if self.regions > len(areas):
            areas.append(Area(rest, np.maximum(1 - sum(area.mask for area in areas), np.float32(_LEAST))))
        whole = sum(area.mask for area in areas)
        return [area._replace(mask=area.mask / whole, place=f"/{number}") for number, area in enumerate(areas)]

    def style_masks(self, scaled: Sequence[Picture]) -> list[Map]:
        """Scale the styles' masks to the sizes of their scaled pictures; ones where all of one counts."""
        pairs = zip(self.styles, scaled, strict=True)
        return [_levels(style.mask, *seen.shape[:2]) for style, seen in pairs]

    def style_factors(self) -> list[float]:
        """Give the longest side of every style, in longest sides of the content."""
        return [self.settings.style_scale * style.scale for style in self.styles]

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
        for style, factor in zip(self.styles, self.style_factors(), strict=True):
            height, width = style.image.shape[:2]
            size = resampling.fit_style(height, width, round(factor * scale.longest), round(factor * final))
            scaled.append(resampling.resize(style.image, *size))
        return self._adapted(scaled, scale)

    def start(self, scale: Scale) -> Picture:
        """Make the first picture of a job that begins at this size: (H, W, 3) uint8 RGB."""
        if self.init is not None:
            return self._seen(resampling.cover(self.init, scale.height, scale.width))
        if self.settings.init == "style":
            return self._adapted([resampling.cover(self.styles[0].image, scale.height, scale.width)], scale)[0]
        if self.settings.init == "noise":
            random = np.random.default_rng(self.settings.seed)
            return self._seen(random.integers(0, 256, (scale.height, scale.width, 3), np.uint8))
        content = self.content_at(scale)
        if self.settings.init_colors == "content" or self.settings.preserve_color != "none":
            return content
        styles = self.scaled_styles(scale)
        found = list(map(color_transfer.colors_of, styles, self.style_masks(styles)))
        start = np.zeros(1)
        for area in self.areas(scale.height, scale.width):
            wanted = color_transfer.blended([(found[number], share) for number, share in area.styles])
            own = color_transfer.colors_of(content, area.mask)
            start = start + area.mask[..., np.newaxis] * color_transfer.moved(content, wanted, own)
        return np.asarray(np.rint(start), np.uint8)

    def shown(self, picture: AnyPicture) -> AnyPicture:
        """Turn a picture of the descent, (H, W, 3) RGB, 0 to 255, into what people see, in the kept colors."""
        if self.settings.preserve_color != "luminance":
            return picture
        return luminance.with_colors(picture, resampling.resize(self.content, *picture.shape[:2]))

    def finished(self, picture: AnyPicture) -> AnyPicture:
        """Take the last step from the best picture of the last size to the painting, (H, W, 3) RGB, 0 to 255.

        Several styles allow the mean of their mean squares, by their shares and their areas'. The content's
        colors have no limit.
        """
        if not self.settings.chroma_limit or self.settings.preserve_color == "luminance":
            return self.shown(picture)
        styles = self.scaled_styles(self.scales()[-1])
        sized = [(area, float(area.mask.mean())) for area in self.areas(*picture.shape[:2])]
        shares = [(number, share * size) for area, size in sized for number, share in area.styles]
        allowed = [share * chroma_limit.mean_squares(styles[number]) for number, share in shares]
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


def _levels(mask: Picture | None, height: int, width: int) -> Map:
    """Scale a mask, (h, w), to (height, width), from `_LEAST` in its black to 1 in its white."""
    if mask is None:
        return np.ones((height, width), np.float32)
    return np.maximum(resampling.resize(mask, height, width) / np.float32(255), np.float32(_LEAST))
