"""`run`: the service, or with --drain a nightly batch."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer

from daemon.cli.options import ConfigOption, load
from daemon.config import CLOCK
from daemon.errors import DaemonError

EXIT_DEFECT = 70  # EX_SOFTWARE


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)


def run(
    config: ConfigOption = None,
    drain: Annotated[bool, typer.Option("--drain", help="Work off what is there, then exit.")] = False,
    stop_starting_at: Annotated[
        str | None,
        typer.Option(
            metavar="HH:MM", help="With --drain: start no job from then on; end after the running one."
        ),
    ] = None,
) -> None:
    """Watch the inbox until stopped; with --drain, work off what is there and exit."""
    from daemon import logs  # noqa: PLC0415 - `status` starts faster without them
    from daemon.service import signals  # noqa: PLC0415 - `status` starts faster without them

    if stop_starting_at is not None and not (drain and re.fullmatch(CLOCK, stop_starting_at)):
        raise typer.BadParameter(
            "needs --drain, and a time of the day such as 06:00", param_hint="--stop-starting-at"
        )
    loaded = load(config)
    logs.configure(loaded.log.level, loaded.log.format)
    # A terminal that is closed sends SIGHUP as well, and means an end.
    reload = None if sys.stdin is not None and sys.stdin.isatty() else lambda: load(config)
    try:
        code = signals.run(loaded, drains=drain, stop_starting_at=stop_starting_at, reload=reload)
    except DaemonError:
        raise
    except Exception:  # noqa: BLE001 - a defect, which must not look like a night with some failed jobs
        sys.excepthook(*sys.exc_info())
        code = EXIT_DEFECT
    logs.close()
    raise typer.Exit(code)
