"""How presets, house defaults and a sidecar lie over each other."""

from __future__ import annotations

from typing import Any

import pytest
from support.faulty import faults_of

from daemon.presets import PRESETS, merged
from daemon.settings import Settings


@pytest.mark.parametrize("format_", ["jpeg", "webp", "avif"])
def test_sixteen_bits_are_for_formats_that_hold_them(format_: str) -> None:
    """In any other the house's do not apply, and a sidecar's are refused; the fault says which do."""
    house = {"output": {"bits": 16}}
    assert merged(None, house, {"output": {"format": "tiff"}})["output"] == {"format": "tiff", "bits": 16}
    assert merged(None, house, {"output": {"format": format_}})["output"] == {"format": format_}
    found = faults_of(**merged(None, house, {"output": {"format": format_, "bits": 16}}))
    assert found["output.bits"] == f"8 for {format_}; 16 bits are for png and tiff"


def test_the_defaults_are_the_default_presets() -> None:
    """Settings without any key are the default preset's at 512 px; an empty sidecar means the same."""
    assert Settings() == Settings.model_validate(PRESETS["default"])
    assert Settings() == Settings.model_validate(merged(None, {}, {}))
    found = Settings()
    assert (found.size, found.iterations, found.strength, found.scales) == (512, 18, 0.5, "auto")
    assert (found.objective, found.optimizer, found.learning_rate) == ("balanced", "lbfgs", 2.0)
    assert found.content_layers == {"block4_conv2": 1.0}
    assert list(found.style_layers) == [f"block{block}_conv1" for block in range(1, 6)]
    assert (found.init, found.init_colors, found.early_stop) == ("content", "style", False)
    assert found.chroma_limit


def test_the_papers_preset_is_the_papers() -> None:
    """`preset: paper` sets every number of the paper, whatever the defaults are."""
    found = Settings.model_validate(PRESETS["paper"])
    assert (found.iterations, found.scales, found.objective, found.optimizer) == (100, "none", "paper", "adam")
    assert (found.learning_rate, found.content_weight, found.style_weight) == (2.0, 1000.0, 0.01)
    assert (found.tv_weight, found.pooling, found.init, found.init_colors) == (0.0, "max", "content", "content")
    assert not found.chroma_limit
    assert found.content_layers == {"block5_conv2": 1.0}
    assert list(found.style_layers) == [f"block{block}_conv1" for block in range(1, 6)]


def test_a_preset_leaves_no_key_of_another() -> None:
    """A preset over a house of another one gives what it gives alone: each sets every key that counts."""
    free = {"size", "seed", "early_stop", "frames", "output", "priority"}
    unseen = {
        "learning_rate",
        "strength",
        "content_weight",
        "style_weight",
    }  # another optimiser's or objective's
    for name, keys in PRESETS.items():
        for other in PRESETS.values():
            over = Settings.model_validate(merged(name, dict(other), {}))
            alone = Settings.model_validate(keys)
            differs = {key for key in Settings.model_fields if getattr(over, key) != getattr(alone, key)}
            assert differs <= free | unseen, name


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid(name: str) -> None:
    """A preset alone has no fault."""
    assert faults_of(**PRESETS[name]) == {}


@pytest.mark.parametrize(
    ("preset", "house", "own", "expected"),
    [
        (None, {}, {}, 18),
        (None, {"iterations": 7}, {}, 7),
        (None, {"preset": "paper"}, {}, 100),
        (None, {"preset": "paper", "iterations": 7}, {}, 7),
        ("paper", {"iterations": 7}, {}, 100),
        ("paper", {"iterations": 7}, {"iterations": 3}, 3),
        (None, {"iterations": 7}, {"iterations": 3}, 3),
        (None, {"iterations": 7}, {"iterations": None}, 7),
        ("paper", {"iterations": None}, {"iterations": None}, 100),
        ("nonsense", {"iterations": 7}, {}, 7),
    ],
)
def test_the_sidecar_lies_over_its_preset_over_the_house(
    preset: str | None, house: dict[str, Any], own: dict[str, Any], expected: int
) -> None:
    """Own keys, then the preset asked for, then the house's keys, then the house's preset; null is not set."""
    assert merged(preset, house, own)["iterations"] == expected


@pytest.mark.parametrize(
    ("house", "own", "size"), [("preview", "default", 512), ("fine", "paper", 512), ("fine", None, 1024)]
)
def test_a_named_preset_has_its_own_size(house: str, own: str | None, size: int) -> None:
    """The house's preset takes no part where the sidecar names one."""
    assert Settings.model_validate(merged(own, {"preset": house}, {})).size == size


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


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [16, 512, 16384, "original"])
def test_a_preset_takes_any_size(preset: str, size: int | str) -> None:
    """No preset names a coarse size that a size of one's own could stumble over."""
    assert faults_of(**merged(preset, {}, {"size": size})) == {}


def test_scales_that_a_person_wrote_are_not_touched() -> None:
    """Own scales are taken as they are, and are a fault where they do not stay below the size."""
    own = {"size": 512, "scales": [{"size": 512, "iterations": 100}]}

    assert merged("fine", {}, own)["scales"] == own["scales"]
    assert list(faults_of(**merged("fine", {}, own))) == ["scales"]


@pytest.mark.parametrize(
    ("size", "kept"),
    [(1024, [256, 512]), (512, [256]), (256, []), ("original", [256, 512]), ("huge", [256, 512])],
)
def test_scales_of_the_house_end_below_a_sidecars_size(size: int | str, kept: list[int]) -> None:
    """A sidecar that asks for a smaller picture gets no faults for scales that only the config names."""
    house = {"size": 2048, "scales": [{"size": item, "iterations": 5} for item in (256, 512)]}
    found = merged(None, house, {"size": size})
    assert [scale["size"] for scale in found["scales"]] == kept
    assert set(faults_of(**found)) == ({"size"} if size == "huge" else set())
    assert len(house["scales"]) == 2


def test_faulty_scales_of_the_house_stay_faults() -> None:
    """An entry that is no scale, or is not below the size beside it, is reported as it is."""
    for scales in ([{"size": 512, "iterations": 5}], [7], [{"size": "x"}]):
        house = {"size": 512, "scales": scales}
        assert merged(None, house, {"iterations": 3})["scales"] == scales
        assert merged(None, {}, house)["scales"] == scales
