"""Runs the real service under strace, which fails or kills it at one system call after the other.

    python tests/soak/strace.py --points 20 [--seed N] [--dir D] [--at fsync:EIO:3] [--at rename:SIGKILL:1]

The tests of `tests/faults` replace Python's own functions, in one process. This reaches what they cannot: calls
that C code makes (Pillow, TensorFlow, the interpreter), reads and listings, and the engine's and the sandbox's
processes.

It runs by hand from the root of a clone, on Linux with `strace` installed and allowed to attach to processes
(see /proc/sys/kernel/yama/ptrace_scope). A point is a system call, an error or SIGKILL, and a number: of the
calls on inbox, spool or outbox of a small pair, the call of that number in each thread is not carried out. The
service then runs again, without strace, until nothing is left to do. After both runs the invariant is checked,
and at the end whether the pair was painted. A point takes about half a minute. Exit 1 if anything was violated.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service_process import ROOT, command, environment, say, until

sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support import trees  # noqa: E402 - needs the path above

from daemon import config  # noqa: E402 - the same
from daemon.job import Part, Stamp, job_id  # noqa: E402 - the same

RUN_S: Final = 180
ATTACH_S: Final = 20
RECOVERIES: Final = 3
KILL: Final = "SIGKILL"
ERRORS: Final = {
    "rename": ("ENOSPC", "EIO", "EACCES", "EXDEV"),
    "fsync": ("EIO", "ENOSPC"),
    "unlink": ("EIO", "EACCES"),
    "unlinkat": ("EIO", "EACCES"),
    "rmdir": ("EIO", "EACCES"),
    "mkdir": ("ENOSPC", "EACCES", "EIO"),
    "openat": ("ENOSPC", "EIO", "EACCES", "EMFILE"),
    "write": ("ENOSPC", "EIO"),
    "pread64": ("EIO",),
    "newfstatat": ("EIO", "EACCES"),
    "getdents64": ("EIO",),
}
ALIKE: Final = {"rename": "rename,renameat,renameat2", "write": "write,pwrite64"}
REWRITTEN: Final = ("config.yaml", "/log", "status.json", ".status.json.new", ".prom")  # most calls, no job's
CONFIG: Final = {
    "folders": {"inbox": "inbox", "outbox": "outbox", "spool": "spool"},
    "inbox": {"settle_s": 0.3, "rescan_s": 1, "observer": "off"},
    "engine": {"device": "cpu", "precision": "float32"},
    "outbox": {"gallery": False},
    "log": {"format": "json"},
}


@dataclass(frozen=True)
class Point:
    """One fault: `error` at the `number`-th `call` of each thread."""

    call: str
    error: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Point:
        """Read `fsync:EIO:3`."""
        call, error, number = text.split(":")
        return cls(call, error, int(number))

    @property
    def injection(self) -> str:
        """The expression for strace's -e."""
        what = f"signal={KILL}" if self.error == KILL else f"error={self.error}"
        return f"inject={ALIKE.get(self.call, self.call)}:{what}:when={self.number}"

    def __str__(self) -> str:
        """Write it as it is read."""
        return f"{self.call}:{self.error}:{self.number}"


class Trial:
    """One small pair in an inbox of its own, and the service that drains it."""

    def __init__(self, base: Path) -> None:
        (base / "inbox").mkdir(parents=True)
        (base / "config.yaml").write_text(json.dumps(CONFIG))
        self.base = base
        self.log = base / "log"
        self._tree = trees.Tree(config.build(CONFIG, base, environment={}))
        self._tree.drop("sea", iterations=2, frames={"every": 1, "animation": "gif"})
        self._command = command("run", "--drain", config=base / "config.yaml")

    @property
    def id(self) -> str:
        """The id that its job will have."""
        (drop,) = self._tree.drops
        roles = {"sea.yaml": "sidecar", "sea.jpg": "content", "sea-style.png": "style"}
        parts = [
            Part(role, name, "", *Stamp.of((self._tree.inbox / name).stat()), drop[name])  # type: ignore[arg-type]
            for name, role in roles.items()
        ]
        return job_id(tuple(parts))

    def run(self) -> int:
        """Run the service; returns its exit code."""
        with self.log.open("ab") as log:
            return subprocess.run(
                self._command, stdout=log, stderr=log, timeout=RUN_S, check=False, env=environment()
            ).returncode

    def run_traced(self, *options: str) -> int:
        """Run the service under strace; returns its exit code.

        The process waits in a shell until strace has attached, so that its id is known: `{pid}` in options.
        """
        shell = ["sh", "-c", 'read _ && exec "$@"', "sh", *self._command]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                shell, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment(), bufsize=0
            )
            words = [option.replace("{pid}", str(process.pid)) for option in options]
            tracer = subprocess.Popen(["strace", "-f", "-p", str(process.pid), *words], stdout=log, stderr=log)
        try:
            status = Path(f"/proc/{process.pid}/status")
            attached = f"TracerPid:\t{tracer.pid}\n"
            until(lambda: attached in status.read_text() or tracer.poll() is not None, ATTACH_S)
            if attached not in status.read_text():
                raise SystemExit(f"strace cannot attach: {self.log.read_text()[-500:]}")
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.close()
            return process.wait(RUN_S)
        finally:
            process.kill()
            process.wait()
            tracer.wait(ATTACH_S)

    def check(self, *, is_quiet: bool = False) -> None:
        """Assert the invariant."""
        for name in ("spool", "outbox"):
            (self.base / name).mkdir(exist_ok=True)
        self._tree.check(is_quiet=is_quiet)

    @property
    def jobs(self) -> list[str]:
        """The state and id of each job."""
        return [str(path.relative_to(self.base / "spool")) for path in self.base.glob("spool/*/*")]

    @property
    def is_painted(self) -> bool:
        """Whether the pair is done."""
        return any(job.startswith("done/") for job in self.jobs)


