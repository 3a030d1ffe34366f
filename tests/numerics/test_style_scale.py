"""The size of the strokes: a painting scaled by its factor at every size of the schedule, never stretched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from daemon.errors import JobError, Reason
from daemon.job import Style
from daemon.presets import PRESETS
from daemon.settings import Settings
from daemon.transfer import pixels
from daemon.transfer.losses import Compared
from daemon.transfer.scales import Subject
from daemon.transfer.targets import targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.engine.session import Painter

    Draw = Callable[..., np.ndarray]

SCALES = [{"size": 64, "iterations": 1}, {"size": 128, "iterations": 1}]


def subject_of(
    content: np.ndarray, styles: list[Style[np.ndarray]], own: tuple[float, ...] = (), **keys: Any
) -> Subject:
    """Make a job at 64, 128 and 256 px."""
    chosen = {"size": 256, "iterations": 1, "scales": SCALES, "match_weight": 0, **keys}
    scales = own or [1.0] * len(styles)
    scaled = [style._replace(scale=scale) for style, scale in zip(styles, scales, strict=True)]
    return Subject(content, scaled, Settings.model_validate(chosen))


def lanczos(style: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resample with Pillow."""
    return np.asarray(Image.fromarray(style).resize((width, height), Image.Resampling.LANCZOS))


def painted(painter: Painter, subject: Subject) -> tuple[list[tuple[float, ...]], bytes]:
    """Give every loss and the picture."""
    steps = list(painter.begin(subject).steps())
    assert steps[-1].painting is not None
    return [tuple(vars(step.losses).values()) for step in steps], steps[-1].painting.picture.tobytes()


@pytest.mark.parametrize(
    ("style_scale", "own", "sides"),
    [
        (0.5, 1.0, (32, 64, 128)),
        (2.0, 1.0, (128, 256, 512)),
        (2.0, 0.75, (96, 192, 384)),
        (1.0, 1.0, (64, 128, 256)),
    ],
)
def test_a_painting_has_its_factor_at_every_size(
    picture: Draw, style_scale: float, own: float, sides: tuple[int, ...]
) -> None:
    """From coarse to fine a painting is resampled, at its own aspect, to its factor of the photo's size."""
    style = picture(240, 180, 1)
    subject = subject_of(picture(200, 256), [Style(style)], (own,), style_scale=style_scale)
    for scale, side in zip(subject.scales(), sides, strict=True):
        (found,) = subject.scaled_styles(scale)
        assert np.array_equal(found, lanczos(style, side, side * 3 // 4))


def test_every_style_has_its_own_scale(painter: Painter, picture: Draw) -> None:
    """Two paintings are blended from Gram matrices of each at its own factor."""
    styles = [picture(120, 120, 1), picture(90, 120, 2)]
    subject = subject_of(
        picture(48, 64), [Style(styles[0], 3.0), Style(styles[1])], (0.5, 2.0), size=64, scales="none"
    )
    step = painter.step(subject.settings)
    found = targets(step, subject, subject.scales()[0], None).style
    grams = [
        step.style_statistics(pixels.to_vgg(lanczos(style, *size)), Compared({}, {}, {})).grams
        for style, size in zip(styles, [(32, 32), (96, 128)], strict=True)
    ]
    for layer, gram in found.items():
        assert np.array_equal(gram, 0.75 * grams[0][layer] + 0.25 * grams[1][layer])


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_scale_of_one_changes_nothing(painter: Painter, picture: Draw, preset: str) -> None:
    """With `style_scale: 1` and `scale: 1` losses and picture are to the bit those without the keys."""
    keys = {name: value for name, value in PRESETS[preset].items() if name != "style_scale"}
    keys |= {"size": 256, "iterations": 1, "scales": SCALES}
    content, styles = picture(48, 64), [Style(picture(36, 28, 1))]
    without = painted(painter, Subject(content, styles, Settings.model_validate(keys)))
    keys["style_scale"] = 1
    assert painted(painter, subject_of(content, styles, (1.0,), **keys)) == without
    assert painted(painter, subject_of(content, styles, (0.5,), **keys)) != without


def test_two_equal_styles_of_one_scale_equal_one(painter: Painter, picture: Draw) -> None:
    """Halves of one painting at one scale have to the bit the Gram matrices of the whole; at two, others."""
    style, content = picture(60, 80, 1), picture(48, 64)
    one = subject_of(content, [Style(style)], (0.5,))
    two, apart = (
        subject_of(content, [Style(style, 2.0), Style(style, 2.0)], own) for own in ((0.5, 0.5), (0.5, 2.0))
    )
    assert painted(painter, two) == painted(painter, one)
    assert painted(painter, apart) != painted(painter, one)


def test_a_scaled_painting_stays_wide_enough_at_coarse_sizes_only(picture: Draw) -> None:
    """Below 16 px it stays larger while the last size has them, and there it fails the job."""
    subject, small = (
        subject_of(picture(200, 256), [Style(picture(*size, 1))], style_scale=0.1)
        for size in ((80, 100), (10, 100))
    )
    sizes = [subject.scaled_styles(scale)[0].shape[:2] for scale in subject.scales()]
    assert sizes == [(16, 20), (16, 20), (21, 26)]
    with pytest.raises(JobError) as caught:
        small.scaled_styles(small.scales()[0])
    assert caught.value.failure.reason is Reason.PICTURE_TOO_NARROW
