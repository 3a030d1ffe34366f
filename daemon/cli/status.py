"""`status`: the state of the service, the queue, and what waits in the inbox and why."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import typer

from daemon.cli.options import ConfigOption, JsonOption, load
from daemon.job import State
from daemon.spool import Spool, lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.config import Config

EXIT_STOPPED = 3
_STALE_S = 10
_SHOWN = 20
_MINUTES_S = 100  # from here on a time is shown in minutes


def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what the service is doing, the queue, and what waits in the inbox and why."""
    document = gather(load(config))
    typer.echo(json.dumps(document) if as_json else "\n".join(lines(document)))
    raise typer.Exit(0 if document["running"] else EXIT_STOPPED)


def gather(config: Config) -> dict[str, Any]:
    """Combine the state that the service writes with the contents of the spool."""
    spool = Spool(config.folders.spool)
    running = lock.is_locked(spool.root)
    path = spool.root / "status.json"
    document: dict[str, Any] = {"waiting": [], "paused": {}, "opens_at": None}
    age_s = None
    with contextlib.suppress(OSError, ValueError):  # not written yet
        document |= json.loads(path.read_bytes())
        age_s = time.time() - path.stat().st_mtime
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
    return document


def lines(document: dict[str, Any]) -> Iterator[str]:
    """Yield the document's lines for people."""
    stale = f" (but has not reported for {document['age_s']:.0f} s)" if document["is_stale"] else ""
    yield f"styletransferd is {document['state']}{stale}"
    yield from (f"  paused ({part}): {reason}" for part, reason in document["paused"].items())
    if document["opens_at"]:
        yield f"  no job is started before {document['opens_at']}"
    job = document["job"]
    if job:
        done = f"iteration {job['iteration']} of {job['iterations']}"
        yield f"  painting {job['name']}: {done}{_left(job['eta_s'])}"
    yield "  " + ", ".join(f"{count} {name}" for name, count in document["counts"].items())
    yield from (f"  queued   {item['name']}{_left(item.get('eta_s'))}" for item in document["queue"])
    yield from (f"  waiting  {item['path']}: {item['reason']}" for item in document["waiting"][:_SHOWN])
    more = document.get("waiting_count", 0) - _SHOWN
    if more > 0:
        yield f"  ... and {more} more waiting"


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f", about {seconds:.0f} s left" if seconds < _MINUTES_S else f", about {seconds / 60:.0f} min left"
