"""What each key may hold."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from support.faulty import faults_of

from daemon.errors import Reason
from daemon.settings import LAYERS, EarlyStop, Settings
from daemon.validation import explain

HUGE = 10**200
NO_NUMBER = [
    True,
    False,
    "x",
    "",
    "1_000_000_000_000x",
    float("nan"),
    float("inf"),
    float("-inf"),
    [],
    {},
    HUGE * -1,
]
NO_WORD = ["", "Max", "none ", True, 3, None, [], {}]


def value_of(key: str, value: Any) -> Any:
    """Validate one key, and give what became of its value."""
    return getattr(Settings.model_validate({key: value}), key)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("size", 16, 16),
        ("size", 16384, 16384),
        ("size", 256.0, 256),
        ("size", "256", 256),
        ("size", "original", "original"),
        ("iterations", 1, 1),
        ("iterations", 100_000, 100_000),
        ("iterations", 7.0, 7),
        ("scales", "auto", "auto"),
        ("scales", "none", "none"),
        ("scales", [], []),
        ("strength", 0, 0.0),
        ("strength", 1, 1.0),
        ("strength", "0.25", 0.25),
        ("objective", "balanced", "balanced"),
        ("optimizer", "lbfgs", "lbfgs"),
        ("init_colors", "content", "content"),
        ("chroma_limit", False, False),
        ("early_stop", False, False),
        ("early_stop", {}, EarlyStop(improvement=0.01, iterations=10)),
        ("early_stop", {"improvement": "1e-3"}, EarlyStop(improvement=0.001, iterations=10)),
        ("early_stop", {"iterations": 1}, EarlyStop(improvement=0.01, iterations=1)),
        ("objective", "paper", "paper"),
        ("optimizer", "adam", "adam"),
        ("learning_rate", 1e-9, 1e-9),
        ("learning_rate", "1e3", 1000.0),
        ("content_weight", 0, 0.0),
        ("style_weight", "1e-2", 0.01),
        ("tv_weight", 5, 5.0),
        ("match_weight", 1, 1.0),
        ("style_scale", 4, 4.0),
        ("style_scale", "0.1", 0.1),
        ("pooling", "avg", "avg"),
        *(("preserve_color", word, word) for word in ("none", "luminance", "match")),
        ("init", "noise", "noise"),
        ("init", "my start.png", "my start.png"),
        ("init", "..jpg", "..jpg"),
        *(("protect", word, word) for word in ("faces", "none", "my mask.png")),
        *(("background", value, "#10ff00") for value in ("#10fF00", [16, 255, 0])),
        ("background", "auto", "auto"),
        ("alpha", "flatten", "flatten"),
        ("init", "\udcff.jpg", "\udcff.jpg"),
        ("seed", 0, 0),
        ("seed", 2**63 - 1, 2**63 - 1),
        ("priority", -1000, -1000),
        ("priority", 1000, 1000),
    ],
)
def test_good_values_are_taken(key: str, value: object, expected: object) -> None:
    """Each key takes its whole range; YAML's `1e3`, a string, counts as the number it looks like."""
    assert value_of(key, value) == expected
    assert type(value_of(key, value)) is type(expected)


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("size", [*NO_NUMBER, 15, 16385, 0, -512, HUGE, 512.5, "512.5", "Original", "1e3"]),
        ("iterations", [*NO_NUMBER, 0, -1, 100_001, HUGE, 7.5, "1e3"]),
        ("strength", [*NO_NUMBER, None, -0.01, 1.01, "1e3", 50]),
        ("init_colors", [*NO_WORD, "own"]),
        ("chroma_limit", ["", "never", 3, None, [], {}]),
        ("early_stop", ["", "never", 3, 0, 0.01, True, None, [], [3]]),
        ("learning_rate", [*NO_NUMBER, 0, -2, "1e999", "nan"]),
        ("content_weight", [*NO_NUMBER, -1, "1e999", "inf"]),
        ("style_weight", [*NO_NUMBER, -0.01]),
        ("tv_weight", [*NO_NUMBER, -1]),
        ("match_weight", [*NO_NUMBER, -0.1, 1.1]),
        ("style_scale", [*NO_NUMBER, 0, 0.09, 4.1, -1]),
        ("seed", [*NO_NUMBER, -1, 2**63, HUGE, 0.5]),
        ("priority", [*NO_NUMBER, -1001, 1001, 0.5]),
        ("objective", [*NO_WORD, "balance"]),
        ("optimizer", [*NO_WORD, "sgd"]),
        ("pooling", NO_WORD),
        ("preserve_color", [*NO_WORD, "luma", True]),
        ("protect", ["", " ", "face", 3, False, [], {}, ["a.png"]]),
        ("background", [*NO_WORD, "red", "#fff", "#ff00gg", [1, 2], [1, 2, 256], [1, 2, -1], [True, 1, 2]]),
        ("alpha", NO_WORD),
        ("init", ["", " ", 3, True, [], {}, ["a"], {"a": 1}]),
        ("scales", ["", "AUTO", 3, True, None, {}, {"size": 128, "iterations": 60}]),
    ],
)
def test_bad_values_are_refused_under_their_key(key: str, bad: list[object]) -> None:
    """Booleans, non-numbers, NaN, infinities and what is out of range are faults of that very key."""
    taken = [value for value in bad if list(faults_of(**{key: value})) != [key]]

    assert taken == []


