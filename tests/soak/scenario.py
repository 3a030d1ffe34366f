"""What happens to the service in a soak: what is dropped, which faults come when, what an operator does.

Everything is a script: a generator that yields the seconds until it continues. All scripts take turns in one
thread, so between two yields nothing else happens.
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from service_process import ServiceProcess, Violations, command, environment, words_of
from support import hostile
from support.trees import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from random import Random

    Script = Generator[float, None, None]
    Hashes = tuple[str, ...]  # sorted SHA-256 of a job's files
    Jobs = dict[Hashes, tuple[str, str]]  # -> state, id

SETTLE_S: Final = 0.3
BELIEVED_S: Final = 5 * SETTLE_S  # a copy that stalls for so long may be taken for a broken file
STOP_S: Final = 60
OPEN_DROPS: Final = 25
STATES: Final = ("queued", "running", "done", "failed", "held")
CONFIG: Final[dict[str, Any]] = {
    "folders": {"inbox": "inbox", "outbox": "outbox", "spool": "spool"},
    "inbox": {"settle_s": SETTLE_S, "rescan_s": 1},
    "engine": {"device": "cpu", "precision": "float32", "max_attempts": 1000},
    "log": {"format": "json"},
}
VERBS: Final = {
    "cancel": ("queued", "running", "held"),
    "hold": ("queued",),
    "release": ("held",),
    "retry": ("failed",),
}


@dataclass
class Drop:
    """One drop and what may become of it.

    Attributes:
        name: the sidecar's.
        versions: file name -> SHA-256 of the complete drop, in the order in which it was changed.
        ends: `done`, or the reasons it may fail with.
        is_withdrawn: taken away again; it is a job only if the service was faster.
        is_ended: no more is to be expected of it.
    """

    name: str
    versions: list[dict[str, str]]
    ends: set[str]
    is_withdrawn: bool = False
    is_ended: bool = False

    def version(self, jobs: Jobs) -> dict[str, str] | None:
        """Give the version that a job holds, else the current one; None for a withdrawn drop."""
        taken = next((version for version in self.versions if hashes(version) in jobs), None)
        return taken or (None if self.is_withdrawn else self.versions[-1])


def hashes(files: dict[str, str]) -> Hashes:
    """Give what identifies a job: its files' SHA-256, sorted."""
    return tuple(sorted(files.values()))


