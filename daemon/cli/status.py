"""`status`: the state of the service, the queue, and what waits in the inbox and why."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import typer

from daemon.cli.options import ConfigOption, JsonOption, load

if TYPE_CHECKING:
    from daemon.config import Config

EXIT_STOPPED = 3
_STALE_S = 10
_SHOWN = 20


def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what the service is doing, the queue, and what waits in the inbox and why."""
    document = gather(load(config))
    if as_json:
        typer.echo(json.dumps(document))
    else:
        _print(document)
    raise typer.Exit(0 if document["running"] else EXIT_STOPPED)


def gather(config: Config) -> dict[str, Any]:
    """Combine the state that the service writes with the contents of the spool."""
    from daemon.job import State  # noqa: PLC0415 - after the config is known to be good
    from daemon.spool import Spool  # noqa: PLC0415

    spool = Spool(config.folders.spool)
    running = spool.is_locked()
    path = spool.root / "status.json"
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        age_s = time.time() - path.stat().st_mtime
    except (OSError, ValueError):
        document, age_s = {}, None
    if not running or "queue" not in document:
        queue = spool.entries(State.QUEUED)[:_SHOWN]
        document["queue"] = [{"id": entry.id, "name": entry.label} for entry in queue]
    document.update(
        running=running,
        state=document.get("state", "starting") if running else "stopped",
        job=document.get("job") if running else None,
        age_s=None if age_s is None else round(age_s, 1),
        is_stale=bool(running and age_s is not None and age_s > _STALE_S),
        counts={state.value: spool.count(state) for state in State},
    )
    document.setdefault("waiting", [])
    document.setdefault("paused", {})
    document.setdefault("opens_at", None)
    return document


def _print(document: dict[str, Any]) -> None:
    state = document["state"]
    typer.echo(
        f"styletransferd is {state}"
        + (" (but has not reported for {document['age_s']:.0f} s)" if document["is_stale"] else "")
    )
    for part, reason in document["paused"].items():
        typer.echo(f"  paused ({part}): {reason}")
    if document["opens_at"]:
        typer.echo(f"  no job is started before {document['opens_at']}")
    job = document["job"]
    if job:
        left = "" if job["eta_s"] is None else f", about {job['eta_s']:.0f} s left"
        typer.echo(f"  painting {job['name']}: iteration {job['iteration']} of {job['iterations']}{left}")
    typer.echo("  " + ", ".join(f"{count} {name}" for name, count in document["counts"].items()))
    for item in document["queue"]:
        typer.echo(f"  queued   {item['name']}")
    for item in document["waiting"][:_SHOWN]:
        typer.echo(f"  waiting  {item['path']}: {item['reason']}")
    more = document.get("waiting_count", 0) - _SHOWN
    if more > 0:
        typer.echo(f"  ... and {more} more waiting")
