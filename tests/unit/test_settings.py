"""What each key may hold, and how presets, house defaults and a sidecar lie over each other."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from daemon.errors import Reason
from daemon.faults import explain
from daemon.settings import LAYERS, PRESETS, Settings, merged

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


def faults_of(**raw: Any) -> dict[str, str]:
    """Validate, and give what would have been allowed a faulty key."""
    try:
        Settings.model_validate(raw)
    except ValidationError as error:
        return {fault.key: fault.allowed for fault in explain(error, Settings, "s.yaml")}
    return {}


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
        ("objective", "paper", "paper"),
        ("optimizer", "adam", "adam"),
        ("learning_rate", 1e-9, 1e-9),
        ("learning_rate", "1e3", 1000.0),
        ("content_weight", 0, 0.0),
        ("style_weight", "1e-2", 0.01),
        ("tv_weight", 5, 5.0),
        ("pooling", "avg", "avg"),
        ("init", "noise", "noise"),
        ("init", "my start.png", "my start.png"),
        ("init", "..jpg", "..jpg"),
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
        ("learning_rate", [*NO_NUMBER, 0, -2, "1e999", "nan"]),
        ("content_weight", [*NO_NUMBER, -1, "1e999", "inf"]),
        ("style_weight", [*NO_NUMBER, -0.01]),
        ("tv_weight", [*NO_NUMBER, -1]),
        ("seed", [*NO_NUMBER, -1, 2**63, HUGE, 0.5]),
        ("priority", [*NO_NUMBER, -1001, 1001, 0.5]),
        ("objective", [*NO_WORD, "balance"]),
        ("optimizer", [*NO_WORD, "sgd"]),
        ("pooling", NO_WORD),
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
        {"block1_conv1": -1},
        {"block1_conv1": True},
        {"block1_conv1": None},
        {"block1_conv1": "x"},
        {"block1_conv1": float("nan")},
        {"block1_conv1": float("inf")},
        {"block1_conv1": "1e999"},
        {"block1_conv1": HUGE**2},
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


def test_the_road_goes_over_the_scales_to_the_final_size() -> None:
    """The sizes to paint at are the scales and then the size itself."""
    scales = [{"size": 64, "iterations": 5}, {"size": 128, "iterations": 3}]

    settings = Settings.model_validate({"size": 256, "iterations": 2, "scales": scales})

    assert settings.road == ((64, 5), (128, 3), (256, 2))
    assert settings.total_iterations == 10
    assert Settings.model_validate({"size": "original", "scales": "none"}).road == (("original", 100),)


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
        ({"output": {"format": "bmp"}}, ["output.format"]),
        ({"output": {"format": "PNG"}}, ["output.format"]),
        ({"output": "png"}, ["output"]),
        ({"siz": 3}, ["siz"]),
    ],
)
def test_faults_inside_sections_have_their_path(raw: dict[str, object], keys: list[str]) -> None:
    """Keys of frames and output are checked like all others."""
    assert list(faults_of(**raw)) == keys


def test_the_defaults_are_the_papers() -> None:
    """Settings without any key are the paper's preset at 512 px."""
    assert Settings() == Settings.model_validate({**PRESETS["paper"], "scales": "auto"})
    assert (Settings().size, Settings().iterations, Settings().learning_rate) == (512, 100, 2.0)
    assert (Settings().content_weight, Settings().style_weight) == (1000.0, 0.01)
    assert Settings().content_layers == {"block5_conv2": 1.0}
    assert list(Settings().style_layers) == [f"block{block}_conv1" for block in range(1, 6)]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid(name: str) -> None:
    """A preset alone has no fault."""
    assert faults_of(**PRESETS[name]) == {}


@pytest.mark.parametrize(
    ("preset", "house", "own", "expected"),
    [
        (None, {}, {}, 100),
        (None, {"iterations": 7}, {}, 7),
        (None, {"preset": "preview"}, {}, 40),
        (None, {"preset": "preview", "iterations": 7}, {}, 7),
        ("preview", {"iterations": 7}, {}, 40),
        ("preview", {"iterations": 7}, {"iterations": 3}, 3),
        (None, {"iterations": 7}, {"iterations": 3}, 3),
        (None, {"iterations": 7}, {"iterations": None}, 7),
        ("preview", {"iterations": None}, {"iterations": None}, 40),
        ("nonsense", {"iterations": 7}, {}, 7),
    ],
)
def test_the_sidecar_lies_over_its_preset_over_the_house(
    preset: str | None, house: dict[str, Any], own: dict[str, Any], expected: int
) -> None:
    """Own keys, then the preset asked for, then the house's keys, then the house's preset; null is not set."""
    assert merged(preset, house, own)["iterations"] == expected


def test_sections_are_laid_over_key_by_key() -> None:
    """A sidecar that sets one key of frames keeps the house's other one."""
    house = {"frames": {"every": 3, "animation": "gif"}, "output": {"format": "webp"}}

    result = merged(None, house, {"frames": {"every": 5}})

    assert result["frames"] == {"every": 5, "animation": "gif"}
    assert result["output"] == {"format": "webp"}
    assert house["frames"] == {"every": 3, "animation": "gif"}


def test_layers_are_laid_over_whole() -> None:
    """A sidecar's layers replace the house's, they do not add to them."""
    house = {"style_layers": {"block1_conv1": 1}}

    assert merged(None, house, {"style_layers": {"block2_conv1": 1}})["style_layers"] == {"block2_conv1": 1}


def test_a_presets_scales_give_way_to_a_smaller_size() -> None:
    """`preset: fine` with a size of one's own has no fault; scales that a person wrote are not touched."""
    own = {"size": 512, "scales": [{"size": 512, "iterations": 100}]}

    assert merged("fine", {}, {})["scales"] == [{"size": 512, "iterations": 100}]
    assert merged("fine", {}, {"size": 513})["scales"] == [{"size": 512, "iterations": 100}]
    assert merged("fine", {}, {"size": 512})["scales"] == []
    assert merged("fine", {}, {"size": "original"})["scales"] == [{"size": 512, "iterations": 100}]
    assert merged("fine", {}, own)["scales"] == own["scales"]
