"""The losses against NumPy's formulas in float64, and their gradient against finite differences."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import reference
import tensorflow as tf

from daemon.job import Style
from daemon.presets import PRESETS
from daemon.settings import Settings
from daemon.transfer import losses, pixels
from daemon.transfer.losses import Targets
from daemon.transfer.scales import Scale, Subject
from daemon.transfer.targets import grid, match_with
from daemon.transfer.targets import targets as targets_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.engine.session import Painter
    from daemon.transfer.step import Step

    Draw = Callable[..., np.ndarray]

# Sums of up to some thousand float32 products, against float64: a few units in the last of 24 bits.
ROUNDING = 1e-5
ONE_COLOR = np.full((1, 4, 4, 3), 17.5, np.float32)  # has no variation


@pytest.fixture
def random() -> np.random.Generator:
    """Numbers that are the same in each run."""
    return np.random.default_rng(7)


def scalar(value: float) -> Any:
    """Make a float32 tensor of no dimension."""
    return tf.constant(value, tf.float32)


def test_gram_matrix_is_the_mean_product_of_two_channels(random: np.random.Generator) -> None:
    """Every entry is the sum over positions of two channels' product, divided by the number of positions."""
    features = random.normal(size=(1, 3, 5, 4)).astype(np.float32)
    expected = np.zeros((4, 4))
    for one in range(4):
        for other in range(4):
            for position in range(15):
                row, column = divmod(position, 5)
                expected[one, other] += (
                    float(features[0, row, column, one] * features[0, row, column, other]) / 15
                )
    assert np.asarray(losses.gram_matrix(tf.constant(features))) == pytest.approx(
        expected, rel=ROUNDING, abs=1e-6
    )


def test_gram_matrix_does_not_depend_on_size(random: np.random.Generator) -> None:
    """A picture tiled twice has the Gram matrix of the picture: content and style may differ in size."""
    features = random.normal(size=(1, 4, 6, 3)).astype(np.float32)
    twice = np.concatenate([features, features], axis=1)
    one, other = (np.asarray(losses.gram_matrix(tf.constant(value))) for value in (features, twice))
    assert other == pytest.approx(one, rel=ROUNDING, abs=1e-6)


def test_content_loss_is_the_mean_squared_difference(random: np.random.Generator) -> None:
    """The content loss is NumPy's mean of the squared difference of two feature maps."""
    one, other = random.normal(size=(2, 1, 5, 7, 6)).astype(np.float32)
    assert float(losses.content_loss(one, other)) == pytest.approx(np.mean((one - other) ** 2.0), rel=ROUNDING)


def test_content_counts_more_where_it_is_important(random: np.random.Generator) -> None:
    """A place of importance 3 counts three times in a mean over all places."""
    one, other = random.normal(size=(2, 1, 2, 2, 6)).astype(np.float32)
    importance = np.float32([[[[1], [3]], [[1], [1]]]])
    expected = np.mean(importance * (one - other) ** 2.0)
    assert float(losses.content_loss(one, other, importance)) == pytest.approx(expected, rel=ROUNDING)


def test_style_loss_is_the_mean_squared_difference(random: np.random.Generator) -> None:
    """The style loss is NumPy's mean of the squared difference of two Gram matrices."""
    one, other = random.normal(size=(2, 6, 6)).astype(np.float32)
    assert float(losses.style_loss(one, other)) == pytest.approx(np.mean((one - other) ** 2.0), rel=ROUNDING)


class Terms(NamedTuple):
    """Features, what they are compared with, and NumPy's unweighted terms of each layer, all of one picture."""

    features: dict[str, np.ndarray]
    targets: Targets
    style: dict[str, float]
    content: dict[str, float]


