"""The folders that a service works on: dropping into them, stepping a service by hand, the invariant."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import time
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
import yaml
from PIL import Image
from structlog.testing import capture_logs

from daemon.job import State
from daemon.outbox import loss_table
from daemon.pictures import decoding
from daemon.sandbox.client import Decoder, Found
from daemon.service import backoff, intake_thread, service, work_thread
from daemon.service.service import Service
from daemon.spool import Spool
from daemon.worker.outcomes import Crashed, Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    import pytest

    from daemon.config import Config
    from daemon.engine import Engine
    from daemon.lifeline import Lifeline
    from daemon.spool import Claim

Dropped = dict[str, str]  # file name -> SHA-256, of one drop


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = 60) -> Any:
    """Wait until a condition holds and return what it gave; past the deadline, fail."""
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {deadline_s} s for {what}"
        time.sleep(0.02)
    return found


def captured() -> AbstractContextManager[list[Any]]:
    """Catch the log with the jobs' context."""
    return capture_logs(processors=[structlog.contextvars.merge_contextvars])


def named(records: list[Any], *events: str) -> list[Any]:
    """Choose the log's records of some events."""
    return [record for record in records if record["event"] in events]


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def save(path: Path, seed: int, height: int = 24, width: int = 32) -> Path:
    """Write a smooth picture, the same for the same seed."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


@contextlib.contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Make a folder on a disk in memory, where there is one, for tests of thousands of files."""
    memory = Path("/dev/shm")  # noqa: S108 - looked for, not required
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@dataclass
class Tree:
    """Inbox, spool and outbox of one config, and everything that was dropped into them."""

    config: Config
    drops: list[Dropped] = field(default_factory=list)

    @property
    def inbox(self) -> Path:
        """Where drops go."""
        return self.config.folders.inbox

    @property
    def outbox(self) -> Path:
        """Where results appear."""
        return self.config.folders.outbox

    @property
    def spool(self) -> Spool:
        """The spool, looked at from outside."""
        return Spool(self.config.folders.spool)

    def drop(self, name: str, folder: str = "", *, seed: int | None = None, **keys: Any) -> Path:
        """Drop a pair and its sidecar, which is written last; returns the sidecar.

        Args:
            name: the sidecar's stem.
            folder: path below the inbox.
            seed: seed of the pictures; default: drawn from the name.
            keys: keys of the sidecar, over a small and quick default.
        """
        seed = int(digest(name.encode())[:6], 16) if seed is None else seed
        place = self.inbox / folder
        place.mkdir(parents=True, exist_ok=True)
        content, style = save(place / f"{name}.jpg", seed), save(place / f"{name}-style.png", seed + 1)
        text = {"content": content.name, "style": style.name, "size": 32, "iterations": 3}
        sidecar = place / f"{name}.yaml"
        sidecar.write_text(yaml.safe_dump({**text, "frames": {"every": 2}, **keys}, allow_unicode=True))
        self.note(sidecar, content, style)
        return sidecar

    def note(self, *paths: Path) -> None:
        """Remember files as one drop that the invariant shall look for."""
        self.drops.append({path.name: digest(path.read_bytes()) for path in paths})

    def check(self, *, is_quiet: bool = False, starts: Mapping[str, int] | None = None) -> None:
        """Assert the protocol's invariant."""
        check_invariant(
            *(self.inbox, self.config.folders.spool, self.outbox, self.drops),
            is_quiet=is_quiet,
            starts=starts,
            max_attempts=self.config.engine.max_attempts,
        )

    def results(self) -> list[str]:
        """The outbox' entries by name, without hidden ones and `_running`."""
        return sorted(path.name for path in _entries(self.outbox))

    def result(self, stem: str) -> Path:
        """The one entry whose name begins with a stem."""
        (found,) = [path for path in _entries(self.outbox) if path.name.rpartition("-")[0] == stem]
        return found

    def left(self) -> list[str]:
        """Every file below the inbox that is neither hidden nor in one of the daemon's own folders."""
        return sorted(
            str(path.relative_to(self.inbox))
            for path in self.inbox.rglob("*")
            if not path.is_dir() and path.parts[len(self.inbox.parts)][0] not in "._"
        )


def decode_here(path: Path, name: str) -> tuple[int, int]:
    """Decode a picture whole, as the decoder does, in this process."""
    height, width = decoding.read(path, 200, name).shape[:2]
    return height, width


def claim_next(spool: Spool) -> Claim | None:
    """Take the next queued job, as a worker does on a disk with room."""
    return next(filter(None, map(spool.claim, spool.entries(State.QUEUED))), None)


