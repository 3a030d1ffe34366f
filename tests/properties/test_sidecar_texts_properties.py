"""Whatever text a sidecar holds, what is read of it survives every file that it is written to."""

from __future__ import annotations

import datetime as dt
import math
import string
from typing import Any, Final

from damage import damaged, limited
from hypothesis import event, given
from hypothesis import strategies as st
from support import hostile

from daemon import safe_yaml, sidecar
from daemon.errors import Failure
from daemon.inbox import pairing
from daemon.job import Job
from daemon.outbox import record
from daemon.settings import Settings

FILES: Final = ["s.yaml", "s.content.png", "s.style.jpg", "a.png", "SUNSET.JPG", "wave.jpg"]
LIBRARY: Final = ["scream.jpg"]
ODD_WORDS: Final = [
    *("null", "true", "yes", "~", ".nan", "-.inf", "1e3", "1_000", "0x1F", "0o17", "017", "1:30", "-0"),
    *("2024-01-01", "2024-13-45", "2024-01-01T00:00:00Z", "!!binary aGk=", "!!set {a}", "!!int '3'"),
    *("!!str 3", "&a 1", "*a", "<<", "{}", "[]", "''", '"\\0"', '"\\uD800"', '"\\U0010FFFF"', "? a"),
    *("|\n  text", ">-\n  t", "../x", "/etc/passwd", "a/b", "a\\b", ".", "..", " ", "\u2028", "\x85", "é"),
    *("🌅", "% x", "@x", "`x`", "# x", "original", "auto", "none", "content", "noise", "paper", "preview"),
    *("fine", "block1_conv1", "block5_conv2", "0", "1", "-1", "16", "64", "512", "16384", "9" * 20, "0.5"),
    *("0.1", "1e-320", "1e999", "1.7976931e308"),
]
LAYERS: Final = ["block1_conv1", "[block1_conv1, block5_conv2]", "{block3_conv4: 0.25, block4_conv1: 1e3}"]
SOUND: Final = {
    "content": ["a.png", "sunset.jpg", "'5'", "é ☂.png", "~"],
    "style": ["wave.jpg", "[wave.jpg, {image: a.png, weight: 0.1}]", "[{image: scream.jpg}]", "null"],
    "preset": ["paper", "preview", "sheet", "fine", "default"],
    "size": ["16", "64", "'300'", "original", "1e+3", "0x40"],
    "iterations": ["1", "100", "100000", "'7'", "2.0"],
    "scales": ["auto", "none", "[{size: 16, iterations: 1}]", "[]"],
    "strength": ["0", "0.5", "1"],
    "objective": ["balanced", "paper"],
    "optimizer": ["lbfgs", "adam"],
    "learning_rate": ["2", "1e-9", "'0.5'", "1000000"],
    "content_weight": ["0", "1000", "1e+30"],
    "style_weight": ["0.01", "1_0", "1:30"],
    "content_layers": LAYERS,
    "style_layers": LAYERS,
    "tv_weight": ["0", "0.1", "1e-320"],
    "match_weight": ["0", "0.2", "1"],
    "style_scale": ["0.1", "1", "4"],
    "preserve_color": ["none", "luminance", "match"],
    "pooling": ["max", "avg"],
    "init": ["content", "style", "noise", "a.png"],
    "init_colors": ["style", "content"],
    "chroma_limit": ["true", "false"],
    "protect": ["none", "mask.png"],
    "regions": [
        "[]",
        "[{content: a.png, style: wave.jpg}]",
        "[{content: a.png, style: b.png, style_mask: c.png}]",
    ],
    "background": ["auto", "'#10fF00'", "[0, 255, 7]"],
    "alpha": ["keep", "flatten"],
    "early_stop": ["false", "{improvement: 0.01, iterations: 20}"],
    "seed": ["0", "9223372036854775807", "'12'"],
    "frames": ["{}", "{every: 0}", "{every: 3, animation: gif}", "{animation: none}"],
    "output": ["{format: tiff}", "{}", "{format: webp}"],
    "priority": ["-1000", "1000", "0"],
    "result": ["{id: x, losses: {first: 1.0}}", "{}", "null"],
}
WRONG_KEYS: Final = ["sise", "Size", "1", "null", "[a]", "content ", "<<"]
INNER_KEYS: Final = [
    "image",
    "weight",
    "scale",
    "style_mask",
    "size",
    "iterations",
    "every",
    "animation",
    "format",
    "block1_conv1",
]

