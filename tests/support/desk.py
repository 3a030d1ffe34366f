"""The intake without the rest of the service: on a real spool, with a clock set by hand."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import yaml

from daemon.inbox.intake import DOUBT_FACTOR
from daemon.job import Drop, Part, Stamp
from daemon.lifeline import Lifeline
from daemon.sentinel import Sentinel
from daemon.service.intake_thread import IntakeThread, accept_drop
from daemon.service.status import Situation
from daemon.settings import Settings
from daemon.spool import Spool
from support.trees import NearDecoder, Tree, save

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from daemon.config import Config
    from daemon.inbox.intake import Report
    from daemon.job import Job
    from daemon.sandbox.client import Decoder
    from daemon.service.backoff import Backoff
    from daemon.spool import Draft, StoredJob

SETTLE_S = 2.0
RESCAN_S = 30


def accept(
    spool: Spool,
    drop: Drop,
    *,
    believes: bool = True,
    max_bytes: int = 10**6,
    decoder: Any = None,
    life: Lifeline | None = None,
) -> StoredJob:
    """Accept a drop as the intake does."""
    drop = replace(drop, doubt_s=0.0 if believes else 1.0)
    return accept_drop(drop, spool, decoder or NearDecoder(), max_bytes, life or Lifeline())


def pair(folder: Path, stem: str = "sea", **settings: int) -> Drop:
    """Make the drop of a content and a style as the scan sees it; what is not there yet is drawn."""
    folder.mkdir(exist_ok=True)
    parts = []
    for role, name in (("content", f"{stem}.png"), ("style", f"{stem}-style.png")):
        if not (folder / name).exists():
            save(folder / name, len(stem))
        parts.append(Part(role, name).seen(Stamp.of((folder / name).stat())))
    return Drop(stem, folder, tuple(parts), "default", Settings(**settings))


class _Pauses:
    """Remembers why the intake had to pause."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def begin(self, _part: str, error: Exception) -> None:
        """Take note."""
        self.error = error

    def end(self, _part: str) -> None:
        """Take note."""
        self.error = None


class _CountingSpool(Spool):
    """Counts the drops that are copied, and has the intake stop after some."""

    def __init__(self, root: Path, stop: threading.Event) -> None:
        super().__init__(root)
        self.offered: list[str] = []
        self.stop_after = 10**6
        self._stop = stop

    def draft(self, drop: Drop, max_bytes: int, life: Lifeline) -> AbstractContextManager[Draft]:
        """See the base class."""
        self.offered.append(drop.stem)
        return super().draft(drop, max_bytes, life)

    def commit(self, draft: Draft, versions: dict[str, str]) -> StoredJob:
        """See the base class."""
        entry = super().commit(draft, versions)
        if len(self.offered) >= self.stop_after:
            self._stop.set()
        return entry


class Desk:
    """An intake with a spool behind it; nobody works off what it accepts."""

    def __init__(self, config: Config, decoder: Decoder | None = None, life: Lifeline | None = None) -> None:
        self.tree = Tree(config)
        self.tree.inbox.mkdir(exist_ok=True)
        self.stop = threading.Event()
        self.spool = _CountingSpool(config.folders.spool, self.stop)
        self.spool.prepare()
        self.now = 1000.0
        self.accepted: list[Job] = []
        self.report: Report | None = None
        self._decoder = decoder or NearDecoder()
        self._life = life or Lifeline(self.stop)
        self.start()

    def start(self) -> None:
        """Forget everything, as a restart does."""
        config = self.tree.config
        sentinel = Sentinel(config.folders.inbox, "inbox", config.folders.spool / "met-inbox")
        sentinel.establish()
        self.pauses = _Pauses()
        settler: Any = SimpleNamespace(fail_now=lambda *_: True, end_cancelled=lambda _life: True)
        situation = Situation(config)
        situation.backoff = cast("Backoff", self.pauses)
        self.intake = IntakeThread(self.spool, self._decoder, sentinel, situation, settler, life=self._life)
        self.intake.remember(self.spool.unretired())

    def turn(self, after_s: float = 0.0) -> list[Job]:
        """Let time pass, turn once, and return what was accepted.

        Raises:
            NotReady, OSError: the reason for which the intake pauses.
        """
        self.now += after_s
        self.report = self.intake.turn(self.now)
        if self.report is None:
            assert self.pauses.error
            raise self.pauses.error
        self.accepted += self.report.accepted
        return self.report.accepted

    def settle(self) -> list[Job]:
        """See what is there, and see it again once it is quiet."""
        return self.turn() + self.turn(SETTLE_S)

    def believe(self) -> list[Job]:
        """Turn until faults are believed."""
        return self.settle() + self.turn(DOUBT_FACTOR * SETTLE_S)

    @property
    def waiting(self) -> dict[str, str]:
        """What waits, and why."""
        return self.report.waiting

    def write(self, name: str, **keys: Any) -> Path:
        """Write a sidecar."""
        path = self.tree.inbox / name
        path.write_text(yaml.safe_dump(keys, allow_unicode=True))
        return path

    def picture(self, name: str, seed: int = 0) -> Path:
        """Write a picture."""
        return save(self.tree.inbox / name, seed)

    def pair(self, stem: str) -> None:
        """Write a pair that needs no sidecar."""
        for seed, role in enumerate(("content", "style")):
            save(self.tree.inbox / f"{stem}.{role}.jpg", seed)


def stems(jobs: list[Job]) -> list[str]:
    """Name the drops that jobs were made of."""
    return [job.stem for job in jobs]