@pytest.fixture
def terms(random: np.random.Generator) -> Terms:
    """Two style layers, two content layers, every share and weight another."""
    features = {name: random.normal(size=(1, 6, 6, 4)).astype(np.float32) for name in "abcd"}
    wanted = {name: random.normal(size=(1, 6, 6, 4)).astype(np.float32) for name in "cd"}
    grams = {name: random.normal(size=(4, 4)).astype(np.float32) for name in "ab"}
    targets = Targets(
        content={name: tf.constant(value) for name, value in wanted.items()},
        importance={},
        style={name: tf.constant(value) for name, value in grams.items()},
        match={},
        content_layers={"c": scalar(0.75), "d": scalar(0.25)},
        style_layers={"a": scalar(0.125), "b": scalar(0.875)},
        content_weight=scalar(3),
        style_weight=scalar(5),
        match_weight=scalar(0.25),
        tv_weight=scalar(7),
    )

    def style_of(name: str) -> float:
        flat = features[name].reshape(36, 4).astype(np.float64)
        return float(np.mean((flat.T @ flat / 36 - grams[name]) ** 2))

    content = {name: np.mean((features[name].astype(np.float64) - wanted[name]) ** 2) for name in "cd"}
    return Terms(features, targets, {name: style_of(name) for name in "ab"}, content)


def objective_of(kind: str, terms: Terms, image: Any = ONE_COLOR) -> losses.Loss:
    """Compute a named objective of an image and the terms' features by the product."""
    tensors = {name: tf.constant(value) for name, value in terms.features.items()}
    found = losses.statistics(image, tensors, "ab", terms.targets.compared)
    return losses.OBJECTIVES[kind](found, terms.targets)


def assert_sums(found: losses.Loss, style: float, content: float) -> None:
    """The three scalars are a style sum, a content sum, and both."""
    assert float(found.style) == pytest.approx(style, rel=ROUNDING)
    assert float(found.content) == pytest.approx(content, rel=ROUNDING)
    assert float(found.total) == pytest.approx(style + content, rel=ROUNDING)


@pytest.mark.parametrize("kind", losses.OBJECTIVES)
def test_total_variation_is_the_mean_squared_difference_of_neighbors(
    terms: Terms, random: np.random.Generator, kind: str
) -> None:
    """The total has 7 times the mean square of NumPy's differences down, plus that of those to the right."""
    image = random.normal(size=(1, 5, 9, 3)).astype(np.float32)
    expected = np.mean(np.diff(image, axis=1) ** 2.0) + np.mean(np.diff(image, axis=2) ** 2.0)
    found = objective_of(kind, terms, image)
    assert_sums(found._replace(total=found.total - 7 * expected), float(found.style), float(found.content))


def test_objective_weighs_layers_and_terms(terms: Terms) -> None:
    """The paper's objective is the weighted sum of NumPy's own terms: shares of layers, then two weights."""
    style = 5 * (0.125 * terms.style["a"] + 0.875 * terms.style["b"])
    content = 3 * (0.75 * terms.content["c"] + 0.25 * terms.content["d"])
    assert_sums(objective_of("paper", terms), style, content)


def test_balanced_objective_weighs_relative_errors(terms: Terms) -> None:
    """The balanced objective divides every layer's error by its target's mean square, then weighs alike."""

    def size(value: Any) -> float:
        return float(np.mean(np.asarray(value, np.float64) ** 2))

    style = {name: value / size(terms.targets.style[name]) for name, value in terms.style.items()}
    content = {name: value / size(terms.targets.content[name]) for name, value in terms.content.items()}
    assert_sums(
        objective_of("balanced", terms),
        5 * (0.125 * style["a"] + 0.875 * style["b"]),
        3 * (0.75 * content["c"] + 0.25 * content["d"]),
    )


def evenly(count: int) -> tuple[Any, Any]:
    """Positions that do not matter, and equal weights."""
    return tf.zeros([count, 2], tf.int32), tf.fill([count], 1 / count)


def nearest_distances(features: np.ndarray, style: np.ndarray) -> float:
    """Both means of the cosine distances to the nearest ones, less the style's mean, in float64."""
    mean = style.mean(axis=0, dtype=np.float64)
    one, other = features - mean, style - mean
    cosines = (one @ other.T) / np.outer(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1))
    return float((1 - cosines.max(axis=1)).mean() + (1 - cosines.max(axis=0)).mean())


