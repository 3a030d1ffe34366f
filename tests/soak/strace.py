"""Runs the real service under strace, which fails or kills it at one system call after the other.

    python tests/soak/strace.py --points 20 [--seed N] [--dir D] [--at fsync:EIO:3] [--at rename:SIGKILL:1]

Run by hand from the root of a clone, on Linux with `strace` installed and allowed to attach to processes (see
/proc/sys/kernel/yama/ptrace_scope). A point is a system call, an error or SIGKILL, and a number: of those
calls that touch the inbox, spool or outbox of a small pair, the so manieth in each thread is not carried out.
What is run is, in effect:

    strace -f -P <every path of the tree> -e inject=fsync:error=EIO:when=3 python -m daemon run --drain

then the service again, without strace, until it has nothing left to do; the invariant is checked after both,
and whether the pair was painted. A point takes about half a minute. Exit 1 where anything was violated.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
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

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support import hostile  # noqa: E402 - found by the line above
from support.trees import Dropped, check_invariant, digest  # noqa: E402

from daemon.job import Part, Stamp, job_id  # noqa: E402

RUN_S: Final = 180
ATTACH_S: Final = 20
RECOVERIES: Final = 3
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
KILL: Final = "SIGKILL"
CONFIG: Final = {
    "folders": {"inbox": "inbox", "outbox": "outbox", "spool": "spool"},
    "inbox": {"settle_s": 0.3, "rescan_s": 1, "observer": "off"},
    "engine": {"device": "cpu", "precision": "float32"},
    "outbox": {"gallery": False},
    "log": {"format": "json"},
}
SIDECAR: Final = (
    "content: sea.png\nstyle: wave.png\nsize: 32\niterations: 2\nframes: {every: 1, animation: gif}\n"
)


def say(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


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
        """What strace is told."""
        what = f"signal={KILL}" if self.error == KILL else f"error={self.error}"
        return f"inject={ALIKE.get(self.call, self.call)}:{what}:when={self.number}"

    def __str__(self) -> str:
        """Write it as it is read."""
        return f"{self.call}:{self.error}:{self.number}"


class Tree:
    """One small pair in an inbox of its own, and the service on it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.spool, self.inbox, self.outbox = base / "spool", base / "inbox", base / "outbox"
        self.inbox.mkdir(parents=True)
        files = {
            "sea.yaml": SIDECAR.encode(),
            "sea.png": hostile.picture(seed=1),
            "wave.png": hostile.picture(seed=2),
        }
        for name, data in files.items():
            (self.inbox / name).write_bytes(data)
        self.drop: Dropped = {name: digest(data) for name, data in files.items()}
        (base / "config.yaml").write_text(json.dumps(CONFIG))

    @property
    def id(self) -> str:
        """The id that its job will have."""
        roles = {"sea.yaml": "sidecar", "sea.png": "content", "wave.png": "style"}
        parts = tuple(
            Part(role, name, "", *Stamp.of((self.inbox / name).stat()), self.drop[name])  # type: ignore[arg-type]
            for name, role in roles.items()
        )
        return job_id(parts)

    @property
    def command(self) -> list[str]:
        """The service, in drain mode."""
        return [sys.executable, "-m", "daemon", "run", "--drain", "--config", str(self.base / "config.yaml")]

    def run(self) -> int:
        """Run it plainly; returns its exit code."""
        with (self.base / "log").open("ab") as log:
            return subprocess.run(
                self.command, stdout=log, stderr=log, timeout=RUN_S, check=False, env=_environment()
            ).returncode

    def run_traced(self, *options: str) -> int:
        """Run it under strace, with its process' number for `{pid}` in the options; returns its exit code.

        The service's process waits in a shell until strace has attached, so that its number is known.
        """
        shell = ["sh", "-c", 'read _ && exec "$@"', "sh", *self.command]
        with (self.base / "log").open("ab") as log:
            process = subprocess.Popen(
                shell, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_environment(), bufsize=0
            )
            pid = str(process.pid)
            words = [option.replace("{pid}", pid) for option in options]
            tracer = subprocess.Popen(["strace", "-f", "-p", pid, *words], stdout=log, stderr=log)
        try:
            self._await_tracer(process.pid, tracer)
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.close()
            return process.wait(RUN_S)
        finally:
            process.kill()
            process.wait()
            tracer.wait(ATTACH_S)

    def _await_tracer(self, pid: int, tracer: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + ATTACH_S
        while f"TracerPid:\t{tracer.pid}\n" not in Path(f"/proc/{pid}/status").read_text():
            if tracer.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"strace cannot attach: {(self.base / 'log').read_text()[-500:]}")
            time.sleep(0.02)

    def check(self, *, is_quiet: bool = False) -> None:
        """Assert the invariant."""
        for folder in (self.spool, self.outbox):
            folder.mkdir(exist_ok=True)
        check_invariant(self.inbox, self.spool, self.outbox, [self.drop], is_quiet=is_quiet)

    @property
    def is_painted(self) -> bool:
        """Whether the pair is done."""
        return len(list(self.spool.glob("done/*"))) == 1


