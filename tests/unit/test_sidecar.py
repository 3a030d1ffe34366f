"""A sidecar's text becomes settings and names, or all its faults at once."""

from __future__ import annotations

import pytest

from daemon import sidecar
from daemon.errors import Fault, Reason
from daemon.presets import PRESETS
from daemon.settings import EarlyStop, Settings
from daemon.sidecar import Sidecar

PATHS = ["../../etc/passwd", "/etc/passwd", "sub/a.jpg", "..", ".", "a\\b.jpg", "C:\\a.jpg", "../a.jpg"]


def parse(text: str, **house: object) -> Sidecar:
    """Read a sidecar's text."""
    return sidecar.parse(text.encode(), "s.yaml", house)


def keys(read: Sidecar) -> list[str]:
    """Name the keys at fault."""
    return [fault.key for fault in read.faults]


def blend(read: Sidecar) -> list[tuple[str, float]]:
    """List the style pictures with their weights."""
    return [(style.image, style.weight) for style in read.styles]


def test_an_empty_file_asks_for_all_defaults() -> None:
    """A sidecar may be empty: it is the trigger, and the convention names the pictures."""
    assert parse("") == Sidecar(None, (), None, "default", Settings())


def test_names_and_settings_are_read() -> None:
    """The pictures a sidecar names are kept apart from its settings."""
    read = parse("{content: a.jpg, style: b.jpg, init: c.png, size: 256, preset: paper}")

    assert (read.content, blend(read), read.init, read.preset) == ("a.jpg", [("b.jpg", 1.0)], "c.png", "paper")
    assert read.names == ("a.jpg", "c.png", "b.jpg")
    assert read.settings == Settings.model_validate({**PRESETS["paper"], "size": 256, "init": "c.png"})


@pytest.mark.parametrize("word", ["content", "style", "noise"])
def test_words_for_the_start_are_no_file_names(word: str) -> None:
    """`init: noise` waits for no file called noise."""
    assert parse(f"init: {word}").init is None
    assert parse(f"init: {word}").names == ()
    assert parse(f"init: {word}\nx: fault").init is None


def test_a_mask_is_a_picture_of_the_drop() -> None:
    """A mask is waited for like any picture; the words are no file names; a near miss is asked about."""
    assert (parse("protect: m.png").mask, parse("protect: m.png").names) == ("m.png", ("m.png",))
    assert parse("protect: m.png\nx: fault").names == ("m.png",)
    assert parse("protect: none").names == parse("protect: none\nx: fault").names == ()
    assert parse("protect: face").faults[0].hint == "did you mean 'faces'?"


def test_regions_name_masks_and_paintings() -> None:
    """Each file has its role, also in a faulty sidecar; faults have their place and what may be meant."""
    second = "{content: k.png, style: w.jpg, weight: 2}"
    text = f"regions: [{{content: m.png, style: w.jpg, style_mask: n.png}}, {second}]"
    read = parse(text)
    assert read.settings.regions[1].weight == 2
    files = [("region_content", "m.png"), ("region_style", "w.jpg"), ("region_style_mask", "n.png")]
    files += [("region_content", "k.png"), ("region_style", "w.jpg")]
    assert list(read.region_files) == files
    assert list(parse(f"{text}\nx: fault").region_files) == files[:-1]  # each is copied once
    assert [style.image for style in parse("style: [a.png, a.png, b.png]\nx: fault").styles] == [
        "a.png",
        "b.png",
    ]
    faulty = parse("regions: [{content: ../m.png, styl: w.jpg, weight: -1}, 3]")
    found = {fault.key: fault for fault in faulty.faults}
    assert set(found) == {
        "regions.0.content",
        "regions.0.style",
        "regions.0.styl",
        "regions.0.weight",
        "regions.1",
    }
    assert found["regions.0.styl"].hint == "did you mean 'style'?"
    assert found["regions.0.content"].reason is Reason.PATH_OUTSIDE
    (many,) = parse(f"regions: [{', '.join(17 * [second])}]").faults  # each takes seconds to compile
    assert str(many).endswith("regions: found 17 of them, but it must be at most 16")


