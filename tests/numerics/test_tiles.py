"""A picture by tiles against the same picture in one piece, and the geometry that makes them equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.narrow_vgg import narrow_vgg

from daemon.settings import LAYERS, MATCH_LAYERS
from daemon.transfer import losses, pixels, tiles
from daemon.transfer.backend import device, footprint, tile_layout
from daemon.transfer.backend.operations import sample
from daemon.transfer.backend.tile_layout import GRID_PX, Span
from daemon.transfer.losses import Compared, Loss, Targets
from daemon.transfer.optimizers import Adam
from daemon.transfer.step import Method, TiledStep
from daemon.transfer.targets import grid, match_with
from daemon.transfer.vgg19 import Vgg19

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daemon.transfer.weights import Weights

    Draw = Callable[..., np.ndarray]
    Make = Callable[..., Targets]

STYLE = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1")
# Both compute the same float32 numbers and sum them in another order; seen: 7.4e-7 at most.
ROUNDING = 1e-5

lengths = st.integers(GRID_PX, 700)
cores = st.integers(1, 20).map(lambda cells: cells * GRID_PX)
halos = st.integers(0, 8).map(lambda cells: cells * GRID_PX)


def whole(
    network: Vgg19, image: Any, targets: Targets, objective: str, pooling: str = "max"
) -> tuple[Loss, np.ndarray]:
    """Loss and gradient of a picture in one piece."""

    @tf.function(autograph=False)  # which rounds less often in bfloat16, as tiles do
    def compute(image: Any, targets: Targets) -> tuple[Loss, Any]:
        with tf.GradientTape() as tape:
            tape.watch(image)
            features = network.features(image, {*targets.content, *STYLE}, pooling)
            found = losses.statistics(image, features, STYLE, targets.compared)
            loss = losses.OBJECTIVES[objective](found, targets)
        return loss, tape.gradient(loss.total, image)

    loss, gradient = compute(image, targets)
    return loss, gradient.numpy()


def by_tiles(
    network: Vgg19,
    content: Sequence[str] = ("block4_conv2",),
    objective: str = "balanced",
    pooling: str = "max",
    core_px: int = 64,
) -> TiledStep:
    """Make the tiled step under test."""
    match_layers = MATCH_LAYERS if objective == "balanced" else ()
    return TiledStep(
        network, Method(tuple(content), STYLE, match_layers, pooling, objective, "adam", protects=True), core_px
    )


def gradient_of(step: TiledStep, image: Any, targets: Targets) -> tuple[Loss, np.ndarray]:
    """Give the loss and the gradient that the optimizer gets, taken from Adam's first moment."""
    loss, _, state = step.step(image, targets, step.optimizer.start(image, 1.0))
    return loss, np.asarray(state.mean / (1 - Adam.beta_1))


def places(layer: str, height: int, width: int) -> tuple[Any, Any]:
    """Positions of a grid, and weights that differ."""
    positions = grid(layer, (height, width), most=77)
    return positions, tf.range(1.0, len(positions) + 1) / 3000


def scalar(value: float) -> Any:
    """Make a float32 tensor of no dimension."""
    return tf.constant(value, tf.float32)


