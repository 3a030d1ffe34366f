"""Figures for a monitoring system: a file for node_exporter's textfile collector.

The format is Prometheus' text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). What is not
known has no line: a missing figure can be alerted on, a made-up one cannot.
"""

from __future__ import annotations

import contextlib
import math
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from daemon import __version__, clock, files
from daemon.job import State

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from daemon.outbox.publish import Outbox
    from daemon.service.status import Situation
    from daemon.spool import Spool
    from daemon.worker.attempt import Attempts

    Sample = tuple[dict[str, str], float | None]  # labels, value
    Family = tuple[str, str, list[Sample]]  # name, help, samples

_PREFIX: Final = "styletransferd_"


def collect(spool: Spool, outbox: Outbox, situation: Situation, attempts: Attempts) -> list[Family]:
    """Find out every figure that is known at this moment; raises OSError where the spool cannot be read."""
    info, progress = situation.info, next(iter(attempts.progress()), None)
    about = {"version": __version__, **{name: getattr(info, name, "") for name in ("device", "precision")}}
    started = time.time() - (time.monotonic() - situation.started)
    oldest = spool.oldest(State.QUEUED)
    accepted_at = datetime.fromisoformat(oldest.job.accepted_at) if oldest and oldest.job else None
    waited_s = (clock.utc() - accepted_at).total_seconds() if accepted_at else None
    pauses = [
        {"part": part, "kind": pause.kind} for part, pause in sorted(situation.backoff.pauses.copy().items())
    ]
    iteration_s = progress.iteration_s if progress else None
    ratio = progress.iteration / progress.iterations if progress else None
    rooms = {}
    for name, folder in (("spool", spool.root), ("outbox", outbox.root)):
        with contextlib.suppress(OSError):  # a share that is away has no figure
            rooms[name] = files.room(folder)
    return [
        ("info", "Version, device and precision of the running service.", [(about, 1)]),
        ("start_time_seconds", "Unix time of the start.", _one(started)),
        ("jobs", "Jobs in the spool.", _by("state", {state: spool.count(state) for state in State})),
        ("oldest_queued_age_seconds", "How long the oldest queued job waits.", _one(waited_s)),
        ("last_scan_timestamp_seconds", "Unix time of the last look at the inbox.", _one(situation.last_scan)),
        ("watcher_up", "Whether file events arrive.", _one(situation.is_watcher_up)),
        ("window_open", "Whether jobs may be started now.", _one(situation.opens_at is None)),
        ("paused", "Parts that wait for the environment.", [(labels, 1) for labels in pauses]),
        ("attempts_total", "Attempts that ended since the start.", _by("outcome", attempts.endings.copy())),
        ("free_bytes", "Free space.", _by("folder", {name: room.size for name, room in rooms.items()})),
        ("free_inodes", "Free inodes.", _by("folder", {name: room.entries for name, room in rooms.items()})),
        ("iteration_seconds", "What an iteration of the current job takes.", _one(iteration_s)),
        ("job_progress_ratio", "How much of the current job is done.", _one(ratio)),
    ]


def write(path: Path, families: list[Family]) -> None:
    """Replace the file, readable by all whatever the umask; raises OSError."""
    text = "".join(_family(*family) for family in families)
    files.replace(path, text.encode("utf-8"), is_durable=False, mode=0o644)  # node_exporter is another user


def _one(value: float | None) -> list[Sample]:
    return [({}, int(value) if isinstance(value, bool) else value)]


def _by(label: str, values: Mapping[Any, int | None]) -> list[Sample]:
    return [({label: name}, value) for name, value in sorted(values.items())]


def _family(name: str, help_text: str, samples: list[Sample]) -> str:
    lines = [
        f"{_PREFIX}{name}{_labels(labels)} {value!r}\n"
        for labels, value in samples
        if value is not None and math.isfinite(value)
    ]
    family_type = "counter" if name.endswith("_total") else "gauge"
    head = f"# HELP {_PREFIX}{name} {help_text}\n# TYPE {_PREFIX}{name} {family_type}\n"
    return head + "".join(lines) if lines else ""


def _labels(labels: dict[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    text = value.encode("utf-8", "backslashreplace").decode("utf-8")  # a name may hold any bytes
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