def test_only_a_sidecars_own_wish_for_faces_needs_a_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, `protect: faces` is a fault with a hint, unless a preset or the house asks."""
    monkeypatch.setattr(sidecar, "can_find_faces", lambda: False)
    (fault,) = parse("protect: faces").faults
    assert (fault.key, "pip install 'opencv-python-headless<5'" in fault.hint) == ("protect", True)
    assert keys(parse("protect: faces\nsize: 1")) == ["size", "protect"]
    (fault,) = sidecar.default_faults({"protect": "faces"}, "c.yaml")
    assert fault.key == "defaults.protect"
    for text in ("", "preset: fine"):
        assert sidecar.parse(text.encode(), "s.yaml", {"protect": "faces"}).faults == ()
    monkeypatch.setattr(sidecar, "can_find_faces", lambda: True)
    assert parse("protect: faces").faults == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("style: a.jpg", [("a.jpg", 1.0)]),
        ("style: [a.jpg, b.jpg]", [("a.jpg", 1.0), ("b.jpg", 1.0)]),
        ("style: {image: a.jpg, weight: 3}", [("a.jpg", 3.0)]),
        ("style: [{image: a, weight: 2}, {image: b}, c]", [("a", 2.0), ("b", 1.0), ("c", 1.0)]),
        ("style: [{image: a.jpg, weight: 0}, b.jpg]", [("a.jpg", 0.0), ("b.jpg", 1.0)]),
        ("style: null", []),
    ],
)
def test_styles_are_one_name_or_a_blend(text: str, expected: list[tuple[str, float]]) -> None:
    """A name, a list of names, and names with weights may be mixed; none of them is dropped."""
    assert parse(text).faults == ()
    assert blend(parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("style: []", "style"),
        ("style: 3", "style"),
        ("style: ''", "style"),
        ("style: [a.jpg, 3]", "style"),
        ("style: [a.jpg, '']", "style.1.image"),
        ("style: [{image: a.jpg, weight: -1}]", "style.0.weight"),
        ("style: [{image: a.jpg, weight: yes}]", "style.0.weight"),
        ("style: [{image: a.jpg, weight: .nan}]", "style.0.weight"),
        ("style: [{image: a.jpg, weight: .inf}]", "style.0.weight"),
        ("style: [{weight: 1}]", "style.0.image"),
        ("style: [{image: a.jpg, wieght: 1}]", "style.0.wieght"),
        ("style: [{image: a.jpg, weight: 0}]", "style"),
        ("style: [{image: a.jpg, weight: 0}, {image: b.jpg, weight: 0}]", "style"),
        ("style: [{image: a.jpg, weight: 1.0e+308}, {image: b.jpg, weight: 1.0e+308}]", "style"),
        ("content: 3", "content"),
        ("content: ''", "content"),
        ("content: [a.jpg]", "content"),
        ("init: [a.jpg]", "init"),
        ("init: {a: b}", "init"),
        ("preset: papr", "preset"),
        ("preset: [paper]", "preset"),
        ("result: 3", "result"),
        ("priorty: 3", "priorty"),
        ("frames: {every: -1}", "frames.every"),
    ],
)
def test_a_fault_is_reported_under_its_key(text: str, key: str) -> None:
    """Each bad value gives one fault with the path to it, and no settings."""
    read = parse(text)

    assert keys(read) == [key]
    assert read.settings is None
    assert read.faults[0].file == "s.yaml"


def test_a_misspelt_layer_is_asked_after() -> None:
    """A layer that does not exist brings the range of those that do, and the most similar one."""
    (fault,) = parse("style_layers: [block1_conv1, blok2_conv1]").faults

    assert "VGG19 layers from block1_conv1 to block5_conv4" in str(fault)
    assert fault.hint == "did you mean 'block2_conv1'?"


@pytest.mark.parametrize("path", PATHS)
def test_paths_out_of_the_folder_have_their_own_reason(path: str) -> None:
    """Content, style, a style of a blend, init and a mask are plain names, whatever way around is tried."""
    text = f"content: '{path}'\nstyle: ['{path}', {{image: '{path}'}}]\ninit: '{path}'\nprotect: '{path}'"
    read = parse(text)

    assert sorted(keys(read)) == ["content", "init", "protect", "style.0.image", "style.1.image"]
    assert {fault.reason for fault in read.faults} == {Reason.PATH_OUTSIDE}
    assert read.names == ()
    assert parse(f"style: '{path}'").faults[0].reason is Reason.PATH_OUTSIDE


def test_three_faults_come_at_once_with_all_that_is_known_of_them() -> None:
    """Key, value, what is allowed, and a suggestion for the misspelt key."""
    read = parse("content: a.jpg\niteratons: 50\nsize: 12\noutput: {format: jpg}")
    faults = {fault.key: fault for fault in read.faults}

    size = "a number of pixels from 16 to 16384, or original"
    assert faults["size"] == Fault("s.yaml", "size", "12", size, line=3)
    formats, hint = "one of png, jpeg, webp, tiff, avif", "did you mean 'jpeg'?"
    assert faults["output.format"] == Fault("s.yaml", "output.format", "'jpg'", formats, hint, line=4)
    assert faults["iteratons"].hint == "did you mean 'iterations'?"
    assert faults["iteratons"].found == "50"
    assert len(faults) == 3


@pytest.mark.parametrize(
    ("text", "found"),
    [("[1, 2]", "[1, 2]"), ("3", "3"), ("just words", "'just words'"), ("- a: 1", "[{'a': 1}]")],
)
def test_a_sidecar_is_keys_and_values(text: str, found: str) -> None:
    """A list or a lone word is one fault of the whole file."""
    (fault,) = parse(text).faults

    assert (fault.key, fault.found) == ("", found)


@pytest.mark.parametrize("text", ["1: 2", "2001-01-01: x", "true: x", "null: x", "1.5: x", "1:", "~: ~"])
def test_keys_are_words(text: str) -> None:
    """A number, a date or a boolean as a key is a fault of that key."""
    (fault,) = parse(text).faults

    assert str(fault).startswith(f"s.yaml: a key that is not text: {fault.key!r}")
    assert fault.key != ""


def test_text_that_is_no_yaml_is_one_fault_with_its_place() -> None:
    """What the reader refuses comes out as a fault that names line and column."""
    (fault,) = parse("content: a.jpg\nsize: [").faults

    assert (fault.file, fault.key) == ("s.yaml", "")
    assert "line 2" in str(fault)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{content: a.jpg, style: b.jpg, init: c.jpg, size: 1}", ("a.jpg", "c.jpg", "b.jpg")),
        ("{content: a, style: [b, {image: c}, 3, {image: 4}, {x: y}], size: 1}", ("a", "b", "c")),
        ("{content: ../a.jpg, style: b.jpg}", ("b.jpg",)),
        ("{content: a.jpg, style: {image: b.jpg, weight: x}}", ("a.jpg", "b.jpg")),
        ("{content: [a.jpg], style: 3, init: [x]}", ()),
        ("{content: a.jpg, init: {a: b}}", ("a.jpg",)),
        ("{content: a.jpg, 1: 2}", ("a.jpg",)),
        ("[a.jpg]", ()),
    ],
)
def test_a_faulty_sidecar_keeps_its_valid_names(text: str, names: tuple[str, ...]) -> None:
    """The pictures of a faulty drop are kept with it if their names are valid."""
    read = parse(text)

    assert read.faults
    assert read.names == names


def test_null_means_not_set() -> None:
    """Every key may be null, and then has the value it would have without being there."""
    text = "\n".join(f"{key}: null" for key in sidecar.SidecarModel.model_fields)

    assert parse(text) == parse("")
    assert parse(text, size=256).settings == parse("", size=256).settings


def test_house_defaults_lie_under_the_sidecar() -> None:
    """The house's keys count where the sidecar is silent, and its preset where the sidecar names none."""
    house = {"size": 256, "frames": {"animation": "gif"}, "preset": "paper"}

    read = parse("{frames: {every: 3}, seed: 5}", **house)

    assert (read.settings.size, read.settings.seed, read.settings.iterations) == (256, 5, 100)
    assert read.settings.frames.model_dump() == {"every": 3, "animation": "gif"}
    assert read.preset == "paper"
    assert parse("preset: fine", **house).preset == "fine"


