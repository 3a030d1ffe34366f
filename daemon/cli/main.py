"""The entry point: registers the commands and maps errors to exit codes."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from daemon import __version__
from daemon.cli import check, demo, jobs, run, selftest, status, stylize
from daemon.errors import ConfigError, DaemonError, JobError, NotReady

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_READY = 75  # EX_TEMPFAIL
EXIT_CONFIG = 78  # EX_CONFIG
_EXITS: dict[type, int] = {ConfigError: EXIT_CONFIG, NotReady: EXIT_NOT_READY}

UsageError: type[Any] = typer.BadParameter.__mro__[1]  # Click's; some versions of Typer contain their own Click

app = typer.Typer(name="styletransferd", no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"styletransferd {__version__}")
        raise typer.Exit


@app.callback()
def _styletransferd(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Repaint dropped photos in the style of dropped paintings."""


for command in (
    *(run.run, demo.demo, stylize.stylize, check.check, selftest.selftest, status.status, jobs.list_jobs),
    *(jobs.show, jobs.retry, jobs.cancel, jobs.hold, jobs.release, check.schema),
):
    app.command(command.__name__.removesuffix("_jobs"))(command)


def main() -> None:
    """Run one command; an error becomes one readable line on stderr and an exit code."""
    try:
        sys.exit(app(standalone_mode=False))
    except UsageError as error:
        _fail(error.format_message(), EXIT_USAGE)
    except (DaemonError, OSError) as error:
        hint = error.failure.hint if isinstance(error, JobError) else ""
        code = _EXITS.get(type(error), EXIT_FAILED)
        _fail(f"{error} ({hint})" if hint else str(error), code)


def _fail(message: str, code: int) -> None:
    sys.stderr.writelines(f"styletransferd: {line}\n" for line in message.splitlines())
    sys.exit(code)
