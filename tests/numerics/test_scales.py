"""The scales of a job: sizes from coarse to fine, where each starts, and how styles are mixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from daemon.job import Style
from daemon.presets import PRESETS
from daemon.settings import Settings
from daemon.transfer import color_transfer, losses, pixels
from daemon.transfer.losses import Compared
from daemon.transfer.scales import Scale, Subject
from daemon.transfer.targets import targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.engine.session import Painter
    from daemon.job import Step

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


def test_three_scales_grow_and_count_on(paint: Paint) -> None:
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


def enlarged(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resample (H, W, 3) of any numbers by Pillow's LANCZOS, without rounding."""
    planes = [Image.fromarray(values[..., channel].astype(np.float32)) for channel in range(3)]
    large = [plane.resize((width, height), Image.Resampling.LANCZOS) for plane in planes]
    return np.stack([np.asarray(plane) for plane in large], axis=-1)


@pytest.mark.parametrize(
    ("init", "init_colors", "learning_rate", "content_weight", "is_inside"),
    [
        ("content", "content", 30, 1000, True),
        ("content", "style", 10, 1000, False),
        ("noise", "style", 60, 1000, True),
        ("style", "style", 20, 1000, True),
        ("start.png", "style", 20, 1000, False),
    ],
)
def test_each_size_starts_from_the_best_of_the_one_before(
    paint: Paint,
    picture: Draw,
    *,
    init: str,
    init_colors: str,
    learning_rate: float,
    content_weight: float,
    is_inside: bool,
) -> None:
    """A size starts from its own content and, enlarged, what the best picture of the size before changed.

    The content then has the edges of its new size. Another start has nothing to add a change to, and is
    enlarged itself. Pictures are uint8 here: a gray level of rounding, which LANCZOS may overshoot a little.
    """
    content, style, own = picture(60, 80), picture(60, 80, 1), picture(30, 40, 5)
    start = own if init == "start.png" else None
    chosen: dict[str, Any] = {
        "size": 40,
        "iterations": 1,
        "scales": [{"size": 28, "iterations": 6}],
        "init": init,
        "init_colors": init_colors,
        "learning_rate": learning_rate,
        "content_weight": content_weight,
    }
    steps = paint(content, [Style(style)], start, **chosen)
    coarse = [step for step in steps if step.size_px == 28]
    best = min(coarse, key=lambda step: step.losses.total)
    assert (0 < best.iteration < 6) == is_inside
    assert best.iteration > 0
    (found,) = [step.picture for step in steps if step.size_px == 40 and step.iteration == 6]
    before, after = np.float32(0), np.float32(0)
    if init == "content":
        subject = Subject(content, [Style(style)], Settings.model_validate(chosen))
        before, after = (subject.start(Scale(*size, 1)).astype(np.float32) for size in ((21, 28), (30, 40)))
    expected = np.clip(after + enlarged(best.picture - before, 30, 40), 0, 255)
    assert np.abs(found - expected).max() < 2
    assert np.abs(found - expected).mean() < 0.5
    plain = np.clip(enlarged(best.picture.astype(np.float32), 30, 40), 0, 255)
    assert (np.abs(found - plain).max() > 2) == (init == "content")  # the two differ in edges


@pytest.mark.parametrize("sizes", [((21, 28), (30, 40)), ((30, 40), (61, 81)), ((16, 22), (60, 80))])
@pytest.mark.parametrize("init_colors", ["content", "style"])
def test_an_unchanged_start_becomes_the_larger_start(
    picture: Draw, sizes: tuple[tuple[int, int], tuple[int, int]], init_colors: str
) -> None:
    """Where a size changed nothing the next one begins with its own start, to the bit."""
    subject = Subject(
        picture(60, 80), [Style(picture(50, 40, 1))], Settings.model_validate({"init_colors": init_colors})
    )
    before, scale = (Scale(*size, 1) for size in sizes)
    large = pixels.to_vgg(subject.start(scale))
    carried = subject.enlarged(pixels.to_vgg(subject.start(before)), before, scale)
    assert carried.shape == (1, scale.height, scale.width, 3)
    assert np.array_equal(carried, pixels.clip(large))


