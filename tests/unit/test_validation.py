"""Pydantic's errors become faults that a person can act on."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import ValidationError

from daemon.errors import Reason
from daemon.settings import Model, PlainName
from daemon.validation import explain, shown, suggestion


class Leaf(Model):
    """A model inside."""

    colour: Literal["red", "blue"] = "red"
    width: int = 1


class Root(Model):
    """A model with others inside it, directly, in a list and optionally."""

    leaf: Leaf = Leaf()
    leaves: list[Leaf] | None = None
    name: PlainName = "x"


def faults_of(raw: Any) -> dict[str, tuple[str, str, str]]:
    """Validate what must fail, and give found, allowed and hint a key."""
    with pytest.raises(ValidationError) as caught:
        Root.model_validate(raw)
    return {
        fault.key: (fault.found, fault.allowed, fault.hint) for fault in explain(caught.value, Root, "f.yaml")
    }


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"laef": 1}, {"laef": ("1", "no such key, but leaf, leaves, name", "did you mean 'leaf'?")}),
        (
            {"leaf": {"colur": 1}},
            {"leaf.colur": ("1", "no such key, but colour, width", "did you mean 'colour'?")},
        ),
        (
            {"leaves": [{}, {"widht": 2}]},
            {"leaves.1.widht": ("2", "no such key, but colour, width", "did you mean 'width'?")},
        ),
        ({"zzz": 1}, {"zzz": ("1", "no such key, but leaf, leaves, name", "")}),
        ({"leaf": {"colour": "rad"}}, {"leaf.colour": ("'rad'", "red, blue", "did you mean 'red'?")}),
        ({"leaf": {"colour": 7}}, {"leaf.colour": ("7", "red, blue", "")}),
        ({"leaf": 3}, {"leaf": ("3", "keys and values out of colour, width", "")}),
        ({"leaves": [3]}, {"leaves.0": ("3", "keys and values out of colour, width", "")}),
        ({"leaf": {"width": []}}, {"leaf.width": ("[]", "a valid integer", "")}),
        ({"name": ""}, {"name": ("''", "the name of a file in the same folder", "")}),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_fault_says_found_allowed_and_did_you_mean(raw: object, expected: object) -> None:
    """Each kind of fault carries its key path and the words of the very model it lies in."""
    assert faults_of(raw) == expected


def test_all_faults_come_at_once() -> None:
    """No fault hides another."""
    raw = {"leaf": {"colour": "green", "width": "x", "depth": 1}, "leaves": 3, "name": "a/b", "extra": 1}

    assert set(faults_of(raw)) == {"leaf.colour", "leaf.width", "leaf.depth", "leaves", "name", "extra"}


def test_a_refusal_carries_its_reason() -> None:
    """A validator's own reason reaches the fault."""
    with pytest.raises(ValidationError) as caught:
        Root.model_validate({"name": "../x"})

    (fault,) = explain(caught.value, Root, "f.yaml")

    assert fault.reason is Reason.PATH_OUTSIDE
    assert fault.file == "f.yaml"


def test_long_values_are_shown_short_and_on_one_line() -> None:
    """A value is quoted with at most sixty characters and no line break."""
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 1000)) == 60
    assert shown("x" * 1000).endswith("…")


def test_only_a_near_word_is_suggested() -> None:
    """A typo is recognised, another word is not."""
    assert suggestion("iteratons", ["size", "iterations"]) == "did you mean 'iterations'?"
    assert suggestion("colour", ["size", "iterations"]) == ""
