"""Figures for a monitoring system: a file for node_exporter's textfile collector.

The format is Prometheus' text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). What is not
known has no line: a missing figure can be alerted on, a made-up one cannot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from daemon import files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from daemon.errors import PauseKind

    Sample = tuple[dict[str, str], float | None]  # labels, value

_PREFIX: Final = "styletransferd_"
_READABLE_BY_ALL: Final = 0o644  # node_exporter is another user


@dataclass(frozen=True)
class Facts:
    """What is known at one moment; None, or a missing key, is not known."""

    version: str
    device: str
    precision: str
    started: float  # Unix time, seconds
    is_window_open: bool
    jobs: Mapping[str, int] = field(default_factory=dict)  # by state
    oldest_queued_s: float | None = None
    last_scan: float | None = None  # Unix time, seconds
    is_watcher_up: bool | None = None
    paused: Mapping[str, PauseKind] = field(default_factory=dict)  # part of the service -> what it lacks
    attempts: Mapping[str, int] = field(default_factory=dict)  # by outcome, since the start
    free_bytes: Mapping[str, int] = field(default_factory=dict)  # by folder
    free_inodes: Mapping[str, int] = field(default_factory=dict)  # by folder
    iteration_s: float | None = None
    progress: float | None = None  # of the current job, 0..1


def render(facts: Facts) -> bytes:
    """Format every known figure, in a fixed order."""
    about = {"version": facts.version, "device": facts.device, "precision": facts.precision}
    pauses = [{"part": part, "kind": kind.value} for part, kind in sorted(facts.paused.items())]
    families = (
        ("info", "Version, device and precision of the running service.", _set([about])),
        ("start_time_seconds", "Unix time of the start.", _one(facts.started)),
        ("jobs", "Jobs in the spool.", _by("state", facts.jobs)),
        ("oldest_queued_age_seconds", "How long the oldest queued job waits.", _one(facts.oldest_queued_s)),
        ("last_scan_timestamp_seconds", "Unix time of the last look at the inbox.", _one(facts.last_scan)),
        ("watcher_up", "Whether file events arrive.", _one(facts.is_watcher_up)),
        ("window_open", "Whether jobs may be started now.", _one(facts.is_window_open)),
        ("paused", "Parts that wait for the environment.", _set(pauses)),
        ("attempts_total", "Attempts that ended since the start.", _by("outcome", facts.attempts)),
        ("free_bytes", "Free space.", _by("folder", facts.free_bytes)),
        ("free_inodes", "Free inodes.", _by("folder", facts.free_inodes)),
        ("iteration_seconds", "What an iteration of the current job takes.", _one(facts.iteration_s)),
        ("job_progress_ratio", "How much of the current job is done.", _one(facts.progress)),
    )
    text = "".join(_family(name, help_text, samples) for name, help_text, samples in families)
    return text.encode("utf-8")


def write(path: Path, facts: Facts) -> None:
    """Replace the file, readable by all whatever the umask; raises OSError."""
    files.replace(path, render(facts), is_durable=False, mode=_READABLE_BY_ALL)


def _one(value: float | None) -> list[Sample]:
    return [({}, value)]


def _set(facts: list[dict[str, str]]) -> list[Sample]:
    return [(labels, 1) for labels in facts]


def _by(label: str, values: Mapping[str, int]) -> list[Sample]:
    return [({label: name}, value) for name, value in sorted(values.items())]


def _family(name: str, help_text: str, samples: list[Sample]) -> str:
    lines = [
        f"{_PREFIX}{name}{_labels(labels)} {_number(value)}\n"
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


def _number(value: float) -> str:
    return str(int(value)) if isinstance(value, bool) else repr(value)
