"""The figures for node_exporter, read back by a strict reader of the format."""

from __future__ import annotations

import math
import os
import re
import stat
import time
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.fakes import INFO

from daemon import __version__, clock, files
from daemon.errors import PauseKind
from daemon.job import Job, State
from daemon.outbox.publish import Outbox
from daemon.sentinel import Sentinel
from daemon.service import metrics
from daemon.service.backoff import Pause
from daemon.service.status import Situation
from daemon.spool import Spool
from daemon.worker.attempt import Attempts, Progress
from daemon.worker.outcomes import Ending

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.config import Config

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_PAIR = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_PAIR}(?:,{_PAIR})*)\}})? (\S+)")
_VALUE = re.compile(r"-?(\d+(\.\d+)?(e[+-]?\d+)?)")
_ESCAPE = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def read(data: bytes) -> tuple[Samples, dict[str, str]]:
    """Read the text format 0.0.4 strictly.

    Each family: HELP, TYPE, then all its samples; no family, no series twice; the last line ends too.

    Returns:
        Value by name and labels; type by family.
    """
    text = data.decode("utf-8")
    assert text.endswith("\n")
    samples: Samples = {}
    types: dict[str, str] = {}
    helped = current = ""
    for line in text[:-1].split("\n"):
        if found := re.fullmatch(rf"# HELP ({_NAME}) (\S[^\n]*)", line):
            helped = found[1]
        elif found := re.fullmatch(rf"# TYPE ({_NAME}) (gauge|counter)", line):
            current = found[1]
            assert current == helped, line
            assert current not in types, line
            types[current] = found[2]
        else:
            found = _SAMPLE.fullmatch(line)
            assert found, line
            assert found[1] == current, line
            assert _VALUE.fullmatch(found[3]), line
            pairs = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or "")
            labels = tuple((name, re.sub(r"\\.", lambda m: _ESCAPE[m[0]], value)) for name, value in pairs)
            assert len({name for name, _ in labels}) == len(labels), line
            assert (current, labels) not in samples, line
            samples[current, labels] = float(found[3])
    assert set(types) == {name for name, _ in samples}
    return samples, types


def value(samples: Samples, name: str, **labels: str) -> float:
    """Give one sample."""
    return samples[f"styletransferd_{name}", tuple(labels.items())]