class Points:
    """The paths that the service touches, and how often its busiest thread makes each call on them."""

    def __init__(self, base: Path) -> None:
        """Learn them from one run without faults."""
        trial, trace = Trial(base), base.with_name("trace")
        id_ = trial.id
        calls = ",".join(ALIKE.get(call, call) for call in ERRORS)
        code = trial.run_traced("-y", "-qq", "-o", str(trace), "-e", f"trace={calls}", "-e", "signal=none")
        if code != 0:
            raise SystemExit(f"the run without faults ended with {code}: {trial.log.read_text()[-1000:]}")
        trial.check(is_quiet=True)
        names = {alike: name for name, all_alike in ALIKE.items() for alike in all_alike.split(",")}
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self._paths: set[str] = set()
        for line in trace.read_text(errors="replace").splitlines():
            found = re.match(r"(\d+) +(\w+)\(", line)
            paths = re.findall(rf'["<]({re.escape(str(base))}/[^">]*)[">]', line)
            paths = [path.removesuffix(" (deleted)") for path in paths]
            paths = [path for path in paths if not path.endswith(REWRITTEN)]
            if found and paths:
                counts[names.get(found[2], found[2]), found[1]] += 1
                paths = [path.replace(id_, "{id}").replace(id_[:8], "{short}") for path in paths]
                self._paths |= {re.sub(r"draft-\d+", "draft-{pid}", path) for path in paths}
        self.most: dict[str, int] = {}
        for (call, _thread), count in counts.items():
            self.most[call] = max(count, self.most.get(call, 0))
        shutil.rmtree(base)

    def options(self, trial: Trial) -> list[str]:
        """Give strace's options that restrict it to the paths of one trial."""
        id_ = trial.id
        paths = sorted(path.replace("{id}", id_).replace("{short}", id_[:8]) for path in self._paths)
        return [option for path in paths for option in ("-P", path)]

    def choose(self, chance: random.Random, count: int) -> list[Point]:
        """Choose points: every call and error with the same probability, and every number that occurs."""
        every = [(call, error) for call in self.most for error in (*ERRORS[call], KILL)]
        chosen: dict[Point, None] = {}
        while len(chosen) < min(count, sum(self.most[call] for call, _ in every)):
            call, error = chance.choice(every)
            chosen[Point(call, error, chance.randint(1, self.most[call]))] = None
        return list(chosen)


def attempt(point: Point, points: Points, base: Path) -> tuple[str, list[str]]:
    """Run the service with one fault, then without, until it is done; returns how it went, and violations."""
    trial, trace = Trial(base), base.with_name("trace")
    calls = ALIKE.get(point.call, point.call)
    options = ["-qq", "-o", str(trace), "-e", f"trace={calls}", "-e", "signal=none", *points.options(trial)]
    faults, codes = [], []
    try:
        codes.append(trial.run_traced(*options, "-e", point.injection))
        trial.check()
        for _ in range(RECOVERIES):
            if codes[-1] == 0 and trial.is_painted:
                break
            codes.append(trial.run())
        trial.check(is_quiet=True)
    except (AssertionError, subprocess.TimeoutExpired, OSError, ValueError) as error:
        faults.append(f"{type(error).__name__}: {error}")
    if not faults and not trial.is_painted:
        faults.append(f"it was not painted: {trial.jobs}")
    crashes = [line for line in trial.log.read_text(errors="replace").splitlines() if "service.crashed" in line]
    faults += [line[:1500] for line in crashes[:1]]
    hits = trace.read_text(errors="replace").count("INJECTED") + (codes[:1] == [-signal.SIGKILL])
    return f"{hits} hit, exit codes {codes}", faults


def main() -> int:
    """Try the points."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--dir", type=Path, help="a new folder; default: a temporary one")
    parser.add_argument("--at", action="append", default=[], help="a point, such as fsync:EIO:3")
    options = parser.parse_args()
    if shutil.which("strace") is None:
        sys.stderr.write("strace is not installed: on Debian and Ubuntu, apt install strace\n")
        return 2
    folder = options.dir or Path(tempfile.mkdtemp(prefix="strace-"))
    say(f"seed {options.seed}, folder {folder}; one run without faults first")
    points = Points(folder / "tree")
    say(f"calls on the tree by the busiest thread: {points.most}")
    chance = random.Random(options.seed)  # noqa: S311 - chance, not secrets
    chosen = [Point.parse(text) for text in options.at] or points.choose(chance, options.points)
    violations = 0
    for number, point in enumerate(chosen, start=1):
        how, faults = attempt(point, points, folder / "tree")
        say(f"{number}/{len(chosen)} {point}: {how}{''.join(f' VIOLATION {fault}' for fault in faults)}")
        if faults:
            violations += 1
            (folder / "tree").rename(folder / f"violation-{number}-{str(point).replace(':', '-')}")
        else:
            shutil.rmtree(folder / "tree")
    say(f"{len(chosen)} points, {violations} violations" + (f", kept in {folder}" if violations else ""))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
