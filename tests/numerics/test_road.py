"""The road of a job: sizes from coarse to fine, where it starts, and how styles are mixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from daemon.settings import Settings
from daemon.transfer import losses, pixels

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.job import Step
    from daemon.transfer.stylize import Painter

    Paint = Callable[..., list[Step]]
    Draw = Callable[..., np.ndarray]

COARSE = [{"size": 24, "iterations": 1}, {"size": 28, "iterations": 3}]


def painted(steps: list[Step]) -> np.ndarray:
    """The picture a job ends with."""
    return steps[-1].painting.picture


def scaled(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resample by Pillow's LANCZOS."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


# Sizes


def test_road_of_three_sizes_grows_and_counts_on(paint: Paint) -> None:
    """Each size gives its iterations and one more; sizes grow, iterations go on, the last has the painting."""
    steps = paint(size=40, iterations=2, scales=COARSE)
    assert [(step.iteration, step.size_px) for step in steps] == [
        *[(0, 24), (1, 24)],
        *[(1, 28), (2, 28), (3, 28), (4, 28)],
        *[(4, 40), (5, 40), (6, 40)],
    ]
    assert {step.iterations for step in steps} == {6}
    assert [step.painting is not None for step in steps] == [False] * 8 + [True]
    assert painted(steps).shape == (30, 40, 3)


def test_each_size_starts_from_the_enlarged_best_of_the_one_before(paint: Paint) -> None:
    """The first picture of a size is the best of the last size, enlarged by LANCZOS."""
    steps = paint(size=40, iterations=2, scales=[{"size": 28, "iterations": 6}], learning_rate=40)
    coarse = [step for step in steps if step.size_px == 28]
    best = min(coarse, key=lambda step: step.losses.total)
    assert best.iteration not in {0, 6}
    (start,) = [step for step in steps if step.size_px == 40 and step.iteration == 6]
    assert np.array_equal(start.picture, scaled(best.picture, 30, 40))


def test_best_of_a_road_is_of_the_final_size(paint: Paint) -> None:
    """Losses of coarse sizes do not compete: the best iteration is counted over the road, at the final size."""
    steps = paint(size=40, iterations=2, scales=COARSE)
    final = [step for step in steps if step.size_px == 40]
    painting = steps[-1].painting
    assert painting.best == min((step.losses for step in final), key=lambda found: found.total)
    assert painting.best_iteration == next(s.iteration for s in final if s.losses == painting.best)
    assert painting.first == final[0].losses


def test_coarse_sizes_not_below_the_original_are_left_out(paint: Paint, picture: Draw) -> None:
    """With `size: original` a scale as large as the picture or larger is dropped, a smaller one is kept."""
    scales = [{"size": 24, "iterations": 1}, {"size": 40, "iterations": 1}, {"size": 64, "iterations": 1}]
    steps = paint(picture(30, 40), size="original", scales=scales, iterations=2)
    assert [(step.iteration, step.size_px) for step in steps] == [(0, 24), (1, 24), (1, 40), (2, 40), (3, 40)]
    assert {step.iterations for step in steps} == {3}


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((30, 40), 32, (24, 32)),
        ((40, 30), 32, (32, 24)),
        ((37, 53), 41, (29, 41)),
        ((53, 37), 41, (41, 29)),
        ((47, 47), 33, (33, 33)),
        ((21, 45), 60, (28, 60)),
        ((29, 43), "original", (29, 43)),
    ],
)
def test_result_has_the_asked_size_and_the_contents_aspect(
    paint: Paint, picture: Draw, shape: tuple[int, int], size: int | str, expected: tuple[int, int]
) -> None:
    """The longest side is exactly as asked and the other as the content's aspect has it, smaller or larger."""
    assert painted(paint(picture(*shape), size=size, iterations=1)).shape == (*expected, 3)


# Starts


def test_start_of_style_is_the_first_style_filling_the_frame(paint: Paint, picture: Draw) -> None:
    """`init: style` starts from the style, cropped to the content's shape and not stretched."""
    rows = np.arange(96, dtype=np.uint8)[:, np.newaxis, np.newaxis] * np.uint8(2)
    style = np.broadcast_to(rows, (96, 48, 3)).copy()  # 48 x 96 px, grey from dark above to light below
    start = paint(picture(24, 32), [(style, 1.0)], init="style", iterations=1)[0].picture.astype(int)
    assert start.shape == (24, 32, 3)
    assert start[0].mean() == pytest.approx(2 * 30, abs=3)  # the middle 36 of 96 rows, at 2 / 3 as the columns
    assert start[-1].mean() == pytest.approx(2 * 65, abs=3)


