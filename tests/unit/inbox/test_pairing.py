"""Names in one folder become groups: by the sidecar's words, by convention, or as a bare pair."""

from __future__ import annotations

import unicodedata

import pytest

from daemon import sidecar
from daemon.inbox import pairing
from daemon.inbox.pairing import Group, Names
from daemon.job import Part

NFC = unicodedata.normalize("NFC", "fête.jpg")
NFD = unicodedata.normalize("NFD", "fête.jpg")


def pair(text: str, names: list[str], *, name: str = "sunset.yaml", library: list[str] | None = None) -> Group:
    """Pair one sidecar with what lies beside it."""
    read = sidecar.parse(text.encode(), name)
    return pairing.pair_sidecar(name, read, Names([name, *names]), Names(library or []))


def members(group: Group) -> list[tuple[str, str]]:
    """List roles and names."""
    return [(part.role, part.name) for part in group.parts]


@pytest.mark.parametrize("name", ["a.yaml", "a.yml", "A.YAML", "a.b.Yml"])
def test_sidecars_are_recognized_by_their_suffix(name: str) -> None:
    """Either suffix counts, in any case."""
    assert pairing.is_sidecar(name)


@pytest.mark.parametrize("name", ["a.jpg", "yaml", "a.yaml.jpg", "a.yamls", ".yaml"])
def test_other_files_are_no_sidecars(name: str) -> None:
    """Only the last suffix counts, and a name needs more than it."""
    assert not pairing.is_sidecar(name)


def test_pictures_are_found_by_the_convention() -> None:
    """An empty sidecar takes NAME.content.* and NAME.style.* of its own name."""
    group = pair("", ["sunset.content.jpg", "sunset.style.png", "other.content.jpg", "sunset.jpg"])

    assert members(group) == [
        ("sidecar", "sunset.yaml"),
        ("content", "sunset.content.jpg"),
        ("style", "sunset.style.png"),
    ]
    assert (group.stem, group.missing, group.trigger) == ("sunset", (), "sunset.yaml")


@pytest.mark.parametrize(
    ("sidecar_name", "content"),
    [
        ("Sunset.yaml", "SUNSET.Content.JPG"),
        ("a.b.yaml", "a.b.content.tar.jpg".replace(".tar", "")),
        (unicodedata.normalize("NFC", "fête.yaml"), unicodedata.normalize("NFD", "fête.content.jpg")),
    ],
)
def test_the_convention_sees_through_case_and_accents(sidecar_name: str, content: str) -> None:
    """Case and the form of accents do not part files that belong together."""
    group = pair("style: s.jpg", [content, "s.jpg"], name=sidecar_name)

    assert members(group)[1] == ("content", content)


@pytest.mark.parametrize(
    "name", ["sunset.content", "sunset.content.yaml", "sunset.contents.jpg", "content.jpg"]
)
def test_what_only_resembles_the_convention_is_not_taken(name: str) -> None:
    """A picture's name ends in a suffix after the role, and no sidecar is a picture."""
    assert pair("style: s.jpg", [name, "s.jpg"]).missing == ("sunset.content.*",)


def test_two_candidates_are_none() -> None:
    """Which of two pictures is meant, nobody guesses; the waiting says which two."""
    group = pair("style: s.jpg", ["sunset.content.png", "sunset.content.jpg", "s.jpg"])

    assert group.missing == ("only one of sunset.content.jpg, sunset.content.png",)


def test_names_in_the_sidecar_come_before_the_convention() -> None:
    """What the sidecar names is taken, what lies by convention beside it is not."""
    group = pair("{content: a.jpg, style: b.jpg}", ["a.jpg", "b.jpg", "sunset.content.jpg", "sunset.style.jpg"])

    assert members(group)[1:] == [("content", "a.jpg"), ("style", "b.jpg")]


def test_a_named_picture_that_is_missing_is_waited_for() -> None:
    """The convention does not stand in for a name."""
    group = pair("{content: a.jpg, style: b.jpg, init: c.jpg}", ["b.jpg", "sunset.content.jpg"])

    assert group.missing == ("a.jpg", "c.jpg")
    assert group.local_names == {"sunset.yaml", "a.jpg", "b.jpg", "c.jpg"}


def test_a_blend_keeps_order_weights_and_scales() -> None:
    """Several styles are members in the sidecar's order, each with its weight and its scale."""
    styles = "[{image: z, weight: 2}, b, {image: c, weight: 0, scale: 0.5}]"
    group = pair(f"{{content: a, style: {styles}}}", ["a", "b", "c", "z"])

    assert group.parts[2:] == (
        Part("style", "z", weight=2.0),
        Part("style", "b", weight=1.0),
        Part("style", "c", weight=0.0, scale=0.5),
    )