class Folders:
    """Inbox, outbox and spool; the first two may be moved away for a while."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.spool = base / "spool"
        self.away: set[str] = set()
        self._hashes: dict[str, Hashes] = {}  # id -> what job.json says, which never changes

    def place(self, kind: str) -> Path:
        """Give the inbox or the outbox where it is now."""
        return self.base / (f"{kind}.away" if kind in self.away else kind)

    @property
    def inbox(self) -> Path:
        """The inbox where it is now."""
        return self.place("inbox")

    @property
    def is_incomplete(self) -> bool:
        """Whether the service, once it has met its folders, lacks one of them or its sentinel."""
        sentinels = [self.base / kind / f".styletransferd-{kind}" for kind in ("inbox", "outbox")]
        return (self.spool / "met-outbox").exists() and not all(path.exists() for path in sentinels)

    def jobs(self) -> Jobs:
        """Find state and id of each job by its hashes."""
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


@dataclass
class Stage:
    """What scripts and checks share.

    Attributes:
        serial: numbers that make names and pictures unique.
        has_reloads: SIGHUP is one of the faults.
        unclear: number of scripts that are doing what a check could not evaluate, such as half a copy.
        check_is_due: nothing unclear may begin.
        is_calm: the service is not killed any more.
        is_over: scripts end.
        kept: path in the inbox -> bytes that must stay there unless a job holds them.
        expected_exits: exit codes that are right for the next end; empty: 0.
    """

    folders: Folders
    violations: Violations
    service: ServiceProcess
    random: Random
    serial: itertools.count[int]
    has_reloads: bool
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    drops: list[Drop] = field(default_factory=list)
    kept: dict[str, bytes] = field(default_factory=dict)
    expected_exits: set[int] = field(default_factory=set)
    unclear: int = 0
    check_is_due: bool = False
    is_calm: bool = False
    is_over: bool = False
    _scripts: list[tuple[float, int, Script]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def script_count(self) -> int:
        """Number of scripts that have not ended."""
        return len(self._scripts)

    def begin(self, script: Script, after_s: float = 0) -> None:
        """Let a script take part."""
        heapq.heappush(self._scripts, (time.monotonic() + after_s, next(self._order), script))

    def turn(self) -> None:
        """Let the next script continue, once it is due."""
        due, _, script = self._scripts[0]
        left_s = due - time.monotonic()
        if left_s > 0:
            time.sleep(min(left_s, 0.05))
            return
        heapq.heappop(self._scripts)
        with contextlib.suppress(StopIteration):
            self.begin(script, next(script))

    def wake_all(self) -> None:
        """Make every script due."""
        self._scripts = [(0, order, script) for _, order, script in self._scripts]
        heapq.heapify(self._scripts)

    @contextlib.contextmanager
    def no_check(self) -> Iterator[None]:
        """Put checks off while the drops are in a state that no check could evaluate."""
        self.unclear += 1
        try:
            yield
        finally:
            self.unclear -= 1

    def choose(self, weighted: Sequence[tuple[int, Callable[[Stage], Script]]]) -> Script:
        """Draw a script by its weight."""
        weights, scripts = zip(*weighted, strict=True)
        return self.random.choices(scripts, weights)[0](self)

    def pause_s(self, mean_s: float) -> float:
        """Draw an exponentially distributed pause."""
        return min(self.random.expovariate(1 / mean_s), 6 * mean_s)

    def update_ends(self, jobs: Jobs) -> None:
        """Mark the drops that have ended."""
        for drop in self.drops:
            version = drop.version(jobs)
            state, _ = jobs.get(hashes(version), ("", "")) if version else ("done", "")
            drop.is_ended = state in {"done", "failed"}


# Drops


def drop_pairs(stage: Stage) -> Script:
    """Drop something about every 0.7 s while fewer than `OPEN_DROPS` have not ended."""
    while not stage.is_over:
        if sum(not drop.is_ended for drop in stage.drops) >= OPEN_DROPS:
            stage.update_ends(stage.folders.jobs())
            yield 1
        elif not stage.check_is_due:
            stage.begin(stage.choose(DROPS))
        yield stage.pause_s(0.7)


def put_what_waits(stage: Stage) -> None:
    """Put what waits for ever into the inbox: links, devices, names that leave open what is meant."""
    outside = stage.folders.base / "outside"
    outside.mkdir()
    for name in ("photo.png", "style.png"):
        (outside / name).write_bytes(hostile.picture(seed=len(name)))
    (outside / hostile.OWN).write_bytes(b"content: photo.png\nstyle: style.png\n")
    cases = itertools.chain(hostile.odd_kinds(outside), hostile.waiting_names())
    made = hostile.put_all(cases, stage.folders.inbox / "odd")
    for case in made:
        stage.kept |= {f"odd/{case.name}/{name}": data for name, data in case.files.items()}
    stage.counts["waiting for ever"] = len(made)


def _plain(stage: Stage) -> Script:
    """Write the files one after the other, at once or with pauses."""
    folder, files = _pair(stage, "plain")
    has_pauses = stage.random.random() < 0.5
    for number, name in enumerate(files):
        if has_pauses and number:
            yield stage.pause_s(0.3)
        _put(stage, folder, {name: files[name]})
    _note(stage, files, "done")  # in the turn of the last file, before any check


def _slow(stage: Stage) -> Script:
    """Copy the files side by side, a piece at a time; where this machine stalls, halves may be taken."""
    folder, files = _pair(stage, "slow")
    halves: list[dict[str, str]] = []
    with stage.no_check():
        written = dict.fromkeys(files, 0)
        last = time.monotonic()
        while any(written[name] < len(data) for name, data in files.items()):
            if time.monotonic() - last > BELIEVED_S - SETTLE_S:
                halves.append({name: digest(files[name][: written[name]]) for name in files})
            last = time.monotonic()
            for name, data in files.items():
                size = max(1, len(data) // stage.random.randint(4, 12))
                with _path(stage, folder, name).open("r+b" if written[name] else "wb") as file:
                    file.seek(written[name])
                    file.write(data[written[name] : written[name] + size])
                written[name] = min(len(data), written[name] + size)
            yield 0.1
    drop = _note(stage, files, "done")
    if halves:
        stage.counts["slow copies that stalled"] += 1
        drop.versions[:0] = halves
        drop.ends |= {"not_a_picture", "bad_sidecar"}


def _shared(stage: Stage) -> Script:
    """Drop several photos for one painting, which comes last."""
    name = _new(stage, "shared")
    painting = {f"{name}.s": _picture(stage)}
    drops = []
    for stem in [f"{name}-{number}" for number in range(stage.random.randint(2, 4))]:
        sidecar = _sidecar(stage, stem, f"{stem}.c", f"{name}.s")
        drops.append({f"{stem}.yaml": sidecar, f"{stem}.c": _picture(stage)})
    for drop in drops:
        _put(stage, name, drop)
        yield stage.pause_s(0.3)
    _put(stage, name, painting)
    for drop in drops:
        _note(stage, drop | painting, "done")


def _replaced(stage: Stage) -> Script:
    """Drop a pair, then put another photo in its place, perhaps while the first is being taken."""
    folder, files = _pair(stage, "replaced")
    content = next(name for name in files if name.endswith(".c"))
    _put(stage, folder, files)
    drop = _note(stage, files, "done")
    yield stage.random.uniform(0, 2 * SETTLE_S)
    path, new = _path(stage, folder, content), _picture(stage)
    if stage.random.random() < 0.5:
        path.write_bytes(new)
    else:
        hidden = path.with_name(f".{path.name}")
        hidden.write_bytes(new)
        hidden.replace(path)
    drop.versions.append(drop.versions[0] | {content: digest(new)})
    stage.kept[str(Path(folder, content))] = new  # unless it is taken as this drop's


def _withdrawn(stage: Stage) -> Script:
    """Drop a pair and take some of it away again, perhaps while it is being taken; later the rest."""
    folder, files = _pair(stage, "withdrawn")
    _put(stage, folder, files)
    drop = _note(stage, files, "done")
    yield stage.random.uniform(0, 2 * SETTLE_S)
    for name in stage.random.sample(sorted(files), stage.random.randint(1, 3)):
        _path(stage, folder, name).unlink(missing_ok=True)
    drop.is_withdrawn = True
    yield 30
    for name in files:
        _path(stage, folder, name).unlink(missing_ok=True)


def _hostile(stage: Stage, cases: list[hostile.Case]) -> Script:
    """Drop a hostile case with sound pictures of its own, so that no two drops are alike."""
    case = stage.random.choice(cases)
    sound = set(case.files) - {hostile.OWN} if cases is ODD else SOUND & set(case.files)
    pictures = {
        name: hostile.picture(seed=next(stage.serial))
        for name in case.files
        if name in sound and not name.lower().endswith((".yaml", ".yml"))
    }
    files = {**case.files, **pictures}
    _put(stage, _new(stage, "hostile"), files)
    _note(stage, files, *case.ends)
    yield 0


def _cases(size: int, *cases: Iterable[hostile.Case]) -> list[hostile.Case]:
    """Choose the cases below a size whose jobs hold no file twice, which no check could evaluate."""
    every = itertools.chain(*cases)
    return [case for case in every if sum(map(len, case.files.values())) < size and not case.again]


SOUND: Final = {"sound.png", "case.content.png", "case.style.png"}  # the sound pictures of hostile cases
ODD: Final = _cases(1 << 20, hostile.odd_names(), hostile.good_sidecars())
BROKEN: Final = _cases(
    1 << 20, hostile.cut_pictures(), hostile.flipped_pictures(), hostile.other_formats(), hostile.bombs()
)
SIDECARS: Final = _cases(1 << 17, hostile.bad_sidecars())
DROPS: Final = (
    (8, _plain),
    (3, _slow),
    (2, _shared),
    (3, _replaced),
    (2, _withdrawn),
    (3, partial(_hostile, cases=BROKEN)),
    (3, partial(_hostile, cases=SIDECARS)),
    (2, partial(_hostile, cases=ODD)),
)


def _new(stage: Stage, kind: str) -> str:
    stage.counts[f"dropped: {kind}"] += 1
    return f"{kind}-{next(stage.serial)}"


def _pair(stage: Stage, kind: str) -> tuple[str, dict[str, bytes]]:
    """Make a sound drop: its folder, and its files in any order."""
    name = _new(stage, kind)
    files = {f"{name}.c": _picture(stage), f"{name}.s": _picture(stage)}
    files[f"{name}.yaml"] = _sidecar(stage, name, f"{name}.c", f"{name}.s")
    order = stage.random.sample(sorted(files), len(files))
    return stage.random.choice(["", "", "a", "b/c", "Ünïcode ☂"]), {file: files[file] for file in order}


def _picture(stage: Stage) -> bytes:
    width, height = stage.random.choice([(48, 48), (64, 48), (48, 64), (64, 64), (56, 48)])
    format_ = stage.random.choice(["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
    return hostile.picture(format_, next(stage.serial), width, height)


def _sidecar(stage: Stage, name: str, content: str, style: str) -> bytes:
    choose = stage.random.choice
    keys = {"content": content, "style": style, "size": choose([48, 64]), "iterations": choose(range(3, 13))}
    keys |= {"frames": {"every": choose([0, 2, 5])}, "priority": choose([0, 0, 0, 5, -5])}
    keys |= {"output": {"format": choose(["png", "jpeg", "webp", "tiff"])}}
    return f"# {name}\n{json.dumps(keys)}\n".encode()


def _path(stage: Stage, folder: str, name: str) -> Path:
    path = stage.folders.inbox / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _put(stage: Stage, folder: str, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        _path(stage, folder, name).write_bytes(data)


def _note(stage: Stage, files: Mapping[str, bytes], *ends: str) -> Drop:
    name = next(name for name in files if name.endswith((".yaml", ".YML")))
    stage.drops.append(Drop(name, [{name: digest(data) for name, data in files.items()}], set(ends)))
    return stage.drops[-1]


# Faults


def keep_running(stage: Stage) -> Script:
    """Start the service, and again whenever it has ended."""
    service = stage.service
    while True:
        if service.pid is None:
            if service.starts:
                service.collect_exit(stage.expected_exits or {0})
                stage.expected_exits = set()
                yield stage.random.choice([0, 0.5, 3])
            service.start()
            service.may_be_not_ready = bool(stage.folders.away) or stage.folders.is_incomplete
        yield 0.1


def disturb_processes(stage: Stage) -> Script:
    """Stop, kill and freeze the service, and kill its children, about every 30 s until it gets calm."""
    yield 20
    while not stage.is_over and not stage.is_calm:
        yield stage.pause_s(30)
        if not stage.is_over and stage.service.pid is not None and not stage.check_is_due:
            yield from stage.choose([*FAULTS, (2, _reload)] if stage.has_reloads else FAULTS)


def disturb_folders(stage: Stage) -> Script:
    """Take inbox or outbox away, or its sentinel as unmounting does, about every 25 s."""
    yield 20
    while not stage.is_over:
        yield stage.pause_s(25)
        if not stage.is_over:
            kind = stage.random.choice(["inbox", "outbox"])
            yield from stage.random.choice([_unmount, _move_away])(stage, kind)


def _terminate(stage: Stage) -> Script:
    """Ask the service to stop, sometimes twice."""
    service = stage.service
    stage.counts["fault: SIGTERM"] += 1
    stage.expected_exits = {0}
    if not service.events["service.started"] or service.age_s < 3:
        stage.expected_exits.add(-signal.SIGTERM)  # before it handles signals
    pid, begun = service.pid, time.monotonic()
    service.send(signal.SIGTERM)
    if stage.random.random() < 0.2:
        yield stage.random.uniform(0, 0.5)
        if service.pid == pid:
            service.send(signal.SIGTERM)
    while service.pid is not None and service.pid == pid:
        if time.monotonic() - begun > STOP_S:
            stage.violations.add(f"start {service.starts} did not stop within {STOP_S} s")
            stage.expected_exits = {-signal.SIGKILL}
            service.send(signal.SIGKILL)
        yield 0.1


def _kill(stage: Stage) -> Script:
    """Kill the service; its children must end with it."""
    stage.counts["fault: SIGKILL"] += 1
    children = list(stage.service.children())
    stage.expected_exits = {-signal.SIGKILL}
    stage.service.send(signal.SIGKILL)
    yield 5
    for pid in children:
        if any(word.startswith("daemon.") for word in words_of(pid)):
            stage.violations.add(f"child {pid} outlived its daemon: {words_of(pid)}")


def _kill_child(stage: Stage, package: str) -> Script:
    """Kill the engine or the sandbox."""
    for pid, module in stage.service.children().items():
        if module.startswith(package):
            stage.counts[f"fault: SIGKILL of the {package}"] += 1
            stage.service.may_be_not_ready = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    yield 0


def _freeze(stage: Stage) -> Script:
    """Stop the service for a while, while drops continue."""
    stage.counts["fault: SIGSTOP"] += 1
    pid = stage.service.pid
    stage.service.send(signal.SIGSTOP)
    yield stage.pause_s(3)
    if stage.service.pid == pid:
        stage.service.send(signal.SIGCONT)


def _reload(stage: Stage) -> Script:
    """Have the service read its config again."""
    if stage.service.is_ready:
        stage.counts["fault: SIGHUP"] += 1
        stage.service.send(signal.SIGHUP)
    yield 0


FAULTS: Final = (
    (3, _terminate),
    (5, _kill),
    (5, partial(_kill_child, package="engine")),
    (2, partial(_kill_child, package="sandbox")),
    (3, _freeze),
)


def _unmount(stage: Stage, kind: str) -> Script:
    """Take a sentinel away and put it back."""
    sentinel = stage.folders.base / kind / f".styletransferd-{kind}"
    if sentinel.exists():
        stage.counts[f"fault: {kind} without sentinel"] += 1
        yield from _take_away(stage, sentinel)


def _move_away(stage: Stage, kind: str) -> Script:
    """Move a whole folder away and back."""
    folder = stage.folders.base / kind
    if (folder / f".styletransferd-{kind}").exists() and not stage.check_is_due and not stage.unclear:
        stage.counts[f"fault: {kind} away"] += 1
        stage.folders.away.add(kind)
        yield from _take_away(stage, folder)
        stage.folders.away.discard(kind)


def _take_away(stage: Stage, path: Path) -> Script:
    """Rename a file or folder for about 5 s; nobody may make it again."""
    stage.service.may_be_not_ready = True
    away = path.rename(stage.folders.base / f"{path.name}.away")
    yield stage.pause_s(5)
    if path.exists():
        stage.violations.add(f"{path} was made again: {[str(below) for below in path.rglob('*')]}")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    away.rename(path)


# The operator


def operate(stage: Stage) -> Script:
    """Cancel, hold, release or retry a job about every 8 s."""
    while not stage.is_over:
        yield stage.pause_s(8)
        verb = stage.random.choice(list(VERBS))
        jobs = [(key, id_) for key, (state, id_) in stage.folders.jobs().items() if state in VERBS[verb]]
        if not jobs or stage.check_is_due or stage.is_over:
            continue
        key, id_ = stage.random.choice(jobs)
        for drop in stage.drops:
            if key in map(hashes, drop.versions):
                drop.is_ended = False
                drop.ends |= {"cancelled"} if verb == "cancel" else set()
        yield from ask(stage, verb, id_)


def ask(stage: Stage, *arguments: str) -> Script:
    """Run one command, while other scripts continue."""
    stage.counts[f"operator: {arguments[0]}"] += 1
    with stage.no_check():
        process = subprocess.Popen(
            command(*arguments, config=stage.folders.base / "config.yaml"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),
        )
        while process.poll() is None:
            yield 0.05
        said = process.communicate()[0].decode(errors="replace")
    if process.returncode not in {0, 1} or "Traceback" in said:
        stage.violations.add(f"{' '.join(arguments)}: exit {process.returncode}: {said[-2000:]}")


def tidy(stage: Stage) -> Script:
    """Remove folders of the inbox that have become empty."""
    while not stage.is_over:
        yield 20
        for path in [] if stage.unclear else sorted(stage.folders.inbox.rglob("*"), reverse=True):
            is_dropped = path.name[0] not in "_." and "odd" not in path.parts
            if is_dropped and path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.rmdir()
