"""Runs the real service for a chosen time, drops pairs, injects faults, and checks the invariant each minute.

    python tests/soak/soak.py --minutes 60 [--seed N] [--dir D] [--reload]

It needs what the tests need, and is run by hand from the root of a clone. One line a minute says how it goes,
and a table at the end what was done; the same is in `soak.json` in the folder that is printed. Exit 1, and the
whole tree is kept, where anything was violated. The last third of the time is calm: the daemon is not killed
any more, so that memory, open files and threads of one long run can be compared.

Whatever is dropped is written by this one thread, and the service is stopped (SIGSTOP, children too) for each
check: so a check sees one instant, as a power cut would leave it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import heapq
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support import hostile  # noqa: E402 - found by the line above
from support.trees import check_invariant, digest  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    Script = Generator[float, None, None]  # yields the seconds until it goes on

SETTLE_S: Final = 0.3
BELIEVED_S: Final = 5 * SETTLE_S  # a copy that stalls for so long may be taken for a broken file
STOP_S: Final = 60
STUCK_S: Final = 300
CALM_SHARE: Final = 1 / 3
OPEN_DROPS: Final = 25
STATES: Final = ("queued", "running", "done", "failed", "held")
CONFIG: Final[dict[str, Any]] = {
    "folders": {"inbox": "inbox", "outbox": "outbox", "spool": "spool"},
    "inbox": {"settle_s": SETTLE_S, "rescan_s": 1},
    "engine": {"device": "cpu", "precision": "float32", "max_attempts": 1000},
    "log": {"format": "json"},
}
SOUND: Final = ("sound.png", "case.content.png", "case.style.png")  # what each hostile drop gets afresh


def say(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


# What was dropped, and what became of it


@dataclass
class Drop:
    """One drop: what it may become, and the forms in which the service may have met it.

    Attributes:
        name: for people.
        forms: file name -> SHA-256 of the complete drop; where it was changed, the last is what it is now.
        is_gone: it was taken away again, so that it exists only if the service was quicker.
        ends: `done`, or the reasons it may fail with.
    """

    name: str
    forms: list[dict[str, str]]
    ends: set[str]
    is_gone: bool = False
    is_ended: bool = False

    def form(self, held: set[tuple[str, ...]]) -> dict[str, str] | None:
        """Give the form it has: one that a job holds, else the last, unless it is gone."""
        taken = next((form for form in self.forms if tuple(sorted(form.values())) in held), None)
        return taken or (None if self.is_gone else self.forms[-1])


@dataclass
class Violations:
    """What was seen that must not be."""

    found: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Note one, and say so."""
        self.found.append(text)
        say(f"VIOLATION {text[:2000]}")

    @contextlib.contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Note what goes wrong inside."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - an hour's run goes on and tells
            self.add(f"{what}: {type(error).__name__}: {error}")