@pytest.fixture(scope="module")
def targets_of(narrow: Vgg19, picture: Draw) -> Make:
    """Make targets for a picture of (height, width), computed in one piece."""

    def make(
        height: int,
        width: int,
        content: Sequence[str] = ("block4_conv2",),
        *,
        objective: str = "balanced",
        pooling: str = "max",
        tv_weight: float = 0,
        at: Vgg19 = narrow,
    ) -> Targets:
        features = at.features(pixels.to_vgg(picture(height, width, 1)), content, pooling)
        style = at.features(pixels.to_vgg(picture(150, 131, 2)), STYLE, pooling)
        shares = np.arange(1, len(content) + 1) / sum(range(1, len(content) + 1))
        samples = {
            layer: sample(style[layer], grid(layer, (150, 131), most=99)).numpy() for layer in MATCH_LAYERS
        }
        match = {
            layer: match_with(samples[layer], at.precision, *places(layer, height, width))
            for layer in (MATCH_LAYERS if objective == "balanced" else ())
        }
        return Targets(
            content={layer: features[layer] for layer in content},
            importance={layer: 1 + features[layer][..., :1] for layer in content},  # any that differ
            style={layer: losses.gram_matrix(style[layer]) for layer in STYLE},
            match=match,
            content_layers={layer: scalar(share) for layer, share in zip(content, shares, strict=True)},
            style_layers=dict.fromkeys(STYLE, scalar(1 / len(STYLE))),
            content_weight=scalar(1),
            style_weight=scalar(3),
            match_weight=scalar(0.5),
            tv_weight=scalar(tv_weight),
        )

    return make


def distance(one: Any, other: Any) -> float:
    """Give the 2-norm of a difference, as a share of the second's."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    assert one.shape == other.shape
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize(
    ("height", "width", "core_px", "objective", "pooling", "content"),
    [
        pytest.param(208, 176, 64, "balanced", "max", ("block4_conv2",), marks=pytest.mark.nightly),
        pytest.param(208, 176, 96, "paper", "max", ("block5_conv2",), marks=pytest.mark.slow),
        (203, 157, 64, "paper", "avg", ("block4_conv2", "block5_conv2")),
        pytest.param(
            *(203, 157, 96, "balanced", "avg", ("block5_conv2", "block3_conv1")), marks=pytest.mark.slow
        ),
        (203, 33, 16, "balanced", "max", ("block4_conv2",)),
    ],
)
def test_loss_and_gradient_are_those_of_the_whole_picture(
    narrow: Vgg19,
    picture: Draw,
    targets_of: Make,
    *,
    height: int,
    width: int,
    core_px: int,
    objective: str,
    pooling: str,
    content: tuple[str, ...],
) -> None:
    """By tiles, the losses and the gradient in the 2-norm equal those of one piece, at odd sizes too."""
    image = pixels.to_vgg(picture(height, width))
    targets = targets_of(height, width, content, objective=objective, pooling=pooling)
    tiled = by_tiles(narrow, content, objective, pooling, core_px)
    expected, gradient = whole(narrow, image, targets, objective, pooling)

    found, by_parts = gradient_of(tiled, image, targets)

    assert distance(by_parts, gradient) < ROUNDING
    assert np.asarray(found) == pytest.approx(np.asarray(expected), rel=ROUNDING)
    assert np.asarray(tiled.loss(image, targets)) == pytest.approx(np.asarray(expected), rel=ROUNDING)


@pytest.mark.parametrize("deepest", ["block5_conv1", "block4_conv2", "block3_conv1", "block1_conv1"])
def test_a_halo_smaller_by_one_cell_is_too_small(
    narrow: Vgg19, picture: Draw, monkeypatch: pytest.MonkeyPatch, deepest: str
) -> None:
    """The halo computed for a layer makes its features exact, and 16 px less does not."""
    image = pixels.to_vgg(picture(208, 176))
    expected = narrow.features(image, [deepest])[deepest]
    needed = tile_layout.halo_px([deepest])
    assert distance(by_tiles(narrow, [deepest]).content_features(image)[deepest], expected) < ROUNDING

    monkeypatch.setattr(tiles, "halo_px", lambda layers: needed - GRID_PX)

    assert distance(by_tiles(narrow, [deepest]).content_features(image)[deepest], expected) > 10 * ROUNDING


def test_total_variation_is_of_the_whole_picture(narrow: Vgg19, picture: Draw, targets_of: Make) -> None:
    """Total variation counts in loss and gradient as in one piece, also across the borders of cores."""
    image = pixels.to_vgg(picture(99, 84))
    _, without = whole(narrow, image, targets_of(99, 84), "balanced")
    targets = targets_of(99, 84, tv_weight=0.1)
    expected, gradient = whole(narrow, image, targets, "balanced")
    assert distance(without, gradient) > 1000 * ROUNDING  # there is something to count

    tiled = by_tiles(narrow, core_px=32)
    found, by_parts = gradient_of(tiled, image, targets)

    assert distance(by_parts, gradient) < ROUNDING
    assert float(found.total) == pytest.approx(float(expected.total), rel=ROUNDING)
    assert float(tiled.loss(image, targets).total) == pytest.approx(float(expected.total), rel=ROUNDING)


@pytest.mark.parametrize(
    ("height", "width", "pooling"),
    [
        *((203, 157, "max"), (16, 217, "avg")),
        *(pytest.param(*size, "max", marks=pytest.mark.nightly) for size in ((208, 176), (16, 217))),
        *(pytest.param(*size, "avg", marks=pytest.mark.nightly) for size in ((208, 176), (203, 157))),
    ],
)
def test_targets_are_those_of_the_whole_picture(
    narrow: Vgg19, picture: Draw, height: int, width: int, pooling: str
) -> None:
    """Gram matrices and content features by tiles equal those of one piece; the features' shapes do too."""
    image = pixels.to_vgg(picture(height, width))
    content = ("block2_conv2", "block4_conv2", "block5_conv2")
    tiled = by_tiles(narrow, content, pooling=pooling)
    features = narrow.features(image, {*content, *STYLE}, pooling)

    grids = {layer: grid(layer, (height, width), most=50) for layer in MATCH_LAYERS}
    found = tiled.content_features(image)
    grams, samples, *_ = tiled.style_statistics(image, Compared({}, {}, grids))

    assert set(found) == set(content)
    assert set(grams) == set(STYLE)
    assert max(distance(found[layer], features[layer]) for layer in content) < ROUNDING
    assert max(distance(grams[layer], losses.gram_matrix(features[layer])) for layer in STYLE) < ROUNDING
    assert max(distance(samples[layer], sample(features[layer], at)) for layer, at in grids.items()) < ROUNDING