def test_a_sidecar_can_turn_off_the_early_stop_of_the_config() -> None:
    """`early_stop: false` counts as set, null does not: the config's rule applies only where nothing is set."""
    house = {"early_stop": {"iterations": 3}}
    texts = ("early_stop: false", "early_stop: null", "early_stop: {improvement: 0.5}")

    said, silent, other = (parse(text, **house).settings for text in texts)

    assert said.early_stop is False
    assert silent.early_stop == EarlyStop(iterations=3)
    assert other.early_stop == EarlyStop(improvement=0.5)


def test_a_record_under_result_has_no_effect() -> None:
    """What result.yaml adds is read over."""
    assert parse("{size: 256, result: {id: abc, size: 512, strange: [1]}}") == parse("size: 256")


def test_the_house_may_not_name_pictures() -> None:
    """Defaults that name one job's pictures, and faulty ones, are faults of the config."""
    house = {"content": "a.jpg", "style": "b.jpg", "result": {}, "sizee": 3, "seed": -1, "pooling": "avg"}

    faults = sidecar.default_faults(house, "c.yaml")

    assert [fault.key for fault in faults] == [
        *("defaults.content", "defaults.style", "defaults.result", "defaults.seed", "defaults.sizee")
    ]
    assert {fault.file for fault in faults} == {"c.yaml"}
    assert faults[-1].hint == "did you mean 'size'?"
    assert sidecar.default_faults({"size": 256, "preset": "fine"}, "c.yaml") == ()


def test_a_sheet_is_small() -> None:
    """Many paintings, large pictures, frames and an objective without strength are faults in a sheet alone."""
    for keys_, faulty in (
        (f"size: 512, style: {[f'{number}.jpg' for number in range(8)]}", []),
        (f"size: 513, style: {[f'{number}.jpg' for number in range(9)]}", ["style", "size"]),
        ("size: original, objective: paper, frames: {every: 5}", ["size", "objective", "frames.every"]),
    ):
        assert keys(parse(f"{{preset: sheet, {keys_}}}")) == faulty
        assert keys(parse(f"{{{keys_}}}", preset="sheet")) == faulty
        assert keys(parse(f"{{{keys_}}}")) == []