class Places:
    """The folders, each of which may be away for a while."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.away: set[str] = set()
        self.spool = base / "spool"
        self._hashes: dict[str, tuple[str, ...]] = {}  # id -> what its record says, which never changes

    def folder(self, kind: str) -> Path:
        """Give the inbox or the outbox where it is now."""
        return self.base / (f"{kind}.away" if kind in self.away else kind)

    @property
    def inbox(self) -> Path:
        """The inbox where it is now."""
        return self.folder("inbox")

    def jobs(self) -> dict[tuple[str, ...], tuple[str, str]]:
        """Give for each job, by the hashes on its record, its state and id."""
        found = {}
        for state in STATES:
            folder = self.spool / state
            for id_ in os.listdir(folder) if folder.exists() else ():
                if id_ not in self._hashes:
                    with contextlib.suppress(OSError, ValueError):
                        parts = json.loads((folder / id_ / "job.json").read_bytes())["parts"]
                        self._hashes[id_] = tuple(sorted(part["sha256"] for part in parts))
                if id_ in self._hashes:
                    found[self._hashes[id_]] = (state, id_)
        return found


# The service


class Daemon:
    """The service's process, started again and again."""

    def __init__(self, base: Path, violations: Violations) -> None:
        self.base = base
        self.starts = 0
        self.exits: collections.Counter[str] = collections.Counter()
        self.events: collections.Counter[str] = collections.Counter()
        self.may_be_not_ready = False  # a share was away, or the engine was killed, in this run
        self._violations = violations
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._read = 0
        self._is_ready = False

    @property
    def pid(self) -> int | None:
        """Its process, while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def age_s(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started

    @property
    def is_ready(self) -> bool:
        """Whether it said so."""
        self.read_log()
        return self._is_ready

    @property
    def log(self) -> Path:
        """What it prints, a file for each start."""
        return self.base / "logs" / f"{self.starts:04}.jsonl"

    def start(self) -> None:
        """Start it anew."""
        self.starts += 1
        self._read, self._is_ready, self.may_be_not_ready = 0, False, False
        self._started = time.monotonic()
        self.log.parent.mkdir(exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("STYLETRANSFERD")}
        paths = [str(ROOT), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        with self.log.open("wb") as stdout, self.log.with_suffix(".stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "daemon", "run", "--config", str(self.base / "config.yaml")],
                stdout=stdout,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                env=environment,
            )

    def send(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.pid is not None:
            os.kill(self.pid, number)

    def end_noted(self, expected: set[int]) -> None:
        """Take note of an end: its exit code, the rest of its log, its children."""
        assert self._process is not None
        code = self._process.wait()
        self._process = None
        self.read_log()
        is_killed = code == -signal.SIGKILL
        rest = self.log.read_bytes()[self._read :]
        if rest and not is_killed:
            self._violations.add(f"{self.log}: the last line is cut: {rest[:200]!r}")
        errors = self.log.with_suffix(".stderr").read_text(errors="replace")
        allowed = expected | ({75} if self.may_be_not_ready and not self._is_ready else set())
        self.exits[str(code)] += 1
        if code not in allowed:
            self._violations.add(f"start {self.starts} ended with {code}, not {allowed}: {errors[-2000:]}")
        elif errors and code != 75:
            self._violations.add(f"start {self.starts} wrote to stderr: {errors[-2000:]}")

    def read_log(self) -> None:
        """Parse what the log has gained."""
        if not self.log.exists():
            return
        with self.log.open("rb") as file:
            file.seek(self._read)
            *lines, _unfinished = file.read().split(b"\n")
        self._read += sum(len(line) + 1 for line in lines)
        for line in lines:
            try:
                record = json.loads(line)
                event = record["event"]
                assert record["timestamp"]
                assert record["level"]
            except Exception:  # noqa: BLE001 - whatever it is, it is not a record
                self._violations.add(f"{self.log}: not a record: {line[:500]!r}")
                continue
            self.events[event] += 1
            self._is_ready |= event == "service.ready"
            if event == "service.crashed":
                self._violations.add(f"{self.log}: {line[:3000]!r}")

    def children(self) -> dict[int, str]:
        """Name its children by the module they run."""
        found = {}
        for pid in processes() if self.pid else ():
            parent, words = _parent(pid), _words(pid)
            if parent == self.pid and "-m" in words:
                found[pid] = words[words.index("-m") + 1].rpartition("daemon.")[2]
        return found

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Hold it and its children still."""
        pids = [pid for pid in (self.pid, *self.children()) if pid is not None]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        until(lambda: all(_is_still(pid) for pid in pids), 20)
        try:
            yield
        finally:
            for pid in reversed(pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def sample(self) -> dict[str, Any]:
        """Measure it: resident memory of it and its children (MB), its open files and threads."""
        if self.pid is None:
            return {}
        facts: dict[str, Any] = {"age_s": round(self.age_s)}
        with contextlib.suppress(OSError, KeyError):
            status = _status(self.pid)
            facts["daemon_mb"] = int(status["VmRSS"].split()[0]) // 1024
            facts["threads"] = int(status["Threads"])
            facts["open_files"] = len(list(Path(f"/proc/{self.pid}/fd").iterdir()))
        for pid, module in self.children().items():
            with contextlib.suppress(OSError, KeyError):
                facts[f"{module}_mb"] = int(_status(pid)["VmRSS"].split()[0]) // 1024
        return facts


def processes() -> list[int]:
    """List all processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _parent(pid: int) -> int:
    try:
        return int(_status(pid)["PPid"])
    except (OSError, KeyError):
        return 0


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _is_still(pid: int) -> bool:
    """Whether every thread of a process is stopped, or the process gone."""
    try:
        states = [
            (task / "stat").read_text().rpartition(")")[2].split()[0]
            for task in Path(f"/proc/{pid}/task").iterdir()
        ]
    except OSError:
        return True
    return all(state in "TtZX" for state in states)


def until(condition: Callable[[], bool], deadline_s: float) -> bool:
    """Wait, without turning anything else, until a condition holds; whether it does."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


# The soak


class Soak:
    """Scripts that take turns in one thread: droppers, faults, an operator, and the check each minute."""

    def __init__(self, base: Path, minutes: float, seed: int, *, reloads: bool) -> None:
        self.places = Places(base)
        self.violations = Violations()
        self.daemon = Daemon(base, self.violations)
        self.counts: collections.Counter[str] = collections.Counter()
        self.drops: list[Drop] = []
        self.samples: list[dict[str, Any]] = []
        self._random = random.Random(seed)  # noqa: S311 - chance, not secrets
        self._seconds = minutes * 60
        self._begun = time.monotonic()
        self._serial = itertools.count(seed * 1_000_000)
        self._scripts: list[tuple[float, int, Script]] = []
        self._order = itertools.count()
        self._delicate = 0  # scripts in the middle of what a check would not understand
        self._holds = False  # nothing delicate is begun, since a check is due
        self._is_over = False
        self._is_calm = False
        self._restart_at: float | None = 0.0
        self._expected_exits: set[int] = set()
        self._reloads = reloads
        self._remains: dict[str, bytes] = {}  # what must stay in the inbox: path -> bytes
        self._broken = [*hostile.cut_pictures(), *hostile.flipped_pictures(), *hostile.other_formats()]
        self._broken += [case for case in hostile.bombs() if sum(map(len, case.files.values())) < 1 << 20]
        self._sidecars = [
            case for case in hostile.bad_sidecars() if sum(map(len, case.files.values())) < 1 << 17
        ]
        self._odd = [*hostile.odd_names(), *hostile.good_sidecars()]

    # Taking turns

    def run(self) -> bool:
        """Soak for the time, come to rest, and check all; whether all is well."""
        self._prepare()
        for script in (self._keep_running(), self._dropping(), self._process_faults(), self._share_faults()):
            self._begin(script)
        for script in (self._operating(), self._checking(), self._tidying()):
            self._begin(script)
        try:
            while self._elapsed() < self._seconds:
                self._turn()
            self._settle()
        except KeyboardInterrupt:
            self.violations.add("interrupted")
        except Exception:  # noqa: BLE001 - the table is printed all the same
            self.violations.add(f"the soak itself broke: {traceback.format_exc()}")
        finally:
            self._end()
        return not self.violations.found

    def _prepare(self) -> None:
        (self.places.base / "config.yaml").write_text(json.dumps(CONFIG))
        self.places.inbox.mkdir(parents=True)
        outside = self.places.base / "outside"
        outside.mkdir()
        for name in ("photo.png", "style.png"):
            (outside / name).write_bytes(hostile.picture(seed=len(name)))
        (outside / hostile.OWN).write_bytes(b"content: photo.png\nstyle: style.png\n")
        made = hostile.put_all(
            itertools.chain(hostile.odd_kinds(outside), hostile.waiting_names()), self.places.inbox / "odd"
        )
        for case in made:
            self._remains |= {f"odd/{case.name}/{name}": data for name, data in case.files.items()}
        self.counts["waiting for ever"] = len(made)

    def _elapsed(self) -> float:
        return time.monotonic() - self._begun

    def _begin(self, script: Script, after_s: float = 0) -> None:
        heapq.heappush(self._scripts, (time.monotonic() + after_s, next(self._order), script))

    def _turn(self) -> None:
        """Let the next script go on, once it is due."""
        due, _, script = self._scripts[0]
        left = due - time.monotonic()
        if left > 0:
            time.sleep(min(left, 0.05))
            return
        heapq.heappop(self._scripts)
        with contextlib.suppress(StopIteration):
            self._begin(script, next(script))

    @contextlib.contextmanager
    def _delicately(self) -> Iterator[None]:
        self._delicate += 1
        try:
            yield
        finally:
            self._delicate -= 1

    def _chance_s(self, mean_s: float) -> float:
        return min(self._random.expovariate(1 / mean_s), 6 * mean_s)

    # Dropping

    def _dropping(self) -> Script:
        kinds: list[tuple[int, Callable[[], Script]]] = [
            (8, self._plain),
            (3, self._slow),
            (2, self._shared),
            (3, self._replaced),
            (2, self._withdrawn),
            (3, lambda: self._hostile(self._broken)),
            (3, lambda: self._hostile(self._sidecars)),
            (2, lambda: self._hostile(self._odd)),
        ]
        weights, makers = zip(*kinds, strict=True)
        while not self._is_over:
            if self._open_drops() >= OPEN_DROPS:
                self._take_note(self.places.jobs())
                yield 1
            elif not self._holds:
                (make,) = self._random.choices(makers, weights)
                self._begin(make())
            yield self._chance_s(0.7)

    def _open_drops(self) -> int:
        return sum(not drop.is_ended for drop in self.drops)

    def _new(self, kind: str) -> str:
        self.counts[f"dropped: {kind}"] += 1
        return f"{kind}-{next(self._serial)}"

    def _folder(self) -> str:
        return self._random.choice(["", "", "a", "b/c", "Ünïcode ☂"])

    def _picture(self) -> bytes:
        width, height = self._random.choice([(48, 48), (64, 48), (48, 64), (64, 64), (56, 48)])
        format_ = self._random.choice(["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
        return hostile.picture(format_, next(self._serial), width, height)

    def _sidecar(self, name: str, content: str, style: str) -> bytes:
        keys = {
            "content": content,
            "style": style,
            "size": self._random.choice([48, 64]),
            "iterations": self._random.randint(3, 12),
            "frames": {"every": self._random.choice([0, 2, 5])},
            "output": {"format": self._random.choice(["png", "jpeg", "webp", "tiff"])},
            "priority": self._random.choice([0, 0, 0, 5, -5]),
        }
        return f"# {name}\n{json.dumps(keys)}\n".encode()

    def _pair(self, kind: str) -> tuple[str, dict[str, bytes]]:
        """Make a sound drop in a folder: its files in any order."""
        name = self._new(kind)
        files = {f"{name}.c": self._picture(), f"{name}.s": self._picture()}
        files[f"{name}.yaml"] = self._sidecar(name, f"{name}.c", f"{name}.s")
        order = self._random.sample(sorted(files), len(files))
        return self._folder(), {file: files[file] for file in order}

    def _path(self, folder: str, name: str) -> Path:
        path = self.places.inbox / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _note(self, files: dict[str, bytes], *ends: str) -> Drop:
        name = next(name for name in files if name.endswith((".yaml", ".YML")))
        drop = Drop(name, [{name: digest(data) for name, data in files.items()}], set(ends))
        self.drops.append(drop)
        return drop

    def _plain(self) -> Script:
        """Drop the files one after the other, each at once."""
        folder, files = self._pair("plain")
        pauses = self._random.random() < 0.5
        for number, (name, data) in enumerate(files.items()):
            if pauses and number:
                yield self._chance_s(0.3)
            self._path(folder, name).write_bytes(data)
        self._note(files, "done")  # in the same breath as the last one, before any check

    def _slow(self) -> Script:
        """Copy the files side by side, a chunk at a time, faster than a stalled copy is doubted."""
        folder, files = self._pair("slow")
        with self._delicately():
            written = dict.fromkeys(files, 0)
            last = time.monotonic()
            torn: list[dict[str, str]] = []
            while any(written[name] < len(data) for name, data in files.items()):
                if time.monotonic() - last > BELIEVED_S - SETTLE_S:  # this machine stalled, not the copy
                    torn.append({name: digest(files[name][: written[name]]) for name in files})
                last = time.monotonic()
                for name, data in files.items():
                    size = max(1, len(data) // self._random.randint(4, 12))
                    with self._path(folder, name).open("r+b" if written[name] else "wb") as file:
                        file.seek(written[name])
                        file.write(data[written[name] : written[name] + size])
                    written[name] = min(len(data), written[name] + size)
                yield 0.1
        drop = self._note(files, "done")
        if torn:
            self.counts["slow copies that stalled"] += 1
            drop.forms[:0] = torn
            drop.ends |= {"not_a_picture", "bad_sidecar"}

    def _shared(self) -> Script:
        """Drop several photos for one painting, which comes last."""
        name = self._new("shared")
        painting = {f"{name}.s": self._picture()}
        drops = []
        for number in range(self._random.randint(2, 4)):
            stem = f"{name}-{number}"
            drops.append(
                {
                    f"{stem}.yaml": self._sidecar(stem, f"{stem}.c", f"{name}.s"),
                    f"{stem}.c": self._picture(),
                }
            )
        for drop in drops:
            for file, data in drop.items():
                self._path(name, file).write_bytes(data)
            yield self._chance_s(0.3)
        for file, data in painting.items():
            self._path(name, file).write_bytes(data)
        for drop in drops:
            self._note(drop | painting, "done")

    def _replaced(self) -> Script:
        """Drop a pair, then put another photo in its place, perhaps while the first is being taken."""
        folder, files = self._pair("replaced")
        content = next(name for name in files if name.endswith(".c"))
        for name, data in files.items():
            self._path(folder, name).write_bytes(data)
        drop = self._note(files, "done")
        yield self._random.uniform(0, 2 * SETTLE_S)
        path, new = self._path(folder, content), self._picture()
        if self._random.random() < 0.5:
            path.write_bytes(new)
        else:
            hidden = path.with_name(f".{path.name}")
            hidden.write_bytes(new)
            hidden.replace(path)
        drop.forms.append(drop.forms[0] | {content: digest(new)})
        self._remains[str(Path(folder, content))] = new  # unless it is taken as this drop's

    def _withdrawn(self) -> Script:
        """Drop a pair and take some of it away again, perhaps while it is being taken."""
        folder, files = self._pair("withdrawn")
        for name, data in files.items():
            self._path(folder, name).write_bytes(data)
        drop = self._note(files, "done")
        yield self._random.uniform(0, 2 * SETTLE_S)
        for name in self._random.sample(sorted(files), self._random.randint(1, 3)):
            self._path(folder, name).unlink(missing_ok=True)
        drop.is_gone = True
        self._begin(self._clear_away(folder, list(files)), after_s=30)

    def _clear_away(self, folder: str, names: list[str]) -> Script:
        """Take away what is left of a withdrawn drop."""
        for name in names:
            self._path(folder, name).unlink(missing_ok=True)
        yield 0

    def _hostile(self, cases: list[hostile.Case]) -> Script:
        """Drop a hostile case with sound pictures of its own, so that no two drops are alike."""
        case = self._random.choice(cases)
        if case.again:
            return  # a job that holds one file twice is no work for the check
        folder, is_odd = self._new("hostile"), case in self._odd

        def is_fresh(name: str) -> bool:
            return name in SOUND or (is_odd and _is_picture(name))

        files = {
            name: hostile.picture(seed=next(self._serial)) if is_fresh(name) else data
            for name, data in case.files.items()
        }
        for name, data in files.items():
            self._path(folder, name).write_bytes(data)
        self._note(files, *case.ends)
        yield 0

    # Faults

    def _keep_running(self) -> Script:
        """Start the service whenever it has ended."""
        while True:
            if self.daemon.pid is None and self.daemon.starts and self._restart_at is None:
                self.daemon.end_noted(self._expected_exits or {0})
                self._expected_exits = set()
                self._restart_at = time.monotonic() + self._random.choice([0, 0.5, 3])
            if self._restart_at is not None and time.monotonic() >= self._restart_at:
                self.daemon.start()
                self._restart_at = None
                self.daemon.may_be_not_ready = bool(self.places.away) or self._is_unmounted()
            yield 0.1

    def _is_unmounted(self) -> bool:
        kinds = ("inbox", "outbox")
        met = self.places.spool / "met-outbox"
        return met.exists() and not all(
            (self.places.base / kind / f".styletransferd-{kind}").exists() for kind in kinds
        )

    def _process_faults(self) -> Script:
        faults: list[tuple[int, Callable[[], Script]]] = [
            (3, self._terminate),
            (5, self._kill),
            (5, lambda: self._kill_child("engine")),
            (2, lambda: self._kill_child("sandbox")),
            (3, self._freeze),
            (2 if self._reloads else 0, self._reload),
        ]
        weights, makers = zip(*faults, strict=True)
        yield 20
        while not self._is_over and not self._is_calm:
            yield self._chance_s(30)
            if not self._is_over and self.daemon.pid is not None and not self._holds:
                (make,) = self._random.choices(makers, weights)
                yield from make()

    def _terminate(self) -> Script:
        """Ask it to stop, sometimes twice."""
        self.counts["fault: SIGTERM"] += 1
        self._expected_exits = {0}
        if not self.daemon.events["service.started"] or self.daemon.age_s < 3:
            self._expected_exits.add(-signal.SIGTERM)  # before it listens to signals
        pid = self.daemon.pid
        self.daemon.send(signal.SIGTERM)
        if self._random.random() < 0.2:
            yield self._random.uniform(0, 0.5)
            if self.daemon.pid == pid:
                self.daemon.send(signal.SIGTERM)
        begun = time.monotonic()
        while self.daemon.pid is not None and self.daemon.pid == pid:
            if time.monotonic() - begun > STOP_S:
                self.violations.add(f"start {self.daemon.starts} did not stop within {STOP_S} s")
                self._expected_exits = {-signal.SIGKILL}
                self.daemon.send(signal.SIGKILL)
            yield 0.1

    def _kill(self) -> Script:
        """Kill it; its children must not outlive it."""
        self.counts["fault: SIGKILL"] += 1
        children = list(self.daemon.children())
        self._expected_exits = {-signal.SIGKILL}
        self.daemon.send(signal.SIGKILL)
        yield 5
        for pid in children:
            if any(word.startswith("daemon.") for word in _words(pid)):
                self.violations.add(f"child {pid} outlived its daemon: {_words(pid)}")

    def _kill_child(self, name: str) -> Script:
        """Kill one of its children, the engine or the inspector."""
        for pid, module in self.daemon.children().items():
            if module.startswith(name):
                self.counts[f"fault: SIGKILL of the {name}"] += 1
                self.daemon.may_be_not_ready = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        yield 0

    def _freeze(self) -> Script:
        """Stop it for a while, while drops go on."""
        self.counts["fault: SIGSTOP"] += 1
        pid = self.daemon.pid
        self.daemon.send(signal.SIGSTOP)
        yield self._chance_s(3)
        if self.daemon.pid == pid:
            self.daemon.send(signal.SIGCONT)

    def _reload(self) -> Script:
        """Have it read its config again."""
        if self.daemon.is_ready:
            self.counts["fault: SIGHUP"] += 1
            self.daemon.send(signal.SIGHUP)
        yield 0

    def _share_faults(self) -> Script:
        yield 20
        while not self._is_over:
            yield self._chance_s(25)
            if self._is_over:
                return
            kind = self._random.choice(["inbox", "outbox"])
            yield from self._random.choice([self._unmount, self._move_away])(kind)

    def _unmount(self, kind: str) -> Script:
        """Take a sentinel away and put it back."""
        sentinel = self.places.base / kind / f".styletransferd-{kind}"
        if not sentinel.exists():
            return
        self.counts[f"fault: {kind} without sentinel"] += 1
        self.daemon.may_be_not_ready = True
        aside = self.places.base / f"sentinel-{kind}"
        sentinel.rename(aside)
        yield self._chance_s(5)
        if sentinel.exists():
            self.violations.add(f"{sentinel} was made again")
        aside.rename(sentinel)

    def _move_away(self, kind: str) -> Script:
        """Move a whole folder away and back."""
        folder = self.places.base / kind
        if not (folder / f".styletransferd-{kind}").exists() or self._holds or self._delicate:
            return
        self.counts[f"fault: {kind} away"] += 1
        self.daemon.may_be_not_ready = True
        folder.rename(self.places.base / f"{kind}.away")
        self.places.away.add(kind)
        yield self._chance_s(5)
        if folder.exists():
            self.violations.add(f"{folder} was made again: {[str(path) for path in folder.rglob('*')]}")
            shutil.rmtree(folder)
        (self.places.base / f"{kind}.away").rename(folder)
        self.places.away.discard(kind)

    # An operator

    def _operating(self) -> Script:
        verbs = {
            "cancel": ("queued", "running", "held"),
            "hold": ("queued",),
            "release": ("held",),
            "retry": ("failed",),
        }
        while not self._is_over:
            yield self._chance_s(8)
            verb = self._random.choice(list(verbs))
            jobs = [(key, id_) for key, (state, id_) in self.places.jobs().items() if state in verbs[verb]]
            if jobs and not self._holds and not self._is_over:
                key, id_ = self._random.choice(jobs)
                for drop in self.drops:
                    if any(tuple(sorted(form.values())) == key for form in drop.forms):
                        drop.is_ended = False
                        drop.ends |= {"cancelled"} if verb == "cancel" else set()
                yield from self._ask(verb, id_)

    def _ask(self, *arguments: str) -> Script:
        """Run one command without holding anything else up."""
        self.counts[f"operator: {arguments[0]}"] += 1
        with self._delicately():
            process = subprocess.Popen(
                [sys.executable, "-m", "daemon", *arguments, "--config", str(self.places.base / "config.yaml")],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
            )
            while process.poll() is None:
                yield 0.05
            assert process.stdout is not None
            said = process.stdout.read().decode(errors="replace")
            process.stdout.close()
        if process.returncode not in {0, 1} or "Traceback" in said:
            self.violations.add(f"{' '.join(arguments)}: exit {process.returncode}: {said[-2000:]}")

    # Checking

    def _checking(self) -> Script:
        minute = 0
        while not self._is_over:
            minute += 1
            while self._elapsed() < minute * 60:
                yield 0.2
            if not self._is_calm and self._elapsed() > self._seconds * (1 - CALM_SHARE):
                self._is_calm = True
                say("calm from here on: the daemon is not killed any more")
            self._holds = True
            while self._delicate:
                yield 0.05
            self.check()
            self._holds = False
            self._tell(minute)

    def check(self, *, is_quiet: bool = False) -> None:
        """Check the invariant at this instant, with the service held still."""
        begun = time.monotonic()
        with self.daemon.stopped(), self.violations.noting("invariant"):
            held = self.places.jobs()
            forms = [form for drop in self.drops if (form := drop.form(set(held))) is not None]
            outbox = self.places.folder("outbox")
            if outbox.exists() and self.places.spool.exists():
                check_invariant(self.places.inbox, self.places.spool, outbox, forms, is_quiet=is_quiet)
            self._check_remains(held)
        self.daemon.read_log()
        self._take_note(held)
        self.counts["checks"] += 1
        self.counts["slowest check in ms"] = max(
            self.counts["slowest check in ms"], round(1000 * (time.monotonic() - begun))
        )

    def _check_remains(self, held: dict[tuple[str, ...], tuple[str, str]]) -> None:
        """See that nothing is gone from the inbox that no job holds."""
        kept = {hash_ for hashes in held for hash_ in hashes}
        for name, data in self._remains.items():
            path = self.places.inbox / name
            if digest(data) not in kept and not (path.is_file() and path.read_bytes() == data):
                self.violations.add(f"{name} is gone from the inbox, and no job holds it")

    def _take_note(self, held: dict[tuple[str, ...], tuple[str, str]]) -> None:
        """Note which drops have ended."""
        for drop in self.drops:
            form = drop.form(set(held))
            state = (
                held[tuple(sorted(form.values()))][0] if form and tuple(sorted(form.values())) in held else ""
            )
            drop.is_ended = state in {"done", "failed"} or form is None

    def _tell(self, minute: int) -> None:
        sample = self.daemon.sample()
        ended = sum(drop.is_ended for drop in self.drops)
        self.samples.append({"minute": minute, "completed": self.daemon.events["job.completed"], **sample})
        faults = sum(count for name, count in self.counts.items() if name.startswith("fault"))
        say(
            f"minute {minute}: {len(self.drops)} drops, {ended} ended, {faults} faults, "
            f"{self.daemon.starts} starts, {len(self.violations.found)} violations; {json.dumps(sample)}"
        )

    def _tidying(self) -> Script:
        """Remove folders that have become empty, as people do."""
        while not self._is_over:
            yield 20
            if not self._delicate:
                for path in sorted(self.places.inbox.rglob("*"), reverse=True):
                    is_ours = path.name[0] not in "_." and "odd" not in path.parts
                    if is_ours and path.is_dir() and not path.is_symlink():
                        with contextlib.suppress(OSError):
                            path.rmdir()

    # The end

    def _settle(self) -> None:
        """Stop the faults, let everything come to its end, and check all of it."""
        say("coming to rest")
        self._is_over = True
        self._scripts = [(0, order, script) for _, order, script in self._scripts]  # none sleeps on
        heapq.heapify(self._scripts)
        released: set[str] = set()
        stuck_since, last = time.monotonic(), ""
        while True:
            for _ in range(20):
                self._turn()
            held = self.places.jobs()
            self._take_note(held)
            for state, id_ in held.values():
                if state == "held" and id_ not in released and not self._delicate:
                    released.add(id_)
                    self._begin(self._ask("release", id_))
            if self._is_at_rest(held):
                break
            picture = json.dumps(sorted(held.values())) + str(self.daemon.is_ready)
            if picture != last:
                stuck_since, last = time.monotonic(), picture
            if time.monotonic() - stuck_since > STUCK_S:
                open_ = [(drop.name, drop.forms) for drop in self.drops if not drop.is_ended]
                self.violations.add(f"nothing moves: {open_} {[x for x in held.values() if x[0] != 'done']}")
                break
        self._tell(round(self._elapsed() / 60))
        self._expected_exits = {0}
        self.daemon.send(signal.SIGTERM)
        if not until(lambda: self.daemon.pid is None, STOP_S):
            self.violations.add("it does not stop")
        else:
            self.daemon.end_noted({0})
        self._check_the_end()

    def _is_at_rest(self, held: dict[tuple[str, ...], tuple[str, str]]) -> bool:
        is_worked_off = all(state in {"done", "failed"} for state, _ in held.values())
        is_whole = not self._delicate and not self.places.away and not self._is_unmounted()
        is_up = self.daemon.pid is not None and self.daemon.is_ready
        is_written = all(drop.is_ended for drop in self.drops)
        is_left = len(self._scripts) <= 1  # the one that keeps the service running
        return is_worked_off and is_whole and is_up and is_written and is_left

    def _check_the_end(self) -> None:
        held = self.places.jobs()
        self._check_remains(held)
        self._clear_inbox(held)
        self.check(is_quiet=True)
        for drop in self.drops:
            form = drop.form(set(held))
            if form is None:
                self.counts["ended: withdrawn in time"] += 1
                continue
            state, id_ = held.get(tuple(sorted(form.values())), ("nowhere", ""))
            reason = self._reason(id_) if state == "failed" else state
            self.counts[f"ended: {reason}"] += 1
            if state not in {"done", "failed"}:
                self.counts["losses"] += 1
            if reason not in drop.ends:
                self.violations.add(f"{drop.name} ({id_}): {reason}, not {sorted(drop.ends)}")

    def _clear_inbox(self, held: dict[tuple[str, ...], tuple[str, str]]) -> None:
        """Take away what had to stay; anything else that lies there should not."""
        kept = {hash_ for hashes in held for hash_ in hashes}
        for name, data in self._remains.items():
            if digest(data) not in kept:
                (self.places.inbox / name).unlink(missing_ok=True)
        self._remains.clear()
        left = [
            path
            for path in self.places.inbox.rglob("*")
            if path.is_file() and path.relative_to(self.places.inbox).parts[0][0] not in "._o"
        ]
        if left:
            self.violations.add(f"left in the inbox: {left[:20]}")

    def _reason(self, id_: str) -> str:
        folder = self.places.spool / "failed" / id_
        for name in ("failure.json", "job.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                data = json.loads((folder / name).read_bytes())
                return str((data if name == "failure.json" else data["failure"])["reason"])
        return "failed without a reason"

    def _end(self) -> None:
        """End the service, however it takes."""
        for number in (signal.SIGCONT, signal.SIGTERM):
            self.daemon.send(number)
        if not until(lambda: self.daemon.pid is None, STOP_S):
            self.daemon.send(signal.SIGKILL)
            until(lambda: self.daemon.pid is None, STOP_S)

    # Telling

    def report(self) -> dict[str, Any]:
        """Sum up."""
        ready = [sample for sample in self.samples if "daemon_mb" in sample]
        calm = [sample for sample in ready if sample["minute"] * 60 > self._seconds * (1 - CALM_SHARE)]
        return {
            "seconds": round(self._elapsed()),
            "drops": len(self.drops),
            "losses": self.counts["losses"],
            "starts": self.daemon.starts,
            "exits": dict(self.daemon.exits),
            "counts": dict(sorted(self.counts.items())),
            "events": dict(sorted(self.daemon.events.items())),
            "first_sample": ready[0] if ready else {},
            "calm_sample": calm[0] if calm else {},
            "last_sample": ready[-1] if ready else {},
            "samples": self.samples,
            "violations": self.violations.found,
        }


def _is_picture(name: str) -> bool:
    return ".yaml" not in name.lower() and ".yml" not in name.lower()


def table(report: dict[str, Any]) -> str:
    """Lay the report out for people."""
    out = io.StringIO()
    rows = {key: report[key] for key in ("seconds", "drops", "losses", "starts", "exits")} | report["counts"]
    for name, value in rows.items():
        out.write(f"{name:<40} {value}\n")
    out.write(f"{'':<40} {'start':>10} {'calm':>10} {'end':>10}\n")
    samples = [report[name] for name in ("first_sample", "calm_sample", "last_sample")]
    for name in dict.fromkeys(key for sample in samples for key in sample):
        values = [str(sample.get(name, "")) for sample in samples]
        out.write(f"{name:<40} " + " ".join(f"{value:>10}" for value in values) + "\n")
    out.write(f"{'violations':<40} {len(report['violations'])}\n")
    return out.getvalue()


def main() -> int:
    """Soak."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--dir", type=Path, help="a new folder for the tree; default: a temporary one")
    parser.add_argument("--reload", action="store_true", help="also send SIGHUP")
    options = parser.parse_args()
    base = options.dir or Path(tempfile.mkdtemp(prefix="soak-"))
    base.mkdir(parents=True, exist_ok=True)
    say(f"seed {options.seed}, tree {base}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    soak = Soak(base, options.minutes, options.seed, reloads=options.reload)
    is_well = soak.run()
    report = {"seed": options.seed, **soak.report()}
    (base / "soak.json").write_text(json.dumps(report, indent=1))
    sys.stdout.write(table(report))
    if is_well:
        for name in ("inbox", "outbox", "spool", "outside"):
            shutil.rmtree(base / name, ignore_errors=True)
    say(f"{'all is well' if is_well else 'VIOLATED, the tree is kept'}: {base / 'soak.json'}")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