class NearDecoder(Decoder):
    """No child: a matrix of thousands of services has no time for thousands of them."""

    def __init__(self) -> None:
        super().__init__(200)

    def inspect(self, path: Path, name: str, life: Lifeline, **wants: bool) -> tuple[tuple[int, int], Found]:
        """Decode in this process; nobody looks for faces."""
        return decode_here(path, name), Found()


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a service's loops wait a fiftieth of a second where they wait up to two, and no curve be drawn."""
    monkeypatch.setattr(loss_table, "curve", lambda _rows, _title: b"a curve")
    for module, name in (
        (work_thread, "_TICK_S"),
        (work_thread, "_IDLE_S"),
        (intake_thread, "_LEAST_S"),
        (service, "_STATUS_S"),
        (backoff, "PAUSE_S"),
    ):
        monkeypatch.setattr(module, name, 0.02)


class InlineExecutor(Executor):
    """Runs each task in the thread that submits it, and remembers what came of it."""

    def __init__(self) -> None:
        self.results: list[Any] = []

    def submit(self, task: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        """Run a task; what a kill raises is no result of it."""
        future: Future[Any] = Future()
        try:
            result = task(*args, **options)
        except Exception as error:  # noqa: BLE001 - whoever asks for the result gets it
            future.set_exception(error)
        else:
            self.results.append(result)
            future.set_result(result)
        return future


class Stepper:
    """A service stepped by hand, in one thread."""

    def __init__(self, config: Config, engine: Engine, decoder: Decoder | None = None) -> None:
        """Start it, recovery included."""
        self._executor = InlineExecutor()
        self.service = Service(config, engine=engine, decoder=decoder or NearDecoder(), executor=self._executor)
        self.service.spool.prepare()
        self.service.recover()

    def look(self) -> None:
        """Turn the intake alone."""
        self.service.intake.turn(time.monotonic())

    def turn(self) -> Ending | None:
        """Turn every part once; gives what became of the job, and `interrupted` where none could be taken."""
        self._executor.results.clear()
        self.look()
        self.service.intake.answer_operators()
        outcome = self.service.work.turn()
        if self._executor.results or outcome is None:
            return next(iter(self._executor.results), None)
        return Ending.CRASHED if isinstance(outcome, Crashed) else Ending.INTERRUPTED

    @property
    def waiting(self) -> dict[str, str]:
        """What waits in the inbox, and why."""
        return self.service.situation.report.waiting

    def until_quiet(self, deadline_s: float = 5) -> list[Ending]:
        """Turn until nothing is left to do, three times in a row; returns the endings."""
        endings, quiet, end = [], 0, time.monotonic() + deadline_s
        while quiet < 3:
            assert time.monotonic() < end, f"not quiet after {deadline_s} s: {endings[-5:]} {self.waiting}"
            time.sleep(self.service.config.inbox.settle_s)
            ending, report = self.turn(), self.service.situation.report
            if ending is not None:
                endings.append(ending)
            is_busy = ending or report.accepted or not report.is_at_rest or self.service.situation.paused
            quiet = 0 if is_busy else quiet + 1
        return endings


def check_invariant(
    inbox: Path,
    spool: Path,
    outbox: Path,
    drops: Iterable[Dropped],
    *,
    is_quiet: bool = False,
    starts: Mapping[str, int] | None = None,
    max_attempts: int = 3,
) -> None:
    """Assert conservation, publication, no phantom and bounded work; with `is_quiet`, quiescence too.

    Args:
        inbox: folder of the drops.
        spool: root of the spool.
        outbox: folder of the results.
        drops: names and SHA-256 of each complete drop's files; no two drops hold the same bytes.
        is_quiet: whether faults have stopped and the queue is drained.
        starts: number of times an engine began to paint each job, over all runs; None: nobody counted.
        max_attempts: limit of attempts without progress.
    """
    drops = list(drops)
    jobs = _jobs(spool)
    faults = [
        *_conservation(inbox, drops, jobs),
        *_phantoms(drops, jobs),
        *_publication(outbox, jobs),
        *_bounded_work(spool, jobs, starts or {}, max_attempts),
        *(_quiescence(inbox, spool, outbox, drops, jobs) if is_quiet else []),
    ]
    assert not faults, "\n".join(faults)


@dataclass(frozen=True)
class _Job:
    state: str
    id: str
    hashes: tuple[str, ...]  # of the bytes that lie in in/, sorted
    recorded: tuple[str, ...]  # as job.json has them


def _jobs(spool: Path) -> list[_Job]:
    found = []
    for state in ("queued", "running", "done", "failed", "held"):
        for folder in sorted((spool / state).glob("*")):
            parts = [p for p in json.loads((folder / "job.json").read_bytes())["parts"] if not p["library"]]
            hashes = tuple(sorted(digest(path.read_bytes()) for path in (folder / "in").iterdir()))
            found.append(_Job(state, folder.name, hashes, tuple(sorted(part["sha256"] for part in parts))))
    return found


def _conservation(inbox: Path, drops: list[Dropped], jobs: list[_Job]) -> list[str]:
    present = {digest(path.read_bytes()) for path in inbox.rglob("*") if path.is_file()}
    faults = []
    for drop in drops:
        holders = [job for job in jobs if job.hashes == tuple(sorted(drop.values()))]
        is_whole = set(drop.values()) <= present
        if len(holders) > 1 or not (holders or is_whole):
            faults.append(f"conservation: {sorted(drop)} is held by {holders}, in the inbox: {is_whole}")
    return faults


def _phantoms(drops: list[Dropped], jobs: list[_Job]) -> list[str]:
    known = {tuple(sorted(drop.values())) for drop in drops}
    return [f"phantom: {job}" for job in jobs if job.recorded not in known or job.hashes != job.recorded]


def _bounded_work(spool: Path, jobs: list[_Job], starts: Mapping[str, int], max_attempts: int) -> list[str]:
    """Compare what was begun with what was put on record before, and with the limit."""
    faults = []
    for job in jobs:
        begun, excused, progress = [], 0, 0
        for record in _records(spool / job.state / job.id / "attempts.jsonl"):
            if record["event"] == "started":
                reached = record.get("progress", 0)
                excused += bool(begun) and reached > progress
                progress = max(progress, reached)
                begun.append(record)
            excused += record["event"] in {"interrupted", "retried"}
        count = starts.get(job.id, 0)
        if count > len(begun):
            faults.append(f"bounded work: {job.id} was begun {count} times, {len(begun)} are on record")
        if count > max_attempts + excused:
            faults.append(f"bounded work: {job.id} was begun {count} times, {excused} of them excused")
    return faults


def _records(path: Path) -> list[dict[str, Any]]:
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):  # torn by a crash
            records.append(json.loads(line))
    return records


