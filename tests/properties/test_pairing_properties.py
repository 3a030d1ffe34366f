"""Pairing neither invents nor loses files, whatever the names."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from daemon import sidecar
from daemon.inbox import pairing
from daemon.inbox.pairing import Names

STEMS = st.text("aAäÄ\u0308\udcffß1. -", min_size=1, max_size=4)
NAMES = st.one_of(
    st.builds(
        "{}{}{}".format,
        STEMS,
        st.sampled_from(["", ".content", ".style", ".Content"]),
        st.sampled_from(["", ".jpg", ".JPG", ".yaml", ".yml"]),
    ),
    st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=8),
)
FOLDERS = st.lists(NAMES, unique=True, max_size=10)


@given(FOLDERS, NAMES, st.sampled_from(["", "content: a.jpg", "size: 1", "["]), FOLDERS)
def test_a_group_consists_of_what_is_there(names: list[str], name: str, text: str, library: list[str]) -> None:
    """Each member lies in the folder or the library, and a group is complete or says what it misses."""
    name += ".yaml"
    names = [*names, name]

    group = pairing.pair_sidecar(name, sidecar.parse(text.encode(), name), Names(names), Names(library))

    assert group.trigger == name
    for part in group.parts:
        assert part.name in (library if part.library else names)
    roles = [part.role for part in group.parts]
    if not group.missing and not sidecar.parse(text.encode(), name).faults:
        assert roles.count("content") == 1
        assert roles.count("style") == 1


@given(FOLDERS)
def test_no_file_is_in_two_bare_pairs(names: list[str]) -> None:
    """Bare pairs are disjoint, of existing files, and never of sidecars."""
    groups = pairing.pair_bare(names, [], [])

    used = [part.name for group in groups for part in group.parts]
    assert len(used) == len(set(used)) == 2 * len(groups)
    assert set(used) <= set(names)
    assert not any(map(pairing.is_sidecar, used))


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1))
def test_a_copied_name_is_still_found(name: str) -> None:
    """A name is found again after any system has composed or decomposed its accents."""
    for form in ("NFC", "NFD"):
        copied = unicodedata.normalize(form, name)
        assert pairing.find(name, Names([copied])) == copied
        assert pairing.find(copied, Names([name])) == name


@given(st.text("abcdefghijklmnopqrstuvwxyzäöüéñ", min_size=1))
def test_a_name_in_capitals_is_still_found(name: str) -> None:
    """Case is forgiven, with accents composed or not."""
    decomposed = unicodedata.normalize("NFD", name.upper())

    assert pairing.find(name, Names([decomposed])) == decomposed
