"""The photo's colors kept: the painting's matched to them before, or only its luminance taken."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage.color import rgb2xyz

from daemon.job import Style
from daemon.presets import PRESETS
from daemon.settings import Settings
from daemon.transfer.color_transfer import colors_of, moved
from daemon.transfer.luminance import grays, luminance, with_colors
from daemon.transfer.scales import Subject

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., Any]

sizes = st.shared(st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))
pictures = arrays.arrays(np.uint8, sizes)
GRAYS = np.repeat(np.arange(256, dtype=np.uint8)[np.newaxis, :, np.newaxis], 3, axis=2)
FLARE = 0.02
DEFAULT = {**PRESETS["default"], "size": "original", "iterations": 2, "scales": "none"}


def levels(picture: np.ndarray) -> np.ndarray:
    """Give the gray level, 0 to 255, of each pixel's luminance; scikit-image's shares have two digits more."""
    light = rgb2xyz(picture / 255.0)[..., 1]
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255


def linear(picture: np.ndarray) -> np.ndarray:
    """Turn gray levels into linear light."""
    share = np.asarray(picture, np.float64) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def muted(seed: int, height: int, width: int, spread: float = 12) -> np.ndarray:
    """Draw normal colors of which next to none is clipped, whatever is matched with them."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(height, width, 3)) @ random.normal(size=(3, 3)) * spread
    return np.clip(np.rint(mixed + random.uniform(110, 145, 3)), 0, 255).astype(np.uint8)


# Luminance


@given(pictures, pictures)
@settings(deadline=None)
def test_luminance_is_kept_and_colors_are_the_photos(picture: np.ndarray, photo: np.ndarray) -> None:
    """Any colors on any picture leave its luminance to half a gray level, and before rounding exactly.

    The chromaticity is the photo's, with a flare of 2 % added, or between it and gray where it cannot be shown.
    """
    assert np.abs(levels(with_colors(picture, photo)) - levels(picture)).max() < 0.53
    exact = with_colors(picture.astype(np.float32), photo)
    assert exact.dtype == np.float32
    assert np.abs(luminance(exact) - luminance(picture)).max() < 2e-6
    light, own = (linear(one) for one in (exact, photo))
    wanted = (luminance(picture) + FLARE) / (luminance(photo) + FLARE) * (own - luminance(photo))
    apart = light - luminance(picture)
    share = np.sum(apart * wanted, axis=-1, keepdims=True) / np.maximum(
        np.sum(wanted**2, -1, keepdims=True), 1e-9
    )
    assert np.abs(apart - share * wanted).max() < 1e-4  # of the same hue
    inside = np.all((luminance(picture) + wanted >= 0) & (luminance(picture) + wanted <= 1), axis=-1)
    assert np.abs((apart - wanted)[inside]).max(initial=0) < 1e-4  # and of the same saturation


@given(pictures)
def test_a_pictures_own_colors_change_nothing(picture: np.ndarray) -> None:
    """With its own colors a picture stays as it is, to the bit."""
    assert np.array_equal(with_colors(picture, picture), picture)


@given(pictures)
def test_gray_has_the_luminance_of_the_colors(picture: np.ndarray) -> None:
    """Each pixel becomes the nearest gray level; grays stay, and of a gray photo the result is gray."""
    found = grays(picture)
    assert np.abs(found - levels(picture)[..., np.newaxis]).max() < 0.53
    assert np.array_equal(grays(GRAYS), GRAYS)
    assert np.array_equal(with_colors(picture, found), found)


def test_only_luminance_is_transferred(paint: Make, picture: Make) -> None:
    """Losses are those of gray pictures; every picture has the luminance of theirs, and the photo's colors."""
    content, style = picture(30, 40), picture(30, 40, 1)
    gray = grays(content)
    adapted = moved(grays(style), colors_of(gray))
    found = paint(content, [Style(style)], **{**DEFAULT, "preserve_color": "luminance"})
    plain = {**DEFAULT, "init_colors": "content", "chroma_limit": False}
    expected = paint(gray, [Style(adapted)], **plain)
    assert [step.losses for step in found] == [step.losses for step in expected]
    for one, other in [*zip(found, expected, strict=True), (found[-1].painting, expected[-1].painting)]:
        assert np.abs(levels(one.picture) - levels(other.picture)).max() < 0.53
        assert np.array_equal(one.picture, with_colors(other.picture, content))


