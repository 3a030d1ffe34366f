"""Colors of one picture moved to those of another: mean, covariance, and no more change than it takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from daemon.transfer.color_transfer import Colors, blended, colors_of, moved

seeds = st.integers(0, 2**32 - 1)
pictures = arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


def colored(seed: int, spread: tuple[float, float], middle: tuple[float, float]) -> np.ndarray:
    """Make 40 x 50 px of normally distributed colors: any mean and orientation, little of it clipped."""
    random = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(random.normal(size=(3, 3)))
    values = random.normal(size=(40, 50, 3)) * random.uniform(*spread, 3) @ axes.T + random.uniform(*middle, 3)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def covariance(picture: np.ndarray) -> np.ndarray:
    """NumPy's own."""
    return np.cov(picture.reshape(-1, 3).T.astype(np.float64), bias=True)


@given(pictures)
def test_colors_are_numpys_mean_and_covariance(picture: np.ndarray) -> None:
    """What is kept of any picture is NumPy's mean and covariance over its pixels."""
    found = colors_of(picture)
    flat = picture.reshape(-1, 3).astype(np.float64)
    expected = np.einsum("ni,nj->ij", flat, flat) / len(flat) - np.outer(flat.mean(0), flat.mean(0))
    assert found.mean == pytest.approx(flat.mean(0))
    assert found.covariance == pytest.approx(expected, abs=1e-6)


@given(seeds, seeds)
def test_moved_colors_have_the_wanted_mean_and_covariance(one: int, other: int) -> None:
    """Mean and covariance are those of the other picture, but for rounding to whole gray levels.

    Rounding adds a twelfth to each variance; the colors drawn here are next to never clipped.
    """
    picture, style = colored(one, (5, 40), (60, 200)), colored(other, (4, 22), (105, 150))
    found = moved(picture, colors_of(style))
    assert found.dtype == np.uint8
    assert found.shape == picture.shape
    assert colors_of(found).mean == pytest.approx(colors_of(style).mean, abs=0.1)
    wanted = covariance(style)
    assert covariance(found) == pytest.approx(wanted, abs=0.3 + 0.02 * np.abs(wanted).max())


@given(seeds, seeds)
def test_no_other_linear_map_changes_colors_less(one: int, other: int) -> None:
    """The map between two Cholesky roots gives the same moments, at no less cost; the best cost is known.

    Olkin & Pukelsheim (1982): the least mean squared change is |ma - mb|² + tr(A + B - 2 (A½ B A½)½).
    """
    picture, style = colored(one, (8, 40), (60, 200)), colored(other, (8, 22), (105, 150))
    flat = picture.reshape(-1, 3).astype(np.float64)
    own, wanted = covariance(picture), covariance(style)
    found = moved(picture, colors_of(style)).reshape(-1, 3)
    change = np.mean(np.sum((found - flat) ** 2, axis=1))
    lower = np.linalg.cholesky(wanted) @ np.linalg.inv(np.linalg.cholesky(own))
    plain = (flat - flat.mean(0)) @ lower.T + style.reshape(-1, 3).mean(0)
    crossed = np.sqrt(np.maximum(np.linalg.eigvals(own @ wanted).real, 0)).sum()
    apart = flat.mean(0) - style.reshape(-1, 3).mean(0)
    least = apart @ apart + np.trace(own) + np.trace(wanted) - 2 * crossed
    assert change == pytest.approx(least, rel=0.01, abs=1)
    assert change < 1.005 * np.mean(np.sum((plain - flat) ** 2, axis=1)) + 1  # rounding and clipping


@given(pictures)
def test_own_colors_change_nothing(picture: np.ndarray) -> None:
    """A picture whose own colors are wanted stays as it is, to the bit, however few colors it has."""
    assert np.array_equal(moved(picture, colors_of(picture)), picture)


@given(pictures, pictures)
def test_any_two_pictures_can_be_asked_for(picture: np.ndarray, style: np.ndarray) -> None:
    """No pictures, of one pixel, one color or two, make it fail or warn."""
    found = moved(picture, colors_of(style))
    assert (found.dtype, found.shape) == (np.dtype(np.uint8), picture.shape)


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (12, 34, 56)])
def test_a_picture_of_one_color_becomes_the_mean(color: tuple[int, int, int]) -> None:
    """Where there is nothing to spread, every pixel gets the wanted mean."""
    style = colored(3, (20, 40), (90, 160))
    plain = np.broadcast_to(np.uint8(color), (20, 30, 3))
    found = moved(plain, colors_of(style))
    assert np.array_equal(found, np.broadcast_to(np.rint(colors_of(style).mean), (20, 30, 3)))


def test_a_style_of_one_color_takes_the_colors_away() -> None:
    """Where the wanted colors are one, every pixel comes to within a gray level of it."""
    style = np.broadcast_to(np.uint8([200, 30, 90]), (5, 5, 3))
    found = moved(colored(4, (20, 40), (90, 160)), colors_of(style))
    assert np.abs(found.astype(int) - [200, 30, 90]).max() <= 1


def test_a_gray_picture_gets_one_tone_without_noise() -> None:
    """Of gray pixels only the spread along gray can be moved: equal pixels stay equal, and none is invented."""
    gray = np.repeat(colored(5, (20, 40), (90, 160))[..., :1], 3, axis=2)
    style = colored(6, (10, 20), (110, 150))
    found = moved(gray, colors_of(style))
    assert colors_of(found).mean == pytest.approx(colors_of(style).mean, abs=0.5)
    tones = {tuple(pixel) for pixel in np.concatenate([gray, found], axis=2).reshape(-1, 6).tolist()}
    assert len(tones) == len(np.unique(gray))
    assert np.linalg.matrix_rank(covariance(found), tol=3) == 1


@given(seeds)
def test_the_noise_of_a_gray_picture_is_no_color(seed: int) -> None:
    """Colors that differ by a gray level or so are stretched at most fivefold, whatever is wanted."""
    random = np.random.default_rng(seed)
    noise = random.integers(-1, 2, (40, 50, 3))
    gray = np.clip(random.normal(128, 40, (40, 50, 1)) + noise, 0, 255).astype(np.uint8)
    found = moved(gray, colors_of(colored(seed, (30, 40), (110, 150)))).astype(int)
    apart = found - found.mean(axis=2, keepdims=True)
    assert np.std(apart - apart.mean(axis=(0, 1))) < 5.5 * np.std(noise)


def test_colors_are_blended_by_their_shares() -> None:
    """Means and covariances of several pictures are averaged, each by its share."""
    one = Colors(np.array([10.0, 20.0, 30.0]), np.diag([1.0, 2.0, 3.0]))
    other = Colors(np.array([50.0, 60.0, 70.0]), np.eye(3) * 9)
    found = blended([(one, 0.75), (other, 0.25)])
    assert found.mean.tolist() == [20, 30, 40]
    assert found.covariance.tolist() == np.diag([3.0, 3.75, 4.5]).tolist()
    assert blended([(one, 1.0)]).mean.tolist() == one.mean.tolist()
