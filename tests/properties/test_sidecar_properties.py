"""Nothing a person can drop makes the reader of sidecars raise, and what it wrote it reads as it was."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from daemon import safe_yaml, sidecar
from daemon.errors import Reason
from daemon.job import EngineInfo, Job, Losses, Painting, Part
from daemon.outbox import record
from daemon.presets import PRESETS
from daemon.settings import LAYERS, MAX_SIZE_PX, Settings

KEYS = [
    *sidecar.SidecarModel.model_fields,
    "every",
    "animation",
    "format",
    "image",
    "weight",
    "iterations",
    "x",
]
# Surrogates as the file system gives them, for bytes that are no UTF-8.
LETTERS = st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]) | st.characters(
    min_codepoint=0xDC80, max_codepoint=0xDCFF
)
PLAIN_NAMES = st.text(LETTERS, min_size=1, max_size=20).filter(
    lambda name: name.strip() and name not in {".", ".."}
)
NAMES = PLAIN_NAMES | st.sampled_from(["..", "../x", "a/b", "a\\b", "", " ", "content", "style", "noise"])
WORDS = st.sampled_from(
    [
        "auto",
        "none",
        "original",
        "paper",
        "balanced",
        "adam",
        "lbfgs",
        "max",
        "avg",
        "png",
        "webp",
        *PRESETS,
        *LAYERS,
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**1023), 2**1023),
    st.integers(-20, 20_000),
    st.floats(),
    WORDS,
    NAMES,
)
ANYTHING = st.recursive(
    SCALARS | st.binary(max_size=4) | st.dates() | st.datetimes() | st.sets(st.integers(), max_size=2),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*KEYS, *LAYERS]) | st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=8,
)
SIDECARS = st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=6)

WEIGHTS = st.floats(0, 1e6, allow_nan=False)
LAYER_WEIGHTS = st.dictionaries(st.sampled_from(LAYERS), WEIGHTS, min_size=1).filter(
    lambda weights: sum(weights.values()) > 0
)
COUNTS = st.integers(1, 100_000)
EARLY_STOPS = st.fixed_dictionaries(
    {"improvement": st.floats(0, 1, exclude_min=True, exclude_max=True), "iterations": COUNTS}
)
REGIONS = st.fixed_dictionaries(
    {"content": PLAIN_NAMES, "style": PLAIN_NAMES, "weight": WEIGHTS}, optional={"style_mask": PLAIN_NAMES}
)


@st.composite
def valid_settings(draw: st.DrawFn) -> Settings:
    """Draw any settings a job can have."""
    sizes = sorted(draw(st.sets(st.integers(16, MAX_SIZE_PX), min_size=1, max_size=4)))
    scales = [{"size": size, "iterations": draw(COUNTS)} for size in sizes[:-1]]
    raw = {
        "size": draw(st.sampled_from([sizes[-1], "original"])),
        "iterations": draw(COUNTS),
        "scales": draw(st.sampled_from(["auto", "none", scales])),
        "strength": draw(st.floats(0, 1)),
        "objective": draw(st.sampled_from(["balanced", "paper"])),
        "optimizer": draw(st.sampled_from(["lbfgs", "adam"])),
        "learning_rate": draw(st.floats(0, 1e6, exclude_min=True)),
        **{key: draw(WEIGHTS) for key in ("content_weight", "style_weight", "tv_weight")},
        "match_weight": draw(st.floats(0, 1)),
        "style_scale": draw(st.floats(0.1, 4)),
        "preserve_color": draw(st.sampled_from(["none", "luminance", "match"])),
        **{key: draw(LAYER_WEIGHTS) for key in ("content_layers", "style_layers")},
        "pooling": draw(st.sampled_from(["max", "avg"])),
        "init": draw(PLAIN_NAMES | st.sampled_from(["content", "style", "noise"])),
        "init_colors": draw(st.sampled_from(["style", "content"])),
        "chroma_limit": draw(st.booleans()),
        "protect": draw(PLAIN_NAMES.map("{}.png".format) | st.just("none")),
        "regions": draw(st.lists(REGIONS, max_size=2)),
        "background": draw(st.just("auto") | st.integers(0, 0xFFFFFF).map("#{:06x}".format)),
        "alpha": draw(st.sampled_from(["keep", "flatten"])),
        "early_stop": draw(st.just(value=False) | EARLY_STOPS),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "frames": {
            "every": draw(st.integers(0, 100_000)),
            "animation": draw(st.sampled_from(["none", "webp", "gif"])),
        },
        "output": {"format": draw(st.sampled_from(["png", "jpeg", "webp", "tiff"]))},
        "priority": draw(st.integers(-1000, 1000)),
    }
    assert set(raw) == set(Settings.model_fields), "draw the new key here"
    return Settings.model_validate(raw)


STYLES = st.lists(st.tuples(PLAIN_NAMES, WEIGHTS, st.floats(0.1, 4)), min_size=1, max_size=4).filter(
    lambda styles: sum(weight for _, weight, _ in styles) > 0
)


def result_of(job: Job) -> bytes:
    """Write the result.yaml of a job that was painted."""
    losses = Losses(1.0, 0.5, 0.5)
    painting = Painting(np.zeros((16, 16, 3), np.uint8), 3, losses, losses, losses, 0.1, 1.0)
    info = EngineInfo("cpu", "float32", "bundled", "0" * 64, 0.5, {})
    return record.result(job, painting, info, 1, "2026-01-01T00:00:00Z", iterations=3, memory_estimate_mb=None)


HOLDING_ALL = sorted(PRESETS.keys() - {"sheet"})  # a sheet refuses some settings


@given(valid_settings(), PLAIN_NAMES, STYLES, st.sampled_from(HOLDING_ALL), st.sampled_from(list(PRESETS)))
def test_a_result_dropped_back_asks_for_the_same_again(
    settings: Settings, content: str, styles: list[tuple[str, float, float]], preset: str, house_preset: str
) -> None:
    """Settings, pictures and blend come back equal, whatever the house's defaults have become meanwhile."""
    named = [Part("content", content, "content", 1, 2, 3, 4, "0")]
    named += [Part("style", name, "style", 1, 2, 3, 4, "0", weight, scale) for name, weight, scale in styles]
    job = Job("0" * 16, 1, "s", ".", tuple(named), preset, settings, "2026-01-01T00:00:00Z")
    house = {
        "preset": house_preset,
        "size": 333,
        "frames": {"every": 7},
        "tv_weight": 9,
        "match_weight": 0.9,
        "output": {"format": "tiff"},
        "early_stop": {"iterations": 4},
        "learning_rate": 9,
    }
    text = result_of(job)
    assume(len(text) <= safe_yaml.MAX_BYTES)

    for read in (sidecar.parse(text, "result.yaml"), sidecar.parse(text, "result.yaml", house)):
        assert read.faults == ()
        assert read.settings == settings
        assert (read.content, read.preset) == (content, preset)
        expected = [(styles[0][0], 1.0, 1.0)] if len(styles) == styles[0][2] == 1 else styles
        assert [(style.image, style.weight, style.scale) for style in read.styles] == expected