@pytest.mark.parametrize("init", ["content", "style", "noise", "start.png"])
def test_every_start_of_a_luminance_transfer_is_gray(picture: Make, init: str) -> None:
    """No start brings colors into a transfer that ends without them."""
    chosen = Settings.model_validate({**DEFAULT, "preserve_color": "luminance", "init": init})
    start = picture(20, 40, 2) if init == "start.png" else None
    subject = Subject(picture(30, 40), [Style(picture(30, 40, 1))], chosen, start)
    found = subject.start(subject.scales()[0])
    assert np.array_equal(found, grays(found))


# Match


@pytest.mark.parametrize("mode", ["match", "luminance"])
def test_mean_and_covariance_are_the_photos_at_every_size(mode: str) -> None:
    """Every painting has the photo's moments, in luminance those of its grays, but for rounding."""
    keys = {"size": 128, "scales": [{"size": 64, "iterations": 1}], "preserve_color": mode, "init": "style"}
    styles = [Style(muted(seed, 96, 128, 20), scale=scale) for seed, scale in ((1, 1.0), (2, 0.5))]
    subject = Subject(muted(0, 96, 128), styles, Settings.model_validate(keys))
    for scale in subject.scales():
        wanted = colors_of(subject.content_at(scale))
        for found in [*subject.scaled_styles(scale), subject.start(scale)]:
            assert colors_of(found).mean == pytest.approx(wanted.mean, abs=0.1)
            assert colors_of(found).covariance == pytest.approx(
                wanted.covariance, abs=0.3 + 0.01 * np.abs(wanted.covariance).max()
            )


@pytest.mark.parametrize("mode", ["match", "luminance"])
def test_few_colors_are_no_trouble(mode: str) -> None:
    """A gray photo makes the painting gray; one color on either side gives the photo's mean, and no noise."""
    gray, colorful = np.repeat(muted(3, 24, 32)[..., :1], 3, axis=2), muted(4, 24, 32)
    red, blue = (np.full((24, 32, 3), color, np.uint8) for color in ((200, 10, 10), (10, 10, 200)))
    chosen = Settings.model_validate({**DEFAULT, "preserve_color": mode})

    def adapted(photo: np.ndarray, painting: np.ndarray) -> np.ndarray:
        subject = Subject(photo, [Style(painting)], chosen)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            (found,) = subject.scaled_styles(subject.scales()[0])
        return found.astype(int) - np.rint(colors_of(subject.content_at(subject.scales()[0])).mean)

    assert np.abs(np.ptp(adapted(gray, colorful), axis=2)).max() <= 1 + (mode == "match")
    assert np.abs(adapted(colorful, red)).max() == np.abs(adapted(blue, red)).max() == 0
    assert np.abs(adapted(red, colorful)).max() <= 2


@pytest.mark.parametrize("mode", ["match", "luminance"])
def test_preserved_colors_are_the_start_whatever_init_colors_says(paint: Make, mode: str) -> None:
    """The photo's own colors need no move to the painting's, which have been moved to them."""
    one, other = (
        paint(**DEFAULT | {"preserve_color": mode, "init_colors": word}) for word in ("style", "content")
    )
    assert [step.losses for step in one] == [step.losses for step in other]


def test_none_is_the_default_and_changes_nothing(paint: Make) -> None:
    """Without the key losses and picture are to the bit those of `none`; the other two differ."""
    keys = {name: value for name, value in DEFAULT.items() if name != "preserve_color"}
    modes = ({}, *({"preserve_color": word} for word in ("none", "match", "luminance")))
    found = [paint(**keys, **mode)[-1].painting.picture.tobytes() for mode in modes]
    assert found[0] == found[1]
    assert len(set(found)) == 3
