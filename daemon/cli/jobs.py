"""`list`, `show` and the operator's verbs; each is one rename or one small file, so no service is needed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon import safe_yaml
from daemon.cli.options import ConfigOption, JsonOption, load
from daemon.errors import DaemonError
from daemon.job import State
from daemon.spool import Spool, lock

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.spool import StoredJob

_JOB_HELP = "A job's id, the start of its id, or its name in the outbox."
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help=_JOB_HELP)]
StateOption = Annotated[State | None, typer.Option("--state", help="Only jobs in this state.")]


def _find(config: Path | None, prefix: str, *states: State) -> tuple[Spool, StoredJob]:
    """Find the one job with an id, a prefix of its id, or a name, in one of the states if some are given."""
    spool = Spool(load(config).folders.spool)
    found = spool.find(prefix)
    if len(found) > 1:
        raise DaemonError(f"{prefix}: more than one job matches: {', '.join(entry.id for entry in found)}")
    if not found:
        raise DaemonError(f"{prefix}: no such job")
    (entry,) = found
    if states and entry.state not in states:
        raise DaemonError(f"{entry.label} is {entry.state}, not {' or '.join(states)}")
    return spool, entry


def _summary(entry: StoredJob) -> dict[str, Any]:
    failure = entry.failure if entry.state is State.FAILED else None
    return {
        "id": entry.id,
        "state": entry.state.value,
        "name": entry.label,
        "priority": entry.job.priority if entry.job else 0,
        "accepted_at": entry.job.accepted_at if entry.job else None,
        "attempts": entry.attempts_used,
        "reason": failure.reason.value if failure else None,
    }


def list_jobs(state: StateOption = None, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List jobs in any state, or in one."""
    spool = Spool(load(config).folders.spool)
    found = [_summary(entry) for each in ([state] if state else State) for entry in spool.entries(each)]
    found.sort(key=lambda item: item["accepted_at"] or "")
    if as_json:
        typer.echo(json.dumps(found))
        return
    for item in found:
        typer.echo(f"{item['id']}  {item['state']:<8}{item['name']}  {item['reason'] or ''}".rstrip())


def show(job: JobArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show everything about one job."""
    _, entry = _find(config, job)
    document = _summary(entry) | {"folder": str(entry.folder), "history": entry.attempts}
    if accepted := entry.job:
        settings = accepted.settings
        document["preset"] = accepted.preset
        document["settings"] = settings.model_dump(mode="json") if settings else None
        document["inputs"] = accepted.inputs_on_record()
    if entry.state is State.FAILED and (failed := entry.failure):
        document["failure"] = {"message": failed.message, "hint": failed.hint, "help": failed.reason.help}
    typer.echo(json.dumps(document) if as_json else safe_yaml.dump(document).rstrip())


def retry(job: JobArgument, config: ConfigOption = None) -> None:
    """Queue a failed job again, with its attempts counted from zero."""
    spool, entry = _find(config, job, State.FAILED)
    if entry.job is None:
        raise DaemonError(f"{entry.id}: its record cannot be read, so it cannot be retried")
    typer.echo(f"{spool.retry(entry).label}: queued again")


def cancel(job: JobArgument, config: ConfigOption = None) -> None:
    """Cancel a queued, held or running job; it ends as failed and can be retried."""
    spool, entry = _find(config, job, State.QUEUED, State.HELD, State.RUNNING)
    spool.ask_cancel(entry)
    when = "within seconds" if lock.is_locked(spool.root) else "when the service starts"
    typer.echo(f"{entry.label}: will be cancelled {when}")


def hold(job: JobArgument, config: ConfigOption = None) -> None:
    """Do not start a queued job until it is released."""
    spool, entry = _find(config, job, State.QUEUED)
    typer.echo(f"{spool.hold(entry).label}: held")


def release(job: JobArgument, config: ConfigOption = None) -> None:
    """Return a held job to the queue."""
    spool, entry = _find(config, job, State.HELD)
    typer.echo(f"{spool.release(entry).label}: queued")
