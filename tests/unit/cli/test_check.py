"""The schemas that editors complete from describe what is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from daemon.cli.main import app
from daemon.config import Config
from daemon.settings import LAYERS
from daemon.sidecar import SidecarModel


def schema(kind: str) -> dict[str, Any]:
    """Run the command and read what it prints."""
    result = CliRunner().invoke(app, ["schema", kind])
    assert result.exit_code == 0
    return json.loads(result.stdout)


@pytest.mark.parametrize(("kind", "model"), [("sidecar", SidecarModel), ("config", Config)])
def test_a_schema_knows_every_key_and_no_other(kind: str, model: type[SidecarModel | Config]) -> None:
    """Each key has an entry, and unknown keys are marked as faults on every level."""
    document = schema(kind)

    assert set(document["properties"]) == set(model.model_fields)
    assert document["additionalProperties"] is False
    assert all(part["additionalProperties"] is False for part in document["$defs"].values())
    assert document["$schema"].startswith("https://json-schema.org/")
    assert "required" not in document


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
    assert all(item.get("description") for item in properties.values())


def test_an_unknown_kind_is_a_usage_error() -> None:
    """Exit code 2."""
    assert CliRunner().invoke(app, ["schema", "nonsense"]).exit_code == 2