@given(valid_settings(), PLAIN_NAMES, PLAIN_NAMES, st.text(LETTERS, max_size=9))
def test_a_job_survives_its_json(settings: Settings, name: str, stem: str, folder: str) -> None:
    """job.json reads back as the same job for any settings and names."""
    part = Part("content", name, "content", 1, 2, 2**63, -1, "0", 0.1, library=True)
    job = Job("0" * 16, 1, stem, folder, (part,), "paper", settings, "2026-01-01T00:00:00Z", None, {"a": "1"})

    assert Job.from_json(job.to_json()) == job


@given(st.binary(max_size=200) | st.text(string.printable + "ä\ufeff", max_size=200).map(str.encode))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    """A sidecar of any bytes is settings or faults, never both."""
    read = sidecar.parse(data, "s.yaml")

    assert (read.settings is None) == bool(read.faults)


@given(SIDECARS | ANYTHING, SIDECARS)
def test_no_data_makes_it_raise(raw: Any, house: dict[str, Any]) -> None:
    """Plain data of any shape is settings or faults, and all that is reported can be logged and recorded."""
    read = sidecar.read(raw, "s.yaml", house)

    assert (read.settings is None) == bool(read.faults)
    for fault in read.faults:
        assert str(fault).startswith("s.yaml")
        assert fault.allowed or fault.problem
        assert len(fault.found) <= 60
    safe_yaml.dump({"faults": [str(fault) for fault in read.faults]})


@given(SIDECARS)
def test_names_never_lead_out_of_the_folder(raw: dict[str, Any]) -> None:
    """No name in a good or a faulty sidecar is a path."""
    for name in sidecar.read(raw, "s.yaml").names:
        assert not set(name) & set("/\\\0")
        assert name not in {"", ".", ".."}


@given(NAMES, NAMES, NAMES)
def test_a_path_is_reported_with_its_reason(content: str, style: str, init: str) -> None:
    """Exactly the names with a separator or dots alone count as paths."""
    read = sidecar.read({"content": content, "style": style, "init": init}, "s.yaml")

    outside = {fault.key for fault in read.faults if fault.reason is Reason.PATH_OUTSIDE}
    given_names = {"content": content, "style": style, "init": init}
    assert outside == {
        key for key, name in given_names.items() if set(name) & set("/\\") or name in {".", ".."}
    }


@given(ANYTHING)
def test_no_default_of_the_house_makes_it_raise(value: Any) -> None:
    """Bad house defaults become faults under `defaults.`."""
    house = value if isinstance(value, dict) else {"size": value}

    for fault in sidecar.default_faults(house, "c.yaml"):
        assert fault.key.startswith("defaults.")