@pytest.mark.parametrize("init", ["content", "noise"])
def test_what_is_carried_up_stays_within_black_and_white(picture: Draw, init: str) -> None:
    """LANCZOS overshoots at hard edges, and a change may add to what is white already: both are clipped."""
    subject = Subject(picture(60, 80), [Style(picture(50, 40, 1))], Settings.model_validate({"init": init}))
    hard = np.random.default_rng(3).choice(np.uint8([0, 255]), (21, 28, 3))
    carried = subject.enlarged(pixels.to_vgg(hard), Scale(21, 28, 1), Scale(30, 40, 1)).numpy()
    assert np.all(carried >= pixels.LOWEST)
    assert np.all(carried <= pixels.HIGHEST)
    assert np.any(carried == pixels.LOWEST)
    assert np.any(carried == pixels.HIGHEST)


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((450, 600), 512, [(96, 128), (192, 256), (384, 512)]),
        ((600, 450), 512, [(128, 96), (256, 192), (512, 384)]),
        ((450, 600), 255, [(191, 255)]),
        ((450, 600), 256, [(96, 128), (192, 256)]),
        ((60, 600), 512, [(51, 512)]),  # half of it would be 26 px high
        ((60, 600), 1024, [(51, 512), (102, 1024)]),
        ((64, 256), 256, [(32, 128), (64, 256)]),  # exactly 32 px
        ((450, 600), "original", [(112, 150), (225, 300), (450, 600)]),
        ((1, 1), 512, [(128, 128), (256, 256), (512, 512)]),
    ],
)
def test_the_automatic_scales_in_pixels(
    shape: tuple[int, int], size: int | str, expected: list[tuple[int, int]]
) -> None:
    """Sizes halve from the final one, longest side not below 128 px and short side not below 32 px."""
    content = np.zeros((*shape, 3), np.uint8)
    scales = Subject(content, [Style(content)], Settings.model_validate({"size": size})).scales()
    assert [(scale.height, scale.width) for scale in scales] == expected


@pytest.mark.parametrize(
    ("size", "iterations", "expected"),
    [
        (512, 18, [56, 28, 18]),
        (256, 28, [56, 28]),
        (1024, 12, [56, 28, 18, 12]),
        (1024, 24, [112, 56, 36, 24]),
        (2048, 12, [56, 28, 18, 12, 12]),
        (512, 50_000, [100_000, 77_778, 50_000]),
    ],
)
def test_the_automatic_iterations(size: int, iterations: int, expected: list[int]) -> None:
    """The proportions are those of the presets; a size has twice as many where the final one has."""
    settings = Settings.model_validate({"size": size, "iterations": iterations})
    assert [scale.iterations for scale in settings.all_scales(450, 600)] == expected


def test_automatic_scales_are_painted(paint: Paint, picture: Draw) -> None:
    """A job of 256 px with automatic sizes goes over 128 px with twice its iterations."""
    steps = paint(picture(40, 160), size=256, scales="auto", iterations=2)
    assert [(step.iteration, step.size_px) for step in steps] == [
        *[(0, 128), (1, 128), (2, 128), (3, 128), (4, 128)],
        *[(4, 256), (5, 256), (6, 256)],
    ]
    assert {step.iterations for step in steps} == {6}
    assert painted(steps).shape == (64, 256, 3)


def test_the_best_is_of_the_final_size(paint: Paint) -> None:
    """Losses of coarse sizes do not compete; the best iteration is counted over all sizes."""
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


def test_start_has_the_blends_colors(paint: Paint, picture: Draw) -> None:
    """`init_colors: style` starts from the content in the colors of the styles, as they are at that size."""
    content, one, other = picture(60, 80), picture(36, 28, 1), picture(30, 40, 2)
    start = paint(content, [Style(one, 3.0), Style(other)], init_colors="style", iterations=1)[0].picture
    seen = [
        (color_transfer.colors_of(scaled(style, *size)), share)
        for style, size, share in ((one, (32, 25), 0.75), (other, (24, 32), 0.25))
    ]
    wanted = color_transfer.blended(seen)
    assert np.array_equal(start, color_transfer.moved(scaled(content, 24, 32), wanted))
    found = color_transfer.colors_of(start)
    assert found.mean == pytest.approx(wanted.mean, abs=3)  # but for what is clipped
    assert np.corrcoef(start.ravel(), scaled(content, 24, 32).ravel())[0, 1] > 0.5


