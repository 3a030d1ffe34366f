"""The finest color contrasts of a picture, limited to those of the painting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from daemon.job import Style
from daemon.presets import PRESETS
from daemon.settings import Settings
from daemon.transfer.chroma_limit import limited, mean_squares
from daemon.transfer.scales import Subject

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., Any]

pictures = arrays.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)))
shares = arrays.arrays(np.float64, (2, 3), elements=st.floats(0, 1))
DEFAULT: dict[str, Any] = {**PRESETS["default"], "size": 40, "scales": "none"}


def speckled(height: int, width: int) -> np.ndarray:
    """Draw colors pixel by pixel, all so moderate that none is cut off."""
    return np.random.default_rng(0).integers(70, 180, (height, width, 3)).astype(np.uint8)


def luma(picture: np.ndarray) -> np.ndarray:
    """Y of ITU-R BT.601."""
    return picture @ np.array([0.299, 0.587, 0.114])


def chroma(picture: np.ndarray) -> np.ndarray:
    """Cb and Cr of ITU-R BT.601 around 0, (H, W, 2) in double precision."""
    return (picture[..., [2, 0]] - luma(picture)[..., np.newaxis]) / [1.772, 1.402]


def smoothed(planes: np.ndarray, sigma_px: float) -> np.ndarray:
    """Convolve (H, W, 2) with a Gaussian by NumPy's own sum, mirrored at the borders."""
    weights = np.exp(-(np.arange(-20, 21) ** 2) / (2 * sigma_px**2))
    for axis in (0, 1):
        widths = [(20, 20) if axis == other else (0, 0) for other in range(3)]
        lines = np.pad(planes, widths, "symmetric")
        planes = np.apply_along_axis(np.convolve, axis, lines, weights / weights.sum(), "valid")
    return planes


@given(pictures)
def test_the_bands_are_differences_of_gaussians(picture: np.ndarray) -> None:
    """The mean squares are those of c - G0.8, G0.8 - G1.6 and G1.6 - G3.2."""
    levels = [chroma(picture), *(smoothed(chroma(picture), sigma_px) for sigma_px in (0.8, 1.6, 3.2))]
    expected = -np.diff(levels, axis=0)  # (3, H, W, 2)
    assert mean_squares(picture) == pytest.approx(np.mean(expected**2, axis=(1, 2)).T, rel=1e-2, abs=1e-6)


@given(pictures, shares)
def test_nothing_is_amplified_and_luma_stays(picture: np.ndarray, allowed: np.ndarray) -> None:
    """Whatever is allowed, no band gets more contrast, and luma moves by rounding to gray levels at most."""
    own = mean_squares(picture)
    found = limited(picture, allowed * own)
    assert np.abs(luma(found) - luma(picture)).max() <= 0.51
    assert np.all(np.sqrt(mean_squares(found)) <= np.sqrt(own) + 0.5)


@given(pictures, shares)
def test_what_the_painting_has_as_well_is_unchanged(picture: np.ndarray, more: np.ndarray) -> None:
    """For a painting of the same contrasts or more the bands add up to the picture, to the bit."""
    assert np.array_equal(limited(picture, mean_squares(picture) * (1 + more)), picture)


def test_a_gray_painting_takes_all_fine_chroma_away() -> None:
    """The widest Gaussian of the picture's chroma is left, at the same luma."""
    picture = speckled(300, 40)
    gray = np.repeat(picture[..., :1], 3, axis=2)
    found = limited(picture, mean_squares(gray))
    assert chroma(found) == pytest.approx(smoothed(chroma(picture), 3.2), abs=0.51)
    assert luma(found) == pytest.approx(luma(picture), abs=0.51)


def test_a_band_is_scaled_by_the_ratio_of_contrasts() -> None:
    """Where a quarter of the mean square of one band of Cr is allowed, half of this band remains."""
    picture = speckled(40, 50)
    band = smoothed(chroma(picture), 0.8) - smoothed(chroma(picture), 1.6)
    found = limited(picture, mean_squares(picture) * [[1, 1, 1], [1, 0.25, 1]])
    assert chroma(found) == pytest.approx(chroma(picture) - band * [0, 0.5], abs=0.51)


def test_only_the_painting_is_limited(paint: Make, picture: Make) -> None:
    """Frames and losses stay to the bit; the painting is the best frame, limited by the paintings' shares."""
    styles = [Style(picture(80, 64, 1) // 8 + 100), Style(picture(60, 90, 2) // 8 + 100, 3.0)]
    found, without = (paint(styles=styles, **{**DEFAULT, "chroma_limit": is_on}) for is_on in (True, False))
    assert [step.losses for step in found] == [step.losses for step in without]
    assert all(np.array_equal(one.picture, other.picture) for one, other in zip(found, without, strict=True))
    best = without[-1].painting
    assert np.array_equal(best.picture, without[best.best_iteration].picture)
    subject = Subject(picture(30, 40), styles, Settings.model_validate(DEFAULT))
    one, other = (mean_squares(style) for style in subject.scaled_styles(subject.scales()[-1]))
    expected = limited(best.picture, 0.25 * one + 0.75 * other)
    assert not np.array_equal(expected, best.picture)
    assert np.array_equal(found[-1].painting.picture, expected)


def test_two_equal_paintings_limit_as_one(picture: Make) -> None:
    """The same painting twice, in any shares, allows what it allows alone."""
    result, style = speckled(30, 40), picture(36, 28, 1)
    one, two = (Subject(result, [Style(style), *more], Settings(size=40)) for more in ([], [Style(style, 3.0)]))
    assert not np.array_equal(one.finished(result), result)
    assert np.array_equal(one.finished(result), two.finished(result))
