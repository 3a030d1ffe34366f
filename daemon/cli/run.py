"""`run`: the service, or with --drain a nightly batch."""

from __future__ import annotations

from typing import Annotated

import typer

from daemon.cli.options import ConfigOption, load


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)


def run(
    config: ConfigOption = None,
    drain: Annotated[bool, typer.Option("--drain", help="Work off what is there, then exit.")] = False,
) -> None:
    """Watch the inbox until stopped; with --drain, work off what is there and exit."""
    from daemon import logs, service  # noqa: PLC0415 - `status` starts faster without them

    loaded = load(config)
    logs.configure(loaded.log.level, loaded.log.format)
    code = service.run(loaded, drains=drain)
    logs.close()
    raise typer.Exit(code)