def test_own_colors_start_from_the_content_itself(paint: Paint, picture: Draw) -> None:
    """`init_colors: content` starts from the content as it is, to the bit, at the coarse size too."""
    content = picture(60, 80)
    steps = paint(content, init_colors="content", size=40, scales=[{"size": 28, "iterations": 1}], iterations=1)
    assert np.array_equal(steps[0].picture, scaled(content, 21, 28))


@pytest.mark.parametrize("init", ["noise", "style", "start.png"])
def test_colors_are_moved_of_a_start_from_the_content_alone(paint: Paint, picture: Draw, init: str) -> None:
    """Noise, a style and a picture of one's own are taken with the colors they have."""
    start = picture(30, 40, 5) if init == "start.png" else None
    one, other = (
        paint(start=start, init=init, init_colors=value, iterations=1)[0].picture
        for value in ("style", "content")
    )
    assert np.array_equal(one, other)


def test_start_of_style_is_the_first_style_filling_the_frame(paint: Paint, picture: Draw) -> None:
    """`init: style` starts from the style, cropped to the content's shape and not stretched."""
    rows = np.arange(96, dtype=np.uint8)[:, np.newaxis, np.newaxis] * np.uint8(2)
    style = np.broadcast_to(rows, (96, 48, 3)).copy()  # 48 x 96 px, gray from dark above to light below
    start = paint(picture(24, 32), [Style(style)], init="style", iterations=1)[0].picture.astype(int)
    assert start.shape == (24, 32, 3)
    assert start[0].mean() == pytest.approx(2 * 30, abs=3)  # the middle 36 of 96 rows, at 2 / 3 as the columns
    assert start[-1].mean() == pytest.approx(2 * 65, abs=3)


def test_start_of_noise_depends_on_the_seed_alone(paint: Paint) -> None:
    """The same seed gives the same noise and painting, another seed other noise of all gray levels."""
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


def test_start_decides_the_first_picture_only(paint: Paint) -> None:
    """With two sizes the noise is drawn at the coarse size, and the second size continues from there."""
    steps = paint(init="noise", size=40, scales=[{"size": 24, "iterations": 1}], iterations=1)
    assert steps[0].picture.shape == (18, 24, 3)
    assert steps[2].size_px == 40
    assert np.abs(np.diff(steps[2].picture.astype(int), axis=1)).mean() < 60  # smooth: enlarged, not drawn


# Styles


def test_a_style_of_weight_zero_counts_for_nothing(paint: Paint, picture: Draw) -> None:
    """Two styles of which one weighs 0 paint what the other one alone paints, to the bit."""
    one, other = picture(36, 28, 1), picture(30, 30, 2)
    alone, mixed = paint(styles=[Style(one)]), paint(styles=[Style(one, 3.0), Style(other, 0.0)])
    assert [step.losses for step in alone] == [step.losses for step in mixed]
    assert np.array_equal(painted(alone), painted(mixed))


def test_the_order_of_styles_counts_for_nothing(paint: Paint, picture: Draw) -> None:
    """Two weighted styles in either order paint the same picture."""
    one, other = Style(picture(36, 28, 1), 2.0), Style(picture(30, 30, 2))
    forth, back = paint(styles=[one, other]), paint(styles=[other, one])
    assert [s.losses.total for s in forth] == pytest.approx([s.losses.total for s in back], rel=1e-5)
    assert np.abs(painted(forth).astype(int) - painted(back)).max() <= 1