VALUES: Final = st.recursive(
    st.sampled_from(ODD_WORDS) | st.text(string.printable + "éß\u0301\u202e\ufeff🌅", max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(st.sampled_from(INNER_KEYS + ODD_WORDS), inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        )
    ),
    max_leaves=6,
)


@st.composite
def composed(draw: st.DrawFn) -> bytes:
    """Write sound values for some keys, and anything for at most two more, one of which may be no key."""
    keys = draw(st.lists(st.sampled_from(list(SOUND)), unique=True, max_size=6))
    lines = [f"{key}: {draw(st.sampled_from(SOUND[key]))}" for key in keys]
    odd = st.tuples(st.sampled_from([*SOUND, *WRONG_KEYS]), VALUES)
    lines += [f"{key}: {value}" for key, value in draw(st.lists(odd, max_size=2))]
    return "".join(f"{line}\n" for line in draw(st.permutations(lines))).encode("utf-8", "surrogatepass")


DROPPED: Final = [next(reversed(case.files.values())) for case in hostile.bad_sidecars()]
SHORT: Final = st.sampled_from([data for data in DROPPED if len(data) < 5_000])
WORDS: Final = st.sampled_from([word.encode("utf-8", "surrogatepass") for word in [*ODD_WORDS, *SOUND]])
TEXTS: Final = composed() | damaged(composed() | SHORT | WORDS)


def test_every_key_has_sound_values() -> None:
    """A new key is drawn here too."""
    assert set(SOUND) == set(sidecar.SidecarModel.model_fields)


@given(TEXTS)
def test_any_text_becomes_settings_or_faults_that_can_be_published(data: bytes) -> None:
    """Settings survive YAML and job.json, faults survive error.yaml and job.json, and all within bounds."""
    with limited():
        read = sidecar.parse(data, "s.yaml")
        failure = Failure.of_faults(read.faults) if read.faults else None
        job = Job("0" * 16, 1, "s", "", (), read.preset, read.settings, "2026-01-01T00:00:00Z", failure)
        assert Job.from_json(job.to_json()) == job
        event("faulty" if failure else "sound")
        if failure:
            published = safe_yaml.parse(record.error(job, failure, 1, "now"))
            assert published["reason"] == failure.reason
            assert len(published["faults"]) == len(read.faults)
            return
        assert read.settings.all_scales(480, 640)[-1].iterations >= 1
        written = safe_yaml.dump(read.settings.model_dump(mode="json"))
        assert Settings.model_validate(safe_yaml.parse(written.encode())) == read.settings


@given(TEXTS)
def test_any_text_names_files_of_its_folder_only(data: bytes) -> None:
    """No name is a path or blank; a group has no file that is not there, and a complete one both pictures."""
    read = sidecar.parse(data, "s.yaml")
    for name in read.names:
        assert not set(name) & set("/\\\0")
        assert name.strip() not in {"", ".", ".."}
    group = pairing.pair_sidecar("s.yaml", read, pairing.Names(FILES), pairing.Names(LIBRARY))
    assert {part.name for part in group.parts} <= {*FILES, *LIBRARY}
    if not read.faults and not group.missing:
        assert {part.role for part in group.parts} >= {"content", "style"}


@given(TEXTS)
def test_any_text_is_plain_data_that_can_be_written_again_or_an_error_that_can_be_shown(data: bytes) -> None:
    """What parse() gives of any text survives dump(); a DocumentError has a message that can be encoded."""
    raw = _parsed(data)
    if isinstance(raw, safe_yaml.DocumentError):
        assert str(raw).encode("utf-8")
    elif isinstance(raw, dict) and _is_plain(raw):
        written = safe_yaml.dump(raw).encode()
        assert len(written) > safe_yaml.MAX_BYTES or safe_yaml.parse(written) == raw


def _parsed(data: bytes) -> Any:
    try:
        return safe_yaml.parse(data)
    except safe_yaml.DocumentError as error:
        return error


def _is_plain(value: Any) -> bool:
    """Whether records may consist of it, and it equals itself."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, float):
        return not math.isnan(value)
    return value is None or isinstance(value, str | bool | int) or type(value) is dt.date