def test_relaxed_emd_is_the_mean_distance_of_nearest_features_both_ways(random: np.random.Generator) -> None:
    """Each feature's distance from its nearest is counted once each way, of sets that differ in size."""
    features, style = random.normal(size=(7, 5)), random.normal(3, size=(11, 5))
    match = match_with(np.float32(style), "float32", *evenly(7))
    found = losses.relaxed_emd(np.float32(features), match)
    assert float(found) == pytest.approx(nearest_distances(features, style), rel=1e-4)
    same = match_with(np.float32(style), "float32", *evenly(11))
    assert float(losses.relaxed_emd(np.float32(style[::-1]), same)) == pytest.approx(0, abs=1e-5)


def test_relaxed_emd_pulls_features_to_their_nearest_ones(random: np.random.Generator) -> None:
    """The gradient is the slope of the distance while no feature changes its nearest one."""
    features, style = random.normal(size=(2, 6, 4)).astype(np.float32)
    match = match_with(style, "float32", *evenly(6))
    given = tf.constant(features)
    with tf.GradientTape() as tape:
        tape.watch(given)
        distance = losses.relaxed_emd(given, match)
    gradient = np.asarray(tape.gradient(distance, given))
    for step in 1e-6 * random.normal(size=(3, 6, 4)):
        slope = (nearest_distances(features + step, style) - nearest_distances(features - step, style)) / 2
        assert np.vdot(gradient, step) == pytest.approx(slope, rel=1e-3)


def test_matching_is_a_share_of_the_style_loss(terms: Terms) -> None:
    """A share of 0.25 leaves 0.75 to the Gram matrices; the rest is the mean distance of the layers."""
    places = np.array([[0, 0], [5, 5], [2, 3]], np.int32)
    match, distances = {}, []
    for name in "ab":
        wanted = np.float32(terms.features[name][0, :2].reshape(12, 4) + 1)
        match[name] = match_with(wanted, "float32", tf.constant(places), tf.fill([3], 1 / 3))
        taken = terms.features[name][0, places[:, 0], places[:, 1]]
        distances.append(float(losses.relaxed_emd(taken, match[name])))
    before = objective_of("balanced", terms)
    found = objective_of("balanced", terms._replace(targets=terms.targets._replace(match=match)))
    assert_sums(found, 0.75 * float(before.style) + 0.25 * 5 * sum(distances) / 2, float(before.content))


