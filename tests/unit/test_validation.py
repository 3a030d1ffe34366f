"""Pydantic's errors become faults that a person can act on."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import ValidationError

from daemon.errors import Reason
from daemon.settings import Model, PlainName
from daemon.validation import explain, shown, suggestion, unknown_key


class Point(Model):
    """A model with a key that must be there."""

    x: int


class Leaf(Model):
    """A model inside."""

    color: Literal["red", "blue"] = "red"
    width: int = 1
    at: Point | None = None


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
        ({"laef": 1}, {"laef": ("1", "leaf, leaves, name", "did you mean 'leaf'?")}),
        (
            {"leaf": {"colr": 1}},
            {"leaf.colr": ("1", "color, width, at", "did you mean 'color'?")},
        ),
        (
            {"leaves": [{}, {"widht": 2}]},
            {"leaves.1.widht": ("2", "color, width, at", "did you mean 'width'?")},
        ),
        ({"zzz": 1}, {"zzz": ("1", "leaf, leaves, name", "known: leaf, leaves, name")}),
        ({"leaf": {"color": "rad"}}, {"leaf.color": ("'rad'", "one of red, blue", "did you mean 'red'?")}),
        ({"leaf": {"color": 7}}, {"leaf.color": ("7", "one of red, blue", "")}),
        ({"leaf": 3}, {"leaf": ("3", "keys and values (color, width, at)", "")}),
        ({"leaves": [3]}, {"leaves.0": ("3", "keys and values (color, width, at)", "")}),
        ({"leaf": {"width": []}}, {"leaf.width": ("[]", "a whole number", "")}),
        ({"name": ""}, {"name": ("''", "the name of a file in the same folder", "")}),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_fault_says_found_allowed_and_did_you_mean(raw: object, expected: object) -> None:
    """Each kind of fault carries its key path and the words of the very model it lies in."""
    assert faults_of(raw) == expected


def test_all_faults_come_at_once() -> None:
    """No fault hides another."""
    raw = {"leaf": {"color": "green", "width": "x", "depth": 1}, "leaves": 3, "name": "a/b", "extra": 1}

    assert set(faults_of(raw)) == {"leaf.color", "leaf.width", "leaf.depth", "leaves", "name", "extra"}


def test_a_refusal_carries_its_reason() -> None:
    """A validator's own reason reaches the fault."""
    with pytest.raises(ValidationError) as caught:
        Root.model_validate({"name": "../x"})

    (fault,) = explain(caught.value, Root, "f.yaml")

    assert fault.reason is Reason.PATH_OUTSIDE
    assert fault.file == "f.yaml"


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ({"leaf": {"widht": 2}}, "unknown key 'leaf.widht' (did you mean 'width'?)"),
        ({"zzz": 1}, "unknown key 'zzz' (known: leaf, leaves, name)"),
        ({"leaf": {"width": "x"}}, "leaf.width: found 'x', but it must be a whole number"),
        ({"leaf": {"width": 1.5}}, "leaf.width: found 1.5, but it must be a whole number"),
        (
            {"leaf": {"color": "rad"}},
            "leaf.color: found 'rad', but it must be one of red, blue (did you mean 'red'?)",
        ),
        ({"leaf": 3}, "leaf: found 3, but it must be keys and values (color, width, at)"),
        ({"leaves": 3}, "leaves: found 3, but it must be a list"),
        ({"leaves": [{"at": {}}]}, "missing key 'leaves.0.at.x'"),
        ({"name": 3}, "name: found 3, but it must be the name of a file in the same folder"),
    ],
    ids=str,
)
def test_a_fault_is_one_sentence(raw: object, line: str) -> None:
    """File, key path, what was found, what is allowed and what may be meant read as one sentence."""
    with pytest.raises(ValidationError) as caught:
        Root.model_validate(raw)

    assert [str(fault) for fault in explain(caught.value, Root, "f.yaml")] == [f"f.yaml: {line}"]


def test_many_known_keys_are_listed_only_in_full() -> None:
    """A line stays short; `in_full` lists every key."""
    fault = unknown_key("f.yaml", "zzz", "1", [f"key{number}" for number in range(20)])

    assert str(fault) == "f.yaml: unknown key 'zzz' (`styletransferd check --verbose` lists the known keys)"
    assert fault.in_full().endswith("; allowed: " + fault.allowed)
    assert "key19" in fault.allowed


def test_long_values_are_shown_short_and_on_one_line() -> None:
    """A value is quoted with at most sixty characters and no line break."""
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 1000)) == 60
    assert shown("x" * 1000).endswith("…")


def test_only_a_near_word_is_suggested() -> None:
    """A typo is recognized, another word is not."""
    assert suggestion("iteratons", ["size", "iterations"]) == "did you mean 'iterations'?"
    assert suggestion("color", ["size", "iterations"]) == ""
