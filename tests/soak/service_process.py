"""The service as a process of its own: start it, signal it, hold it still, measure it, read its log."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
STILL_S: Final = 20
NOT_READY: Final = 75  # exit code: a folder or the engine is not available


def say(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def until(condition: Callable[[], bool], deadline_s: float) -> bool:
    """Wait until a condition holds; False past the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def environment() -> dict[str, str]:
    """Give this process's environment without settings of the service, for this checkout's `daemon`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("STYLETRANSFERD")}
    paths = [str(ROOT), kept.get("PYTHONPATH", "")]
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def command(*arguments: str, config: Path) -> list[str]:
    """Build a command line of the product."""
    return [sys.executable, "-m", "daemon", *arguments, "--config", str(config)]


@dataclass
class Violations:
    """Everything that was seen and must not happen."""

    found: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Record one, and print it."""
        self.found.append(text)
        say(f"VIOLATION {text[:2000]}")


class ServiceProcess:
    """The service under test, started again after each end.

    Attributes:
        starts: number of starts so far.
        exits: exit code -> how often.
        events: name -> how often it was logged, over all starts.
        may_be_not_ready: a folder was away, or a child was killed, since the last start: exit code 75 is right.
    """

    def __init__(self, base: Path, violations: Violations) -> None:
        self.starts = 0
        self.exits: collections.Counter[str] = collections.Counter()
        self.events: collections.Counter[str] = collections.Counter()
        self.may_be_not_ready = False
        self._base = base
        self._violations = violations
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._bytes_read = 0
        self._is_ready = False

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def age_s(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started

    @property
    def is_ready(self) -> bool:
        """Whether it has logged `service.ready` since its start."""
        self.read_log()
        return self._is_ready

    @property
    def log(self) -> Path:
        """The log of the current start."""
        return self._base / "logs" / f"{self.starts:04}.jsonl"

    def start(self) -> None:
        """Start it, with a log of its own."""
        self.starts += 1
        self._bytes_read, self._is_ready, self.may_be_not_ready = 0, False, False
        self._started = time.monotonic()
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("wb") as stdout, self.log.with_suffix(".stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                command("run", config=self._base / "config.yaml"),
                stdout=stdout,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                env=environment(),
            )

    def send(self, number: int) -> None:
        """Send it a signal if it runs."""
        if self.pid is not None:
            os.kill(self.pid, number)

    def collect_exit(self, expected: set[int]) -> None:
        """Check how it ended: exit code, a log of whole lines, nothing on stderr."""
        assert self._process is not None
        code = self._process.wait()
        self._process = None
        self.read_log()
        self.exits[str(code)] += 1
        rest = self.log.read_bytes()[self._bytes_read :]
        if rest and code != -signal.SIGKILL:
            self._violations.add(f"{self.log}: the last line is cut: {rest[:200]!r}")
        errors = self.log.with_suffix(".stderr").read_text(errors="replace")
        allowed = expected | ({NOT_READY} if self.may_be_not_ready and not self._is_ready else set())
        if code not in allowed:
            self._violations.add(f"start {self.starts} ended with {code}, not {allowed}: {errors[-2000:]}")
        elif errors and code != NOT_READY:
            self._violations.add(f"start {self.starts} wrote to stderr: {errors[-2000:]}")

    def read_log(self) -> None:
        """Count the events of the lines that the log has gained."""
        if not self.log.exists():
            return
        with self.log.open("rb") as file:
            file.seek(self._bytes_read)
            *lines, _unfinished = file.read().split(b"\n")
        self._bytes_read += sum(len(line) + 1 for line in lines)
        for line in lines:
            try:
                record = json.loads(line)
                event, _, _ = record["event"], record["timestamp"], record["level"]
            except (ValueError, KeyError, TypeError):
                self._violations.add(f"{self.log}: not a record: {line[:500]!r}")
                continue
            self.events[event] += 1
            self._is_ready |= event == "service.ready"
            if event == "service.crashed":
                self._violations.add(f"{self.log}: {line[:3000]!r}")

    def children(self) -> dict[int, str]:
        """Find its child processes; gives process id -> module below `daemon`."""
        found = {}
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()] if self.pid else []
        for pid in pids:
            words = words_of(pid)
            if "-m" in words and _status(pid).get("PPid") == str(self.pid):
                found[pid] = words[words.index("-m") + 1].rpartition("daemon.")[2]
        return found

    @contextlib.contextmanager
    def held_still(self) -> Iterator[None]:
        """Stop it and its children for a while (SIGSTOP)."""
        pids = [pid for pid in (self.pid, *self.children()) if pid is not None]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        until(lambda: all(_is_still(pid) for pid in pids), STILL_S)
        try:
            yield
        finally:
            for pid in reversed(pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def sample(self) -> dict[str, Any]:
        """Measure resident memory (MB) of it and its children, open files and threads."""
        if self.pid is None:
            return {}
        facts: dict[str, Any] = {"age_s": round(self.age_s)}
        for pid, module in {self.pid: "daemon", **self.children()}.items():
            with contextlib.suppress(OSError, KeyError):
                status = _status(pid)
                facts[f"{module}_mb"] = int(status["VmRSS"].split()[0]) // 1024
                if pid == self.pid:
                    facts["threads"] = int(status["Threads"])
                    facts["open_files"] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return facts


def words_of(pid: int) -> list[str]:
    """Read a process's command line; empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _is_still(pid: int) -> bool:
    """Whether every thread of a process is stopped, or the process has ended."""
    try:
        tasks = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return True
    return all(task.rpartition(")")[2].split()[0] in "TtZX" for task in tasks)