class Desk:
    """A service of which everything is known, or little."""

    def __init__(self, config: Config) -> None:
        self.spool = Spool(config.folders.spool)
        self.spool.prepare()
        self.outbox = Outbox(
            config.folders.outbox, Sentinel(config.folders.outbox, "outbox", self.spool.root / "met")
        )
        self.situation = Situation(config)
        self.attempts = Attempts()
        self.path = self.spool.root / "styletransferd.prom"

    def fill(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make everything known."""
        monkeypatch.setattr(time, "time", lambda: 1.78e9)
        monkeypatch.setattr(time, "monotonic", lambda: self.situation.started)
        now = datetime.fromisoformat("2026-03-02T12:00:00+00:00")
        monkeypatch.setattr(clock, "utc", lambda: now)
        for number in range(3):
            accepted_at = clock.stamp(now - timedelta(seconds=61.5 - number))
            job = Job(f"{number:016x}", number, "sea", ".", (), "default", None, accepted_at)
            (self.spool.folder(State.QUEUED) / job.id).mkdir()
            (self.spool.folder(State.QUEUED) / job.id / "job.json").write_bytes(job.to_json())
        self.situation.info = replace(INFO, device="cpu")
        self.situation.last_scan = 1780000001.25
        self.situation.is_watcher_up = False
        pauses = {"worker": PauseKind.NO_SPACE, "inbox": PauseKind.UNAVAILABLE}
        self.situation.backoff.pauses = {part: Pause("why", kind) for part, kind in pauses.items()}
        self.attempts.endings.update(
            {Ending.COMPLETED: 12, Ending.FAILED: 1, Ending.CRASHED: 2, Ending.INTERRUPTED: 0}
        )
        rooms = {self.spool.root: files.Room(2**60 + 1, 7), self.outbox.root: files.Room(0, None)}
        monkeypatch.setattr(files, "room", rooms.__getitem__)
        self.go_on(iteration=5, iteration_s=0.25, monkeypatch=monkeypatch)

    def go_on(self, iteration: float, iteration_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """Paint a job of ten iterations."""
        progress = Progress("a", "a-1", 1, 3, 10, 64, 0.5, 1.0, 0.1, 0.7, "2026-01-01T00:00:00.000+00:00")
        made: Any = replace(progress, iteration=iteration, iterations=10, iteration_s=iteration_s)
        monkeypatch.setattr(self.attempts, "progress", lambda: [made])

    def write(self) -> bytes:
        """Write the figures, and give what is in the file."""
        metrics.write(self.path, metrics.collect(self.spool, self.outbox, self.situation, self.attempts))
        return self.path.read_bytes()


@pytest.fixture
def desk(make_config: Callable[..., Config]) -> Desk:
    """Know little."""
    return Desk(make_config())


@pytest.fixture
def full(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Know everything."""
    desk.fill(monkeypatch)
    return desk


def test_every_known_figure_is_there(full: Desk) -> None:
    """Each fact is a sample with its labels, in base units."""
    samples, _ = read(full.write())
    assert value(samples, "info", version=__version__, device="cpu", precision="float32") == 1
    assert value(samples, "start_time_seconds") == 1.78e9
    assert value(samples, "jobs", state="queued") == 3
    assert value(samples, "jobs", state="held") == 0
    assert value(samples, "oldest_queued_age_seconds") == 61.5
    assert value(samples, "last_scan_timestamp_seconds") == 1780000001.25
    assert value(samples, "watcher_up") == 0
    assert value(samples, "window_open") == 1
    assert value(samples, "paused", part="worker", kind="no_space") == 1
    assert value(samples, "paused", part="inbox", kind="unavailable") == 1
    assert value(samples, "attempts_total", outcome="crashed") == 2
    assert value(samples, "free_bytes", folder="outbox") == 0
    assert value(samples, "free_inodes", folder="spool") == 7
    assert value(samples, "iteration_seconds") == 0.25
    assert value(samples, "job_progress_ratio") == 0.5
    assert len(samples) == 22


def test_large_counts_keep_every_digit(full: Desk) -> None:
    """Bytes are written as whole numbers, not rounded."""
    assert b'styletransferd_free_bytes{folder="spool"} 1152921504606846977\n' in full.write()


def test_counters_and_only_they_end_in_total(full: Desk) -> None:
    """The type of a family shows in its name."""
    _, types = read(full.write())
    assert {name for name, type_ in types.items() if type_ == "counter"} == {"styletransferd_attempts_total"}
    assert [name for name in types if name.endswith("_total")] == ["styletransferd_attempts_total"]


def test_what_is_not_known_has_no_line(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absent facts, and figures that are no numbers, leave their whole family out."""
    desk.go_on(iteration=math.inf, iteration_s=math.nan, monkeypatch=monkeypatch)
    monkeypatch.setattr(files, "room", lambda _folder: os.listdir("/nowhere"))
    samples, types = read(desk.write())
    known = ("info", "jobs", "start_time_seconds", "window_open")
    assert sorted(types) == [f"styletransferd_{name}" for name in known]
    assert len(samples) == 3 + len(State)


def test_the_order_does_not_depend_on_the_facts_order(full: Desk) -> None:
    """The same facts give the same bytes."""
    before = full.write()
    full.situation.backoff.pauses = dict(reversed(full.situation.backoff.pauses.items()))
    endings = list(reversed(full.attempts.endings.items()))
    full.attempts.endings.clear()
    full.attempts.endings.update(dict(endings))
    assert full.write() == before


@given(text=st.text(), part=st.text())
@example(text='a"\\\n', part="\\n\n")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_labels_of_any_text_come_back(full: Desk, text: str, part: str) -> None:
    """Quotes, backslashes and line breaks in a label are escaped so that a reader gets them back."""
    full.situation.info = replace(INFO, device=text)
    full.situation.backoff.pauses = {part: Pause("why", PauseKind.OTHER)}
    samples, _ = read(full.write())
    assert value(samples, "info", version=__version__, device=text, precision="float32") == 1
    assert value(samples, "paused", part=part, kind="other") == 1


def test_labels_that_are_no_text_stay_readable(desk: Desk) -> None:
    """Bytes of a name that are no UTF-8 come out escaped, and the file is still UTF-8."""
    desk.situation.info = replace(INFO, device="\udcff")
    samples, _ = read(desk.write())
    assert value(samples, "info", version=__version__, device="\\udcff", precision="float32") == 1


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_file_is_whole_and_readable_by_all(umask: int, full: Desk, tmp_path: Path) -> None:
    """Whatever the umask, node_exporter's own user may read it, and nothing else ends in .prom."""
    full.path = tmp_path / "figures" / "styletransferd.prom"
    full.path.parent.mkdir()
    old = os.umask(umask)
    try:
        metrics.write(full.path, [])
        read(full.write())
    finally:
        os.umask(old)
    assert stat.S_IMODE(full.path.stat().st_mode) == 0o644
    assert [item.name for item in full.path.parent.iterdir()] == ["styletransferd.prom"]


def test_a_file_being_written_does_not_look_like_figures(full: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a crash leaves half written has a name that the collector passes over."""

    def die(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(OSError, match="Input/output"):
        full.write()
    assert list(full.path.parent.glob("*.prom")) == []


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """The folder is the administrator's; it is not made here."""
    with pytest.raises(FileNotFoundError):
        metrics.write(tmp_path / "none" / "x.prom", [])