@pytest.mark.parametrize("key", ["content_layers", "style_layers"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("block1_conv2", {"block1_conv2": 1.0}),
        (["block1_conv2", "block5_conv4"], {"block1_conv2": 1.0, "block5_conv4": 1.0}),
        ({"block1_conv2": 3, "block5_conv4": "1e-2"}, {"block1_conv2": 3.0, "block5_conv4": 0.01}),
        ({"block1_conv2": 0, "block2_conv1": 1}, {"block1_conv2": 0.0, "block2_conv1": 1.0}),
        (list(LAYERS), dict.fromkeys(LAYERS, 1.0)),
    ],
)
def test_a_list_of_layers_means_equal_weights(key: str, value: object, expected: dict[str, float]) -> None:
    """Layers are given by name, as a list, or each with its weight; their order is kept."""
    assert list(value_of(key, value).items()) == list(expected.items())


@pytest.mark.parametrize("key", ["content_layers", "style_layers"])
@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        "block1_conv3",
        "block6_conv1",
        ["block1_conv1", "block1_conv1"],
        ["block1_conv1", 3],
        [["block1_conv1"]],
        {"block1_conv1": 0, "block1_conv2": 0},
        {"block1_conv1": 1e308, "block1_conv2": 1e308},
        {"block1_pool": 1},
        {1: 1},
        5,
        True,
        None,
    ],
    ids=repr,
)
def test_layers_that_do_not_exist_or_weigh_nothing_are_refused(key: str, value: object) -> None:
    """Unknown or repeated layers, and weights that cannot be scaled to sum to 1, are faults."""
    assert list(faults_of(**{key: value})) == [key]


@pytest.mark.parametrize("key", ["content_layers", "style_layers"])
@pytest.mark.parametrize(
    "weight", [-1, True, None, "x", float("nan"), float("inf"), "1e999", HUGE**2], ids=repr
)
def test_a_bad_weight_is_a_fault_of_its_layer(key: str, weight: object) -> None:
    """The fault names the layer, not only the mapping."""
    assert list(faults_of(**{key: {"block1_conv1": weight}})) == [f"{key}.block1_conv1"]


