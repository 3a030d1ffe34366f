"""The schemas that editors complete from describe what is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from daemon.cli.main import app
from daemon.config import Config
from daemon.settings import LAYERS
from daemon.sidecar import SidecarModel

ROOT = Path(__file__).parents[3]
each_kind = pytest.mark.parametrize(("kind", "model"), [("sidecar", SidecarModel), ("config", Config)])


def schema(kind: str) -> dict[str, Any]:
    """Run the command and read what it prints."""
    result = CliRunner().invoke(app, ["schema", kind])
    assert result.exit_code == 0
    return json.loads(result.stdout)


@each_kind
def test_a_schema_knows_every_key_and_no_other(kind: str, model: type[SidecarModel | Config]) -> None:
    """Each key has an entry, and unknown keys are marked as faults on every level."""
    document = schema(kind)

    assert set(document["properties"]) == set(model.model_fields)
    assert document["additionalProperties"] is False
    assert all(part["additionalProperties"] is False for part in document["$defs"].values())
    assert document["$schema"].startswith("https://json-schema.org/")
    assert "required" not in document


@each_kind
def test_a_shipped_schema_is_the_programs_own(kind: str, model: type[SidecarModel | Config]) -> None:
    """The file in docs/schema/ is what the command prints, and what the examples name for editors."""
    shipped = ROOT / f"docs/schema/{kind}.schema.json"
    assert json.loads(shipped.read_bytes()) == schema(kind), "CONTRIBUTING.md says how to write it again"
    for path in (ROOT / "examples").glob("*.yaml") if kind == "sidecar" else [ROOT / "config.example.yaml"]:
        named = path.read_text("utf-8").partition("\n# yaml-language-server: $schema=")[2].partition("\n")[0]
        assert (path.parent / named).samefile(shipped), path


@each_kind
def test_every_key_has_a_description_and_examples(kind: str, model: type[SidecarModel | Config]) -> None:
    """On every level; and the examples of the first are values that are accepted."""
    document = schema(kind)
    levels = [document, *document["$defs"].values()]
    if kind == "sidecar":
        levels.append(document["properties"]["style"]["anyOf"][1]["items"]["anyOf"][1])  # one of several styles
    for level in levels:
        for key, item in level["properties"].items():
            section = document["$defs"].get(item.get("$ref", "").rpartition("/")[2], {})
            assert {**section, **item}["description"], key
            assert item["examples"], key
    for key, example in [
        (key, one) for key, item in document["properties"].items() for one in item["examples"]
    ]:
        model.model_validate({key: example})


def test_the_sidecars_schema_lists_words_and_ranges() -> None:
    """Presets, layers and sizes are there to be completed."""
    properties = schema("sidecar")["properties"]
    allowed = {key: item["anyOf"] for key, item in properties.items()}

    assert allowed["preset"][0]["enum"] == ["default", "paper", "preview", "sheet", "fine"]
    assert allowed["size"][0] == {"type": "integer", "minimum": 16, "maximum": 16384}
    assert allowed["style_layers"][0]["items"]["enum"] == list(LAYERS)
    assert allowed["iterations"] == [{"type": "integer", "minimum": 1, "maximum": 100_000}, {"type": "null"}]
    assert {"type": "string"} in allowed["style"]
    assert all(items.count({"type": "null"}) == 1 for items in allowed.values())


def test_an_unknown_kind_is_a_usage_error() -> None:
    """Exit code 2."""
    assert CliRunner().invoke(app, ["schema", "nonsense"]).exit_code == 2