def test_start_of_noise_depends_on_the_seed_alone(paint: Paint) -> None:
    """The same seed gives the same noise and painting, another seed other noise of all grey levels."""
    one, same, other = (paint(init="noise", seed=seed, iterations=1) for seed in (5, 5, 6))
    assert np.array_equal(one[0].picture, same[0].picture)
    assert np.array_equal(painted(one), painted(same))
    assert not np.array_equal(one[0].picture, other[0].picture)
    assert (one[0].picture.min(), one[0].picture.max()) == (0, 255)
    assert one[0].picture.mean() == pytest.approx(127.5, abs=8)


def test_start_of_a_file_is_that_picture(paint: Paint, picture: Draw) -> None:
    """A start picture of the content's shape is taken as it is; a larger one is scaled to it."""
    start = picture(24, 32, 7)
    assert np.array_equal(paint(start=start, init="start.png", iterations=1)[0].picture, start)
    large = np.asarray(Image.fromarray(start).resize((128, 96), Image.Resampling.NEAREST))
    small = paint(start=large, init="start.png", iterations=1)[0].picture.astype(int)
    assert small.shape == (24, 32, 3)
    assert np.abs(small - start).mean() < 4


def test_start_decides_the_first_picture_only_of_the_road(paint: Paint) -> None:
    """On a road of two sizes the noise is drawn at the coarse size, and the second size goes on from there."""
    steps = paint(init="noise", size=40, scales=[{"size": 24, "iterations": 1}], iterations=1)
    assert steps[0].picture.shape == (18, 24, 3)
    assert steps[2].size_px == 40
    assert np.abs(np.diff(steps[2].picture.astype(int), axis=1)).mean() < 60  # smooth: enlarged, not drawn anew


# Styles


def test_a_style_of_weight_zero_counts_for_nothing(paint: Paint, picture: Draw) -> None:
    """Two styles of which one weighs 0 paint what the other one alone paints, to the bit."""
    one, other = picture(36, 28, 1), picture(30, 30, 2)
    alone, mixed = paint(styles=[(one, 1.0)]), paint(styles=[(one, 3.0), (other, 0.0)])
    assert [step.losses for step in alone] == [step.losses for step in mixed]
    assert np.array_equal(painted(alone), painted(mixed))


def test_the_order_of_styles_counts_for_nothing(paint: Paint, picture: Draw) -> None:
    """Two weighted styles in either order paint the same picture."""
    one, other = (picture(36, 28, 1), 2.0), (picture(30, 30, 2), 1.0)
    forth, back = paint(styles=[one, other]), paint(styles=[other, one])
    assert [s.losses.total for s in forth] == pytest.approx([s.losses.total for s in back], rel=1e-5)
    assert np.abs(painted(forth).astype(int) - painted(back)).max() <= 1


def test_weights_of_styles_matter(paint: Paint, picture: Draw) -> None:
    """Swapping only the weights of two styles changes the losses."""
    one, other = picture(36, 28, 1), picture(30, 30, 6)
    forth, back = paint(styles=[(one, 9.0), (other, 1.0)]), paint(styles=[(one, 1.0), (other, 9.0)])
    assert forth[0].losses.style != pytest.approx(back[0].losses.style, rel=0.05)


def test_only_the_ratio_of_weights_counts(paint: Paint, picture: Draw) -> None:
    """Weights of 2 and 1 paint like weights of 0.5 and 0.25."""
    pictures = picture(36, 28, 1), picture(30, 30, 2)
    one, other = (paint(styles=list(zip(pictures, weights, strict=True))) for weights in ((2, 1), (0.5, 0.25)))
    assert [step.losses for step in one] == [step.losses for step in other]


def test_a_style_is_never_stretched_to_the_contents_shape(
    painter: Painter, paint: Paint, picture: Draw
) -> None:
    """The style's Gram matrices are those of the style at its own aspect, at the content's longest side."""
    content, style = picture(24, 48), picture(60, 30, 1)
    settings: dict[str, Any] = {
        "size": 48,
        "content_weight": 0,
        "style_layers": ["block1_conv1"],
        "style_weight": 1,
    }
    program = painter.program(Settings.model_validate(settings))

    def gram(image: np.ndarray) -> Any:
        return program.style_grams(pixels.to_vgg(image))["block1_conv1"]

    expected = losses.style_loss(gram(content), gram(scaled(style, 48, 24)))
    stretched = losses.style_loss(gram(content), gram(scaled(style, 24, 48)))
    found = paint(content, [(style, 1.0)], iterations=1, **settings)[0].losses.style
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert found != pytest.approx(float(stretched), rel=1e-3)