def test_there_are_sixteen_layers() -> None:
    """VGG19 has sixteen convolutions, and conv3 and conv4 only from the third block on."""
    assert len(LAYERS) == 16
    assert "block2_conv3" not in LAYERS
    assert LAYERS[-1] == "block5_conv4"


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "./a", "..", ".", "a\\b", "..\\..\\x", "a\0b", "/", "C:\\x"]
)
def test_a_path_is_no_name(name: str) -> None:
    """Anything that could lead out of the folder is refused with a reason of its own."""
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"init": name})

    (fault,) = explain(caught.value, Settings, "s.yaml")

    assert (fault.key, fault.reason) == ("init", Reason.PATH_OUTSIDE)


@pytest.mark.parametrize(
    ("size", "scales"),
    [
        (512, [128, 128]),
        (512, [256, 128]),
        (512, [512]),
        (512, [600]),
        (512, [128, 600]),
    ],
)
def test_scales_that_do_not_grow_are_refused(size: int, scales: list[int]) -> None:
    """Each scale is larger than the one before and smaller than the final size."""
    raw = [{"size": item, "iterations": 5} for item in scales]

    assert faults_of(size=size, scales=raw) == {
        "scales": "sizes that grow from one scale to the next and stay below the final size"
    }


def test_scales_are_taken_where_the_final_size_is_the_pictures_own() -> None:
    """With `size: original` the last comparison waits until the picture is known."""
    assert faults_of(size="original", scales=[{"size": 4000, "iterations": 5}]) == {}


@pytest.mark.parametrize(
    ("scale", "keys"),
    [
        ({"size": 15, "iterations": 5}, ["scales.1.size"]),
        ({"size": True, "iterations": 5}, ["scales.1.size"]),
        ({"size": "original", "iterations": 5}, ["scales.1.size"]),
        ({"size": 128, "iterations": 0}, ["scales.1.iterations"]),
        ({"size": 128}, ["scales.1.iterations"]),
        ({"size": 0, "iterations": 0, "x": 1}, ["scales.1.size", "scales.1.iterations", "scales.1.x"]),
        (128, ["scales.1"]),
    ],
)
def test_a_scales_faults_lie_at_its_place(scale: object, keys: list[str]) -> None:
    """A fault in a list names the entry and the key, and nothing of the types behind."""
    assert list(faults_of(scales=[{"size": 64, "iterations": 1}, scale])) == keys


def all_scales(height_px: int, width_px: int, **raw: Any) -> list[tuple[int, int]]:
    """List the sizes and iterations at which a content is painted."""
    settings = Settings.model_validate(raw)
    return [(scale.size, scale.iterations) for scale in settings.all_scales(height_px, width_px)]


def test_the_scales_end_with_the_final_size() -> None:
    """The sizes to paint at are the scales and then the size itself; `none` is that size alone."""
    scales = [{"size": 64, "iterations": 5}, {"size": 128, "iterations": 3}]

    assert all_scales(300, 400, size=256, iterations=2, scales=scales) == [(64, 5), (128, 3), (256, 2)]
    assert all_scales(300, 400, size="original", scales="none", iterations=100) == [(400, 100)]
    assert all_scales(300, 400, size="original", scales=scales, iterations=2)[-1] == (400, 2)


def test_scales_not_below_the_original_are_left_out() -> None:
    """With `size: original` only scales smaller than the picture are painted."""
    scales = [{"size": size, "iterations": 5} for size in (64, 100, 128)]

    assert all_scales(70, 100, size="original", scales=scales, iterations=2) == [(64, 5), (100, 2)]
    assert all_scales(30, 40, size="original", scales=scales, iterations=2) == [(40, 2)]


