"""`schema`: the JSON Schemas, for completion in editors."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from daemon.config import Config
from daemon.sidecar import SidecarModel

Kind = StrEnum("Kind", ["SIDECAR", "CONFIG"])


def schema(kind: Annotated[Kind, typer.Argument(help="The kind of file.")]) -> None:
    """Print the JSON Schema of sidecars or of the config, for completion in editors."""
    model = SidecarModel if kind is Kind.SIDECAR else Config
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    typer.echo(json.dumps(document, indent=2))
