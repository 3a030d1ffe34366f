"""`schema`: the JSON Schemas, for completion in editors."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

Kind = StrEnum("Kind", ["SIDECAR", "CONFIG"])


def schema(kind: Annotated[Kind, typer.Argument(help="The kind of file.")]) -> None:
    """Print the JSON Schema of sidecars or of the config, for completion in editors."""
    from daemon.config import Config  # noqa: PLC0415 - only this command needs both
    from daemon.sidecar import SidecarModel  # noqa: PLC0415

    model = SidecarModel if kind is Kind.SIDECAR else Config
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    typer.echo(json.dumps(document, indent=2))