@pytest.mark.parametrize(
    ("size", "shape", "expected"),
    [
        (512, (450, 600), [(128, 56), (256, 28), (512, 18)]),
        (512, (600, 450), [(128, 56), (256, 28), (512, 18)]),
        (600, (450, 600), [(150, 56), (300, 28), (600, 18)]),
        (1024, (450, 600), [(128, 84), (256, 42), (512, 27), (1024, 18)]),
        (256, (450, 600), [(128, 36), (256, 18)]),
        (255, (450, 600), [(255, 18)]),
        (100, (450, 600), [(100, 18)]),
        (16, (450, 600), [(16, 18)]),
        ("original", (450, 600), [(150, 56), (300, 28), (600, 18)]),
        ("original", (90, 100), [(100, 18)]),
        (512, (60, 600), [(512, 18)]),  # a panorama: 25.6 px high at half of it
        (1024, (600, 60), [(512, 27), (1024, 18)]),
        (4096, (60, 600), [(512, 27), (1024, 18), (2048, 18), (4096, 18)]),
        (512, (32, 256), [(256, 28), (512, 18)]),  # exactly 32 px high
        (512, (31, 256), [(512, 18)]),
        (512, (0, 0), [(512, 18)]),  # of a picture that nobody could measure
    ],
)
def test_the_automatic_scales_halve_the_size(
    size: int | str, shape: tuple[int, int], expected: list[tuple[int, int]]
) -> None:
    """Halves of the size, long side 128 px or more, short side 32 or more; iterations as in the presets."""
    assert all_scales(*shape, size=size) == expected


@pytest.mark.parametrize(
    ("iterations", "expected"), [(1, [3, 2, 1]), (3, [9, 5, 3]), (100_000, [100_000, 100_000, 100_000])]
)
def test_the_automatic_scales_have_whole_iterations(iterations: int, expected: list[int]) -> None:
    """Shares of iterations are rounded, and never above what a sidecar may ask for."""
    assert [count for _, count in all_scales(384, 512, iterations=iterations)] == expected


@pytest.mark.parametrize(("every", "kept"), [(10, [0, 10, 20]), (1, list(range(21))), (0, []), (7, [0, 7, 14])])
def test_a_frame_is_kept_every_so_many_iterations(every: int, kept: list[int]) -> None:
    """Zero keeps none at all."""
    frames = Settings.model_validate({"frames": {"every": every}}).frames

    assert [iteration for iteration in range(21) if frames.keeps(iteration)] == kept


@pytest.mark.parametrize(
    ("raw", "keys"),
    [
        ({"frames": {"every": -1}}, ["frames.every"]),
        ({"frames": {"every": True}}, ["frames.every"]),
        ({"frames": {"every": 100_001}}, ["frames.every"]),
        ({"frames": {"animation": "mp4"}}, ["frames.animation"]),
        ({"frames": {"evry": 1}}, ["frames.evry"]),
        ({"frames": 10}, ["frames"]),
        ({"early_stop": {"improvement": 0}}, ["early_stop.improvement"]),
        ({"early_stop": {"improvement": 1}}, ["early_stop.improvement"]),
        ({"early_stop": {"improvement": True}}, ["early_stop.improvement"]),
        ({"early_stop": {"improvement": float("nan")}}, ["early_stop.improvement"]),
        ({"early_stop": {"iterations": 0}}, ["early_stop.iterations"]),
        ({"early_stop": {"iterations": True}}, ["early_stop.iterations"]),
        ({"early_stop": {"share": 1}}, ["early_stop.share"]),
        ({"output": {"format": "bmp"}}, ["output.format"]),
        ({"output": {"format": "PNG"}}, ["output.format"]),
        ({"output": {"quality": 0}}, ["output.quality"]),
        ({"output": {"quality": 101}}, ["output.quality"]),
        ({"output": {"quality": True}}, ["output.quality"]),
        ({"output": {"bits": 10}}, ["output.bits"]),
        ({"output": {"bits": True}}, ["output.bits"]),
        ({"output": {"format": "bmp", "bits": 16}}, ["output.format"]),
        ({"output": {"metadata": "gps"}}, ["output.metadata"]),
        ({"output": "png"}, ["output"]),
        ({"siz": 3}, ["siz"]),
    ],
)
def test_faults_inside_sections_have_their_path(raw: dict[str, object], keys: list[str]) -> None:
    """Keys of frames, output and early_stop are checked like all others."""
    assert list(faults_of(**raw)) == keys