def _environment() -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("STYLETRANSFERD")}
    paths = [str(ROOT), environment.get("PYTHONPATH", "")]
    return environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


class Points:
    """The paths that the service touches, and how often each thread makes each call on them."""

    def __init__(self, base: Path) -> None:
        """Learn them from one unbroken run."""
        tree = Tree(base)
        id_, trace = tree.id, base.with_name("trace")
        calls = ",".join(ALIKE.get(call, call) for call in ERRORS)
        code = tree.run_traced("-y", "-qq", "-o", str(trace), "-e", f"trace={calls}", "-e", "signal=none")
        if code != 0:
            raise SystemExit(f"the unbroken run ended with {code}: {(base / 'log').read_text()[-1000:]}")
        tree.check(is_quiet=True)
        self._paths: set[str] = set()
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        for line in trace.read_text(errors="replace").splitlines():
            found = re.match(r"(\d+) +(\w+)\(", line)
            touched = re.findall(rf'["<]({re.escape(str(base))}/[^">]*)[">]', line)
            touched = [path.removesuffix(" (deleted)") for path in touched]
            if found and any(self._is_of_the_service(path) for path in touched):
                counts[found[2], found[1]] += 1
                self._paths |= {path.replace(id_, "{id}").replace(id_[:8], "{short}") for path in touched}
                self._paths = {re.sub(r"draft-\d+", "draft-{pid}", path) for path in self._paths}
        self.most: dict[str, int] = {}
        for (call, _thread), count in counts.items():
            name = next((name for name, alike in ALIKE.items() if call in alike.split(",")), call)
            self.most[name] = max(count, self.most.get(name, 0))
        shutil.rmtree(base)

    @staticmethod
    def _is_of_the_service(path: str) -> bool:
        """Whether a path is none that is rewritten every second, which would be nearly all there is to hit."""
        return not path.endswith(("config.yaml", "/log", "status.json", ".status.json.new", ".prom"))

    def paths(self, tree: Tree) -> list[str]:
        """Give strace's options for the paths of one tree."""
        names = sorted(
            path.replace("{id}", tree.id).replace("{short}", tree.id[:8])
            for path in self._paths
            if self._is_of_the_service(path)
        )
        return [option for name in names for option in ("-P", name)]

    def choose(self, chance: random.Random, count: int) -> list[Point]:
        """Choose points: every call and every error as likely, and every number that occurs."""
        every = [(call, error) for call in self.most for error in (*ERRORS[call], KILL)]
        chosen: list[Point] = []
        while len(chosen) < min(count, sum(self.most[call] for call, _ in every)):
            call, error = chance.choice(every)
            point = Point(call, error, chance.randint(1, self.most[call]))
            if point not in chosen:
                chosen.append(point)
        return chosen


def attempt(point: Point, points: Points, base: Path) -> tuple[str, list[str]]:
    """Run the service with one fault, then without, until it is done; returns how it went, and violations."""
    tree = Tree(base)
    trace = base.with_name("trace")
    options = ["-qq", "-o", str(trace), "-e", f"trace={ALIKE.get(point.call, point.call)}", "-e", "signal=none"]
    faults, codes = [], []
    try:
        codes.append(tree.run_traced(*options, *points.paths(tree), "-e", point.injection))
        tree.check()
        for _ in range(RECOVERIES):
            if codes[-1] == 0 and tree.is_painted:
                break
            codes.append(tree.run())
        tree.check(is_quiet=True)
    except (AssertionError, subprocess.TimeoutExpired, OSError, ValueError) as error:
        faults.append(f"{type(error).__name__}: {error}")
    if not faults and not tree.is_painted:
        faults.append(f"it was not painted: {[str(p.relative_to(base)) for p in tree.spool.glob('*/*')]}")
    log = (base / "log").read_text(errors="replace")
    if "service.crashed" in log:
        faults.append("service.crashed: " + next(x for x in log.splitlines() if "service.crashed" in x)[:1500])
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
    say(f"seed {options.seed}, folder {folder}; one unbroken run first")
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