@pytest.mark.parametrize(
    ("written", "names", "found"),
    [
        ("a.jpg", ["a.jpg"], "a.jpg"),
        ("a.jpg", ["A.JPG"], "A.JPG"),
        ("a.jpg", ["a.jpg", "A.jpg"], "a.jpg"),
        ("a.jpg", ["A.jpg", "a.JPG"], None),
        ("STRASSE.jpg", ["straße.jpg"], "straße.jpg"),
        (NFC, [NFD], NFD),
        (NFD, [NFC], NFC),
        (NFC, [NFD, NFC], NFC),
        (NFC.upper(), [NFD], NFD),
        ("a.jpg", ["a.jpeg", "b.jpg"], None),
        ("\udcff.JPG", ["\udcff.jpg"], "\udcff.jpg"),
        ("a.jpg", [], None),
    ],
)
def test_a_name_is_found_exactly_or_as_the_only_one_alike(
    written: str, names: list[str], found: str | None
) -> None:
    """Case and accents are forgiven where that leaves one file; an exact match comes first."""
    assert pairing.find(written, Names(names)) == found


def test_the_library_lends_styles_that_are_not_in_the_folder() -> None:
    """A style beside the sidecar comes first; content and start never come from the library."""
    library = ["wave.jpg", "scream.jpg", "photo.jpg"]

    group = pair(
        "{content: photo.jpg, style: [Wave.jpg, scream.jpg], init: scream.jpg}", ["scream.jpg"], library=library
    )

    assert Part("style", "wave.jpg", weight=1.0, library=True) in group.parts
    assert Part("style", "scream.jpg", weight=1.0, library=False) in group.parts
    assert group.missing == ("photo.jpg",)
    assert "wave.jpg" not in group.local_names
    assert group.parts[-1] == Part("init", "scream.jpg")


def test_a_mask_is_found_beside_the_sidecar_alone() -> None:
    """A mask is a member in a role of its own, and is no picture of the library."""
    text = "{content: a, style: b, protect: Mask.png}"

    assert members(pair(text, ["a", "b", "mask.png"]))[-1] == ("protect", "mask.png")
    assert pair(text, ["a", "b"], library=["mask.png"]).missing == ("Mask.png",)


def test_regions_come_with_their_files() -> None:
    """Their paintings may lie in the library, their masks may not; what is missing is waited for."""
    text = "{content: a, style: b, regions: [{content: m, style: w, style_mask: n}]}"

    roles = ["region_content", "region_style", "region_style_mask"]
    group = pair(text, ["a", "b", "m", "n"], library=["w"])
    assert members(group)[3:] == list(zip(roles, "mwn", strict=True))
    assert [part.library for part in group.parts[3:]] == [False, True, False]
    assert pair(text, ["a", "b"], library=["m", "n"]).missing == ("m", "w", "n")


def test_the_library_knows_no_convention() -> None:
    """A sidecar that names no style does not find one in the library."""
    assert pair("content: a", ["a"], library=["sunset.style.jpg"]).missing == ("sunset.style.*",)


def test_a_faulty_sidecar_takes_along_what_is_there_and_waits_for_nothing() -> None:
    """Its drop fails at once, with those of its pictures that exist."""
    group = pair("{content: a.jpg, style: [b.jpg, gone.jpg], size: 1}", ["a.jpg", "b.jpg"])

    assert members(group)[1:] == [("content", "a.jpg"), ("style", "b.jpg")]
    assert group.missing == ()
    assert group.local_names == {"sunset.yaml", "a.jpg", "b.jpg"}


def test_a_sidecar_that_cannot_be_read_takes_along_what_the_convention_names() -> None:
    """Broken YAML still stands for the pictures of its own name."""
    group = pair("size: [", ["sunset.content.jpg", "sunset.style.jpg", "other.jpg"])

    assert [name for _, name in members(group)] == ["sunset.yaml", "sunset.content.jpg", "sunset.style.jpg"]


def test_bare_pairs_are_found() -> None:
    """A content and a style of the same name make a group without a sidecar."""
    names = ["a.content.jpg", "A.Style.png", "b.content.jpg", "c.style.jpg", "x.jpg"]
    (group,) = pairing.pair_bare(names, [], [])

    assert members(group) == [("content", "a.content.jpg"), ("style", "A.Style.png")]
    assert (group.stem, group.sidecar, group.trigger) == ("a", None, "a.content.jpg")


@pytest.mark.parametrize(
    ("names", "claimed"),
    [
        (["a.content.jpg", "a.style.jpg", "a.yaml"], []),
        (["a.content.jpg", "a.style.jpg", "A.YML"], []),
        (["a.content.jpg", "a.style.jpg"], ["a.content.jpg"]),
        (["a.content.jpg", "a.style.jpg"], ["a.style.jpg"]),
        (["a.content.jpg", "a.content.png", "a.style.jpg"], []),
        (["a.content.jpg", "a.style.jpg", "A.style.jpg"], []),
        (["a.content.jpg", "b.style.jpg"], []),
    ],
    ids=[
        "own sidecar",
        "sidecar in capitals",
        "content claimed",
        "style claimed",
        "2 contents",
        "2 styles",
        "others",
    ],
)
def test_no_bare_pair_is_guessed(names: list[str], claimed: list[str]) -> None:
    """A pair that a sidecar speaks for, or that is not unique, is left alone."""
    assert pairing.pair_bare(names, claimed, []) == []