@pytest.mark.parametrize(
    ("size", "share", "most", "expected"),
    [
        ((96, 64), 1.0, 9999, 96),
        ((96, 64), 1.0, 30, 24),
        ((96, 64), 0.25, 9999, 24),
        ((16, 700), 1.0, 5, 5),
        ((16, 700), 0.02, 9999, 3),
        ((700, 16), 0.02, 9999, 3),
        ((700, 16), 0.001, 9999, 1),
        ((16, 16), 1e-9, 9999, 1),
    ],
)
def test_a_grid_spreads_over_the_features(
    size: tuple[int, int], share: float, most: int, expected: int
) -> None:
    """It has all positions, or as many as allowed, each once; the upper half has half of them."""
    found = [tuple(position) for position in grid("block4_conv1", size, share, most).numpy().tolist()]
    assert len(set(found)) == len(found) == expected
    assert all(0 <= row < size[0] // 8 and 0 <= column < size[1] // 8 for row, column in found)
    assert expected < 24 or sum(row < size[0] // 16 for row, _ in found) * 2 == expected


@pytest.mark.parametrize("layer", ["a", "b"])
def test_balanced_objective_does_not_feel_the_scale_of_a_layer(terms: Terms, layer: str) -> None:
    """A style layer whose features and target's are 30 times as large counts as before; the paper's grows."""
    scaled = {**terms.features, layer: 30 * terms.features[layer]}
    grams = {**terms.targets.style, layer: 900 * terms.targets.style[layer]}
    other = terms._replace(features=scaled, targets=terms.targets._replace(style=grams))
    before = {kind: float(objective_of(kind, terms).style) for kind in losses.OBJECTIVES}
    after = {kind: float(objective_of(kind, other).style) for kind in losses.OBJECTIVES}
    assert after["balanced"] == pytest.approx(before["balanced"], rel=ROUNDING)
    grown = (before["paper"] / 5 + (900**2 - 1) * {"a": 0.125, "b": 0.875}[layer] * terms.style[layer]) * 5
    assert after["paper"] == pytest.approx(grown, rel=ROUNDING)


def test_balanced_objective_of_nothing_is_a_number(terms: Terms) -> None:
    """Against features that vanish, as those of a picture of one color may, losses and slopes are finite."""
    nothing = terms.targets._replace(
        style={name: tf.zeros([4, 4]) for name in "ab"}, content={name: tf.zeros([1, 6, 6, 4]) for name in "cd"}
    )
    features = {name: tf.zeros([1, 6, 6, 4]) for name in "abcd"}
    with tf.GradientTape() as tape:
        tape.watch(features)
        loss = losses.balanced_objective(
            losses.statistics(ONE_COLOR, features, "ab", nothing.compared), nothing
        )
    assert float(loss.total) == 0
    assert all(np.all(np.isfinite(slope)) for slope in tape.gradient(loss.total, features).values())


@pytest.mark.parametrize(("strength", "weight"), [(0, 1), (0.25, 10**0.5), (0.5, 10), (1, 100)])
def test_strength_is_the_weight_of_style_on_a_log_scale(
    painter: Painter, picture: Draw, strength: float, weight: float
) -> None:
    """Balanced, strength 0, 0.5 and 1 weigh style 1, 10 and 100 times content; other weights do not count."""
    settings = Settings.model_validate({"strength": strength, "style_weight": 77, "content_weight": 99})
    found = prepared(painter.step(settings), picture, settings, Style(picture(24, 24, 1)))
    assert float(found.style_weight) == pytest.approx(weight, rel=1e-6)
    assert float(found.content_weight) == 1


def test_the_papers_weights_are_its_own(painter: Painter, picture: Draw) -> None:
    """With the paper's objective the two weights count, and strength does not."""
    settings = Settings.model_validate({"objective": "paper", "strength": 1, "style_weight": 7, "tv_weight": 3})
    found = prepared(painter.step(settings), picture, settings, Style(picture(24, 24, 1)))
    weights = [float(value) for value in (found.content_weight, found.style_weight, found.tv_weight)]
    assert weights == [1000, 7, 3]


def prepared(step: Step, picture: Draw, settings: Settings, *styles: Style[np.ndarray]) -> Targets:
    """Targets of a content of 24 x 32 px and some styles."""
    return targets_of(step, Subject(picture(24, 32), styles, settings), Scale(24, 32, 1), None)


def test_layer_weights_of_a_job_are_shares(painter: Painter, picture: Draw) -> None:
    """Layer weights of 1 and 3 weigh a quarter and three quarters, whatever their sum."""
    settings = Settings.model_validate({"style_layers": {"block1_conv1": 1, "block2_conv1": 3}})
    targets = prepared(painter.step(settings), picture, settings, Style(picture(24, 24, 1)))
    assert {name: float(share) for name, share in targets.style_layers.items()} == {
        "block1_conv1": 0.25,
        "block2_conv1": 0.75,
    }


def test_styles_are_blended_as_the_weighted_mean_of_their_grams(painter: Painter, picture: Draw) -> None:
    """Two styles weighing 2 and 1 give two thirds of one's Gram matrix plus a third of the other's."""
    settings = Settings()
    step = painter.step(settings)
    one, other = picture(24, 32, 1), picture(32, 20, 2)
    blended = prepared(step, picture, settings, Style(one, 2.0), Style(other)).style
    alone = prepared(step, picture, settings, Style(one)).style
    second = prepared(step, picture, settings, Style(other)).style
    for layer, gram in blended.items():
        expected = (2 * np.asarray(alone[layer], np.float64) + np.asarray(second[layer], np.float64)) / 3
        assert np.asarray(gram) == pytest.approx(expected, rel=ROUNDING, abs=1e-3), layer


def test_styles_are_matched_by_their_shares(painter: Painter, picture: Draw) -> None:
    """Of the samples two thirds and a third are of two styles that weigh 2 and 1, also at a small size."""
    settings = Settings()
    styles = [Style(picture(512, 512, seed), weight) for seed, weight in ((1, 2.0), (2, 1.0))]
    subject = Subject(picture(24, 512), styles, settings)
    match = targets_of(painter.step(settings), subject, Scale(24, 512, 1), None).match
    assert match["block3_conv1"].style.shape[0] == 45**2 + 32**2  # 2048 and 1024 positions at most, in squares
    assert match["block3_conv1"].grid.shape == (6 * 128, 2)
    small = targets_of(painter.step(settings), subject, Scale(16, 128, 1), None).match
    assert small["block4_conv1"].style.shape[0] == 13**2 + 9**2  # of 16 x 16


def test_a_protected_place_keeps_its_content_and_matches_less(painter: Painter, picture: Draw) -> None:
    """In the left half the content counts three times and a match a third; without a map nothing changes."""
    settings, styles = Settings(), [Style(picture(32, 32, 1))]
    half = np.zeros((8, 16), np.float32)
    plain = Subject(picture(64, 128), styles, settings)
    half[:, :8] = 1
    step = painter.step(settings, protects=True)
    found = targets_of(step, replace(plain, protection=half), Scale(64, 128, 1), None)
    before = targets_of(painter.step(settings), plain, Scale(64, 128, 1), None)
    importance = found.importance["block4_conv2"].numpy()[0, :, :, 0]  # (8, 16)
    assert np.all(importance[:, :7] == 3)
    assert np.all(importance[:, 9:] == 1)
    weight = found.match["block4_conv1"].weight.numpy().reshape(8, 16)
    assert weight[:, :7] == pytest.approx(1 / 3 / 128)
    assert weight[:, 9:] == pytest.approx(1 / 128)
    assert before.importance == {}
    assert before.match["block4_conv1"].weight.numpy() == pytest.approx(1 / 128)


def test_gradient_equals_finite_differences_in_float64(
    real_painter: Painter, picture: Draw, random: np.random.Generator
) -> None:
    """Along any direction the gradient is the slope of the same objective in float64 by Keras' own network.

    Float64 allows a difference of a ten-thousandth of a gray level, small enough to cross no kink of ReLU or
    pooling that matters. What is left is the float32 gradient's own rounding through 13 convolutions.
    """
    content, style = picture(32, 32), picture(32, 32, 1)
    image = pixels.to_vgg(picture(32, 32, 2))
    settings = Settings.model_validate(PRESETS["paper"])
    compiled = real_painter.step(settings)
    targets = targets_of(compiled, Subject(content, [Style(style)], settings), Scale(32, 32, 1), None)
    with tf.GradientTape() as tape:
        tape.watch(image)
        loss = compiled.loss(image, targets)
    gradient = np.asarray(tape.gradient(loss.total, image), np.float64)

    paper = reference.Paper(reference.network("float64"), content, style)
    exact = tf.cast(image, tf.float64)
    assert float(loss.total) == pytest.approx(float(paper.losses(exact)[0]), rel=1e-4)
    steepest = gradient / np.abs(gradient).max()
    for direction in (steepest, *random.choice([-1.0, 1.0], size=(3, *gradient.shape))):
        step = 1e-4 * direction
        slope = float(paper.losses(exact + step)[0] - paper.losses(exact - step)[0]) / 2e-4
        size = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert np.vdot(gradient, direction) == pytest.approx(slope, abs=1e-4 * size)
