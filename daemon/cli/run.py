"""`run`: the service until it is stopped, or with --drain one batch."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.options import ConfigOption, load
from daemon.config import CLOCK
from daemon.errors import DaemonError

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import Config

EXIT_DEFECT = 70  # EX_SOFTWARE


def run(
    config: ConfigOption = None,
    drain: Annotated[bool, typer.Option("--drain", help="Process everything waiting, then exit.")] = False,
    stop_starting_at: Annotated[
        str | None,
        typer.Option(metavar="HH:MM", help="With --drain: start no job from then on; finish the running one."),
    ] = None,
) -> None:
    """Watch the inbox until stopped; with --drain, process everything waiting and exit."""
    from daemon import logs  # noqa: PLC0415 - `status` starts faster without it

    if stop_starting_at is not None and not (drain and re.fullmatch(CLOCK, stop_starting_at)):
        raise typer.BadParameter("--stop-starting-at needs --drain and a time of day such as 06:00")
    loaded = load(config)
    logs.configure(loaded.log.level, loaded.log.format)
    # On a terminal SIGHUP means that it was closed: the service stops instead of reloading its config.
    reload = None if sys.stdin is not None and sys.stdin.isatty() else lambda: load(config)
    code = serve(loaded, drains=drain, stop_starting_at=stop_starting_at, reload=reload)
    logs.close()
    raise typer.Exit(code)


def serve(
    config: Config,
    *,
    drains: bool = False,
    stop_starting_at: str | None = None,
    reload: Callable[[], Config] | None = None,
) -> int:
    """Run the service, and give its exit code; a defect has its own, unlike a night with some failed jobs."""
    from daemon.service import service, signals  # noqa: PLC0415 - `status` starts faster without it

    try:
        made = service.Service(config, drains=drains, stop_starting_at=stop_starting_at)
        return signals.run(made, reload)
    except DaemonError:
        raise
    except Exception:  # noqa: BLE001 - whatever it is, it is logged
        sys.excepthook(*sys.exc_info())
        return EXIT_DEFECT