@pytest.mark.nightly
def test_bfloat16_by_tiles_is_bfloat16_of_the_whole_picture(
    weights: Weights, picture: Draw, targets_of: Make
) -> None:
    """In bfloat16 tiles add less than its own rounding to loss and gradient, which stay float32."""
    network = Vgg19(weights, "bfloat16")
    image = pixels.to_vgg(picture(139, 112))
    targets = targets_of(139, 112, at=network)
    expected, gradient = whole(network, image, targets, "balanced")
    _, exact = whole(Vgg19(weights), image, targets, "balanced")

    found, by_parts = gradient_of(by_tiles(network), image, targets)

    assert by_parts.dtype == found.total.dtype == tf.float32
    assert float(found.total) == pytest.approx(float(expected.total), rel=1e-4)
    assert distance(by_parts, gradient) < 0.5 * distance(exact, gradient)
    # Where the processor does not multiply bfloat16 Eigen computes, and rounds otherwise: 0.0115 on AVX2.
    assert distance(by_parts, gradient) < (0.01 if device.multiplies_bfloat16() else 0.02)


def test_no_size_of_picture_or_tile_compiles_anything_again(
    picture: Draw, targets_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of three sizes, whose tiles have many shapes, trace each of the four functions once."""
    network, traces = narrow_vgg(), []
    features = network.features
    monkeypatch.setattr(network, "features", lambda *of, **how: (traces.append(of), features(*of, **how))[1])
    tiled = by_tiles(network, core_px=48)
    for height, width in ((16, 20), (99, 84), (130, 61)):
        image = pixels.to_vgg(picture(height, width))
        targets = targets_of(height, width)
        tiled.content_features(image)
        tiled.style_statistics(image, Compared({}, {}, targets.compared.grids))
        tiled.loss(image, targets)
        gradient_of(tiled, image, targets)
    assert len(traces) == 4


@given(lengths, cores, halos)
def test_cores_partition_every_axis_and_tiles_stay_on_the_grid(length: int, core_px: int, halo: int) -> None:
    """Cores follow each other without gap, none is too large; tiles and cores begin where block 5 pools."""
    found = tile_layout.spans(length, core_px, halo)
    assert [span.core_start for span in found] == [0, *(span.core_stop for span in found[:-1])]
    assert found[-1].core_stop == length
    for span in found:
        assert 0 < span.core_stop - span.core_start <= core_px
        assert span.start == max(0, span.core_start - halo)
        assert span.stop == min(length, span.core_stop + halo)
        assert span.start % GRID_PX == span.core_start % GRID_PX == 0
        assert span.stop in {length, span.stop // GRID_PX * GRID_PX}


@given(lengths, cores, halos, st.sampled_from(LAYERS))
def test_core_features_partition_every_layers_feature_map(
    length: int, core_px: int, halo: int, layer: str
) -> None:
    """Laid one after the other, the features of the cores are each feature of the axis once, at every layer."""
    px = tile_layout.feature_px(layer)
    of_cores: list[int] = []
    for span in tile_layout.spans(length, core_px, halo):
        of_tile = range(span.start // px, span.start // px + (span.stop - span.start) // px)
        top, bottom, _, _ = tile_layout.Tile(span, Span(0, 0, 1, 1)).inner
        of_cores += of_tile[top // px : bottom // px]
    assert of_cores == list(range(length // px))


@given(lengths, cores, st.sampled_from(LAYERS))
@hypothesis_settings(max_examples=200)
def test_what_a_core_looks_at_lies_in_its_tile(length: int, core_px: int, layer: str) -> None:
    """No feature of a core depends on a pixel of the picture outside the tile, convolution by convolution."""
    for span in tile_layout.spans(length, core_px, tile_layout.halo_px([layer])):
        px = tile_layout.feature_px(layer)
        first, last = span.core_start // px, span.core_stop // px - 1
        if last < first:
            continue  # less than one feature at the border
        for name in reversed(LAYERS[: LAYERS.index(layer) + 1]):
            if tile_layout.feature_px(name) < px:  # through the pooling
                px //= 2
                first, last = 2 * first, 2 * last + 1
            first, last = first - 1, last + 1
        assert px == 1
        assert max(0, first) >= span.start
        assert min(length - 1, last) < span.stop


def test_reach_is_counted_from_the_networks_structure() -> None:
    """Convolutions reach 1, 2, 4, 8 and 16 px beyond, one block after the other; halos are rounded up."""
    reaches = {layer: tile_layout.reach_px(layer) for layer in LAYERS}
    assert reaches["block1_conv1"] == 1
    assert reaches["block2_conv1"] == 2 + 2
    assert reaches["block4_conv2"] == 2 + 4 + 16 + 16
    assert reaches["block5_conv1"] == 2 + 4 + 16 + 32 + 16
    assert tile_layout.halo_px(["block1_conv1", "block5_conv2", "block4_conv1"]) == 96
    assert tile_layout.halo_px(["block5_conv1"]) == 80


def test_the_memory_of_the_tiles_is_returned_before_the_update(
    narrow: Vgg19, targets_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update, which makes tensors of the whole picture, comes after the memory of the tiles is returned."""
    step, done, image = by_tiles(narrow), [], tf.zeros((1, 16, 16, 3))
    gradient, update = tiles.Tiles.gradient, Adam.update
    monkeypatch.setattr(tiles.Tiles, "gradient", lambda *more: (done.append("tiles"), gradient(*more))[1])
    monkeypatch.setattr(footprint, "trim", lambda: done.append("trim"))
    monkeypatch.setattr(Adam, "update", lambda *more: (done.append("update"), update(*more))[1])
    step.step(image, targets_of(16, 16), step.optimizer.start(image, 1.0))
    assert done == ["tiles", "trim", "update"]