def test_weights_of_styles_matter(paint: Paint, picture: Draw) -> None:
    """Swapping only the weights of two styles changes the losses."""
    one, other = picture(36, 28, 1), picture(30, 30, 6)
    forth, back = paint(styles=[Style(one, 9.0), Style(other)]), paint(styles=[Style(one), Style(other, 9.0)])
    assert forth[0].losses.style != pytest.approx(back[0].losses.style, rel=0.05)


def test_only_the_ratio_of_weights_counts(paint: Paint, picture: Draw) -> None:
    """Weights of 2 and 1 paint like weights of 0.5 and 0.25."""
    pictures = picture(36, 28, 1), picture(30, 30, 2)
    one, other = (paint(styles=list(map(Style, pictures, weights))) for weights in ((2, 1), (0.5, 0.25)))
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
        "match_weight": 0,
    }
    program = painter.step(Settings.model_validate(settings))

    def gram(image: np.ndarray) -> Any:
        return program.style_statistics(pixels.to_vgg(image), Compared({}, {}, {})).grams["block1_conv1"]

    expected = losses.style_loss(gram(content), gram(scaled(style, 48, 24)))
    stretched = losses.style_loss(gram(content), gram(scaled(style, 24, 48)))
    found = paint(content, [Style(style)], iterations=1, **settings)[0].losses.style
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert found != pytest.approx(float(stretched), rel=1e-3)


def kept_narrow(style: np.ndarray, longest: int) -> np.ndarray:
    """Scale a style as a job does whose content is square and so large."""
    settings = Settings.model_validate({"size": longest})
    content = np.zeros((longest, longest, 3), np.uint8)
    (found,) = Subject(content, [Style(style)], settings).scaled_styles(Scale(longest, longest, 1))
    return found


@pytest.mark.parametrize(
    ("shape", "longest", "expected"),
    [
        ((40, 400), 512, (51, 512)),
        ((40, 400), 160, (16, 160)),  # just wide enough
        ((40, 400), 128, (16, 160)),  # not below 16 px
        ((400, 40), 64, (160, 16)),
        ((37, 400), 128, (16, 173)),
        ((100, 100), 16, (16, 16)),
    ],
)
def test_a_style_stays_wide_enough_at_a_coarse_size(
    picture: Draw, shape: tuple[int, int], longest: int, expected: tuple[int, int]
) -> None:
    """A style scales with the content until its short side is 16 px, which VGG19 needs, and no further."""
    style = picture(*shape)
    found = kept_narrow(style, longest)
    assert found.shape == (*expected, 3)
    assert np.array_equal(found, scaled(style, *expected))


def test_a_narrow_style_is_painted(painter: Painter, paint: Paint, picture: Draw) -> None:
    """A style that would become too narrow fails no job: it is compared with at the size it can have."""
    content, style = picture(48, 64), picture(20, 200, 1)
    steps = paint(content, [Style(style)], size=64, iterations=1)
    settings = Settings.model_validate({**PRESETS["paper"], "size": 64})
    program = painter.step(settings)
    compared = targets(program, Subject(content, [Style(style)], settings), Scale(48, 64, 1), None)
    grams = program.style_statistics(pixels.to_vgg(scaled(style, 16, 160)), Compared({}, {}, {})).grams
    assert all(np.array_equal(compared.style[layer], gram) for layer, gram in grams.items())
    assert steps[0].losses.total == float(program.loss(pixels.to_vgg(scaled(content, 48, 64)), compared).total)


@pytest.mark.parametrize(
    ("size", "coarse", "share"), [(64, [], 0.2), (300, [255], 0.0), (300, [256], 0.2), (300, [128, 256], 0.0)]
)
def test_matching_begins_at_256_px_or_at_the_final_size(
    painter: Painter, picture: Draw, size: int, coarse: list[int], share: float
) -> None:
    """At the first size of a job features are matched if it is the last one too, or has 256 px."""
    scales = [{"size": each, "iterations": 1} for each in coarse]
    settings = Settings.model_validate({"size": size, "scales": scales, "match_weight": 0.2})
    subject = Subject(picture(48, 64), [Style(picture(40, 40, 1))], settings)
    assert float(painter.prepare(subject).match_weight) == pytest.approx(share)
