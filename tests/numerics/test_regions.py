"""Regions: parts of a photo, given by masks, that are painted with paintings of their own."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from daemon.engine.session import Painter
from daemon.job import Style
from daemon.presets import PRESETS
from daemon.settings import Settings
from daemon.transfer import losses, pixels
from daemon.transfer.backend.tile_layout import TileSize
from daemon.transfer.optimizers import Adam
from daemon.transfer.scales import Scale, Subject
from daemon.transfer.step import Method, make
from daemon.transfer.targets import targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.transfer.vgg19 import Vgg19

    Draw = Callable[..., np.ndarray]
    Painted = tuple[np.ndarray, np.ndarray]

HEIGHT, WIDTH = 72, 96
ONES = np.full((HEIGHT, WIDTH), 255, np.uint8)
LEFT = np.repeat([[255] * 48 + [0] * 48], HEIGHT, axis=0).astype(np.uint8)
RIGHT = 255 - LEFT


def subject_of(picture: Draw, *styles: Style[np.ndarray], preset: str = "default", **keys: Any) -> Subject:
    """Make a job of 72 x 96 px."""
    chosen = {**PRESETS[preset], "size": WIDTH, "iterations": 4, "scales": "none", "protect": "none", **keys}
    return Subject(picture(HEIGHT, WIDTH), styles, Settings.model_validate(chosen))


def painted(painter: Painter, subject: Subject) -> Painted:
    """Give the total losses, and the picture."""
    steps = list(painter.begin(subject).steps())
    return np.array([step.losses.total for step in steps]), steps[-1].painting.picture.astype(int)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_what_covers_all_equals_no_mask(painter: Painter, picture: Draw, preset: str) -> None:
    """A mask of ones, of the photo or the painting, changes no loss by 1e-5, nor do two of a half everywhere.

    The rest takes the place of a half as well.
    """
    style = picture(80, 60, 1)
    half = np.full_like(ONES, 128)
    plain, wanted = painted(painter, subject_of(picture, Style(style), preset=preset))
    for styles in (
        [Style(style, region=ONES)],
        [Style(style, mask=np.full((80, 60), 255, np.uint8))],
        [Style(style, region=half), Style(style, region=255 - half)],
        [Style(style), Style(style, region=half)],
        [Style(style, region=ONES), Style(style, region=ONES)],  # overlapping masks are scaled
    ):
        found, result = painted(painter, subject_of(picture, *styles, preset=preset))
        assert found == pytest.approx(plain, rel=1e-5)
        assert np.abs(result - wanted).max() <= 1


def test_regions_that_cover_all_leave_no_rest(picture: Draw) -> None:
    """Two sides drop the ordinary style, one side keeps it; a rest below a hundredth counts as none."""
    style, one = Style(picture(40, 40, 1)), picture(40, 40, 2)
    for masks, count in (([LEFT, np.where(RIGHT, 253, RIGHT)], 2), ([LEFT], 2), ([LEFT, LEFT], 3), ([], 0)):
        subject = subject_of(picture, style, *(Style(one, region=mask) for mask in masks))
        assert subject.regions == count
        assert sum(area.mask for area in subject.areas(36, 48)) == pytest.approx(np.ones((36, 48)), abs=1e-5)


def test_the_sides_average_to_the_whole(painter: Painter, narrow: Vgg19, picture: Draw) -> None:
    """By their areas: so two halves with one painting want of each side what one job wants of the whole."""
    style = picture(80, 60, 1)
    quarter = np.where(np.arange(WIDTH) < WIDTH // 4, LEFT, 0).astype(np.uint8)
    found = painter.prepare(subject_of(picture, Style(style), Style(style, 2.0, region=quarter)))
    plain = painter.prepare(subject_of(picture, Style(style)))
    for layer, features in narrow.features(pixels.to_vgg(picture(HEIGHT, WIDTH, 5)), plain.style).items():
        grams = [losses.gram_matrix(features, found.guides[f"{layer}/{at}"]) for at in (0, 1)]
        whole = np.asarray(losses.gram_matrix(features))
        assert np.asarray(0.25 * grams[0] + 0.75 * grams[1]) == pytest.approx(whole, rel=1e-4)
        assert np.array_equal(found.style[f"{layer}/0"], plain.style[layer])
    for shares in (found.style_layers, found.match_layers):
        totals = [sum(float(shares[name]) for name in shares if name.endswith(f"/{at}")) for at in (0, 1)]
        assert totals == pytest.approx([2 * 0.25, 0.75], rel=1e-4)


def test_each_side_comes_near_its_own_painting(real_painter: Painter, network: Vgg19, picture: Draw) -> None:
    """The Gram matrices of the left are nearer those of the left's painting, and of the right the right's."""
    rough = np.random.default_rng(3).integers(0, 256, (96, 96, 3), np.uint8)
    pair = [rough, picture(96, 96, 12)]
    styles = Style(pair[0], region=LEFT), Style(pair[1], region=RIGHT)
    _, result = painted(real_painter, subject_of(picture, *styles, iterations=12, strength=1))

    def gram(image: np.ndarray) -> np.ndarray:
        found = network.features(pixels.to_vgg(image.astype(np.uint8)), ["block2_conv1"])
        return np.asarray(losses.gram_matrix(found["block2_conv1"]))

    for side, part in enumerate((result[:, :44], result[:, 52:])):
        own, other = (np.linalg.norm(gram(part) - gram(pair[at])) for at in (side, 1 - side))
        assert own < 0.8 * other


def test_each_side_starts_in_the_colors_of_its_own_painting(picture: Draw) -> None:
    """A photo that is the same left and right starts dark on the side of a dark painting."""
    dark, light = np.full((40, 40, 3), 40, np.uint8), np.full((40, 40, 3), 200, np.uint8)
    light[:, :20] = 0  # does not count
    mask = np.repeat([[0] * 20 + [255] * 20], 40, axis=0).astype(np.uint8)
    subject = subject_of(picture, Style(dark, region=LEFT), Style(light, mask=mask, region=RIGHT))
    start = subject.start(Scale(HEIGHT, WIDTH, 4)).astype(int)
    assert start[:, :40].mean() == pytest.approx(40, abs=3)
    assert start[:, 56:].mean() == pytest.approx(200, abs=3)


def test_a_masked_part_of_a_painting_does_not_count(painter: Painter, narrow: Vgg19, picture: Draw) -> None:
    """Matrices are means over the white of the mask, and samples are taken there, as many as of a whole one."""
    style = picture(HEIGHT, WIDTH, 1)
    found = painter.prepare(subject_of(picture, Style(style, mask=LEFT)))
    layers = ["block1_conv1", "block4_conv1"]
    first, fourth = (np.asarray(narrow.features(pixels.to_vgg(style), layers)[layer])[0] for layer in layers)
    flat = first[:, :48].reshape(-1, first.shape[-1])
    assert np.asarray(found.style["block1_conv1"]) == pytest.approx(flat.T @ flat / len(flat), rel=1e-3)
    assert np.asarray(found.match["block4_conv1"].mean) == pytest.approx(
        fourth[:, :6].mean(axis=(0, 1)), rel=1e-4
    )


def test_targets_are_kept_by_the_mask(narrow: Vgg19, picture: Draw) -> None:
    """Another mask of the same painting is another style; a mask of ones is the painting itself."""
    kept: dict[str, Any] = {}
    store: Any = SimpleNamespace(get=lambda key, compute: kept.setdefault(key, compute()))
    style = picture(HEIGHT, WIDTH, 1)
    for mask, count in ((None, 1), (ONES, 1), (LEFT, 2), (RIGHT, 3), (LEFT, 3)):
        Painter(narrow, style_store=store).prepare(subject_of(picture, Style(style, mask=mask)))
        assert len(kept) == count


def test_tiles_equal_the_whole(narrow: Vgg19, picture: Draw) -> None:
    """Targets, loss and gradient of a job with regions and a masked painting, within 1e-3."""
    styles = [Style(picture(80, 120, 1), mask=LEFT), Style(picture(90, 90, 2), region=LEFT)]
    subject = subject_of(picture, *styles, optimizer="adam")
    image, found = pixels.to_vgg(picture(HEIGHT, WIDTH, 7)), []
    for core_px in (None, 64):
        step = make(narrow, Method.of(subject.settings, regions=subject.regions), TileSize(core_px))
        compared = targets(step, subject, Scale(HEIGHT, WIDTH, 4), None)
        loss, _, state = step.step(image, compared, step.optimizer.start(image, 1.0))
        gradient = np.asarray(state.mean / (1 - Adam.beta_1))
        found.append(([float(value) for value in loss], gradient, compared.style))
    (loss, gradient, grams), (tiled_loss, tiled_gradient, tiled_grams) = found
    assert tiled_loss == pytest.approx(loss, rel=1e-3)
    assert np.linalg.norm(tiled_gradient - gradient) < 1e-3 * np.linalg.norm(gradient)
    for layer, gram in grams.items():
        assert np.linalg.norm(tiled_grams[layer] - gram) < 1e-3 * np.linalg.norm(gram)


def test_a_resumed_job_equals_an_uninterrupted_one(painter: Painter, picture: Draw) -> None:
    """From a checkpoint at step 2 of 4, losses and picture are the same to the bit."""
    subject = subject_of(picture, Style(picture(40, 50, 1)), Style(picture(50, 40, 2), region=LEFT))
    losses_, result = painted(painter, subject)
    session = painter.begin(subject)
    list(itertools.islice(session.steps(), 3))
    *_, last = painter.begin(subject, resumed=session.checkpoint()).steps()
    assert last.losses.total == losses_[-1]
    assert np.array_equal(last.painting.picture, result)