def _entries(outbox: Path) -> list[Path]:
    return [
        path
        for path in outbox.glob("*")
        if path.name[0] != "."
        and path.name not in {"_running", "index.html"}
        and not (path.name.startswith("summary-") and path.is_file())
    ]


def _publication(outbox: Path, jobs: list[_Job]) -> list[str]:
    faults, successes, failures = [], [], {}
    for entry in _entries(outbox):
        try:
            manifest = json.loads((entry / "manifest.json").read_bytes())
        except (OSError, ValueError) as error:
            faults.append(f"publication: {entry.name}: {error}")
            continue
        present = {str(path.relative_to(entry)) for path in entry.rglob("*") if path.is_file()}
        if present != {*manifest["files"], "manifest.json"}:
            faults.append(f"publication: {entry.name} holds {sorted(present)}")
        for name, fact in manifest["files"].items():
            data = (entry / name).read_bytes() if name in present else b""
            if (digest(data), len(data)) != (fact["sha256"], fact["size"]):
                faults.append(f"publication: {entry.name}/{name} is not what the manifest says")
        if entry.name.endswith(".failed"):
            drop = [fact["sha256"] for name, fact in manifest["files"].items() if name.startswith("drop/")]
            failures[manifest["id"]] = tuple(sorted(drop))
        else:
            successes.append(manifest["id"])
    faults += [f"publication: {id_} twice" for id_ in set(successes) if successes.count(id_) > 1]
    done = {job.id for job in jobs if job.state == "done"}
    hashes = {job.id: job.recorded for job in jobs}
    for id_, kept in failures.items():
        if kept != hashes.get(id_):
            faults.append(f"publication: the failure of {id_} keeps {kept}, not {hashes.get(id_)}")
    return faults + [f"publication: {id_} is done, not published" for id_ in done - set(successes)]


def _quiescence(inbox: Path, spool: Path, outbox: Path, drops: list[Dropped], jobs: list[_Job]) -> list[str]:
    faults = [
        f"quiescence: {path}" for name in ("tmp", "queued", "running") for path in (spool / name).iterdir()
    ]
    faults += [f"quiescence: {path}" for path in outbox.iterdir() if path.name.startswith(".tmp")]
    ended = [job for job in jobs if job.state in {"done", "failed"}]
    if len(ended) != len(drops):
        faults.append(f"quiescence: {len(drops)} drops, but {[(job.state, job.id) for job in ended]}")
    left = {name for drop in drops for name in drop} & {path.name for path in inbox.iterdir()}
    return faults + ([f"quiescence: {sorted(left)} in the inbox"] if left else [])
