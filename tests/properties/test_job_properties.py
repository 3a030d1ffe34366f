"""Names of any kind become names that are safe, shown and sorted."""

from __future__ import annotations

import contextlib
import json
import re

from hypothesis import given
from hypothesis import strategies as st

from daemon.job import Job, Part, job_id, natural_key, printable, slug

NAMES = st.text() | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape"))
PARTS = st.builds(
    Part,
    st.just("content"),
    NAMES,
    st.just("content"),
    *[st.integers(0, 2**64)] * 3,
    st.integers(-(2**63), 2**63),
    st.text("0123456789abcdef", max_size=4),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["parts", "settings", "failure", "id"]), inner)
    ),
    max_leaves=6,
)


@given(NAMES)
def test_a_slug_is_safe_everywhere(name: str) -> None:
    """No shell, share or browser trips over it, and it fits into a name with its id."""
    assert re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,78}[A-Za-z0-9_])?", slug(name))


@given(NAMES)
def test_a_shown_name_is_printable_utf8(name: str) -> None:
    """What is logged has no control characters or line breaks, and can be encoded."""
    text = printable(name)

    assert text.isprintable()
    assert text.encode("utf-8").decode("utf-8") == text
    assert name.isprintable() <= (text == name)


@given(NAMES, NAMES)
def test_any_two_names_can_be_compared(one: str, other: str) -> None:
    """The order is total, whatever digits a name holds; names alike in it differ in case or zeros only."""
    first, second = natural_key(one), natural_key(other)

    assert (first < second) + (first == second) + (first > second) == 1


@given(st.text("abc", max_size=3), st.integers(0, 10**17), st.integers(0, 10**17), st.text("abc", max_size=3))
def test_numbers_sort_by_value(start: str, one: int, other: int, end: str) -> None:
    """Two names that differ in a number are in the order of the numbers."""
    first, second = f"{start}{one}{end}", f"{start}{other}{end}"

    assert (natural_key(first) < natural_key(second)) == (one < other)


@given(
    st.lists(PARTS, min_size=1, max_size=3, unique=True), st.lists(PARTS, min_size=1, max_size=3, unique=True)
)
def test_ids_tell_drops_apart(one: list[Part], other: list[Part]) -> None:
    """Equal parts, equal id; anything else, another."""

    def facts(parts: list[Part]) -> list[tuple[object, ...]]:
        return [(part.name, *part.stamp, part.sha256) for part in parts]

    assert re.fullmatch("[0-9a-f]{16}", job_id(tuple(one)))
    assert (job_id(tuple(one)) == job_id(tuple(other))) == (facts(one) == facts(other))


@given(st.binary() | PLAIN.map(lambda data: json.dumps(data).encode()))
def test_what_is_no_job_raises_one_of_three_errors(text: bytes) -> None:
    """Only ValueError, KeyError and TypeError leave from_json()."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        Job.from_json(text)
