"""Every disk that a kill can leave behind: seen at each operation of a run, put back, and resumed from.

A killed process leaves its disk and nothing else, and a new start knows nothing but that disk. So one run, with
its disk kept as it was before and during each operation, shows every kill in it; after one operation is before
the next. Two kills that leave the same disk need one new start. What is put back lies at the same paths, the
dropped files with the same inodes, since a job is known by them.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from daemon.errors import NotReady
from daemon.job import State
from support.fakes import Clock, Disk, FakeEngine
from support.trees import Stepper

if TYPE_CHECKING:
    from collections.abc import Iterable

    from support.trees import Tree

Still = tuple[tuple[str, bytes | int | None], ...]  # path -> bytes, the inode of a dropped file, None: a folder
# What is dropped, one job a letter (p is painted, f has a faulty sidecar), and what the engine does first.
CASES = {
    "painted": ("p", ()),
    "crashed once": ("p", ("crash",)),
    "crashed for good": ("p", ("crash",) * 3),
    "not paintable": ("p", ("job_error",)),
    "faulty": ("f", ()),
    "two and a faulty one": ("ppf", ()),
}
_STARTS = 50  # of a service whose environment does not allow a start: systemd tries again and again


class Stage:
    """A tree whose disk can be kept and put back."""

    def __init__(self, tree: Tree) -> None:
        """Keep the dropped files as they are."""
        self.tree = tree
        self.base = tree.inbox.parent
        self._originals = self.base.with_name(f"{self.base.name}-originals")
        self._originals.mkdir()
        self._inodes = set()
        for path in filter(os.path.isfile, tree.inbox.rglob("*")):
            inode = path.stat().st_ino
            os.link(path, self._originals / str(inode))
            self._inodes.add(inode)
        self.beginning = self.take()

    def take(self) -> Still:
        """Keep the disk as it is now."""
        found: list[tuple[str, bytes | int | None]] = []
        todo = [""]
        while todo:
            folder = todo.pop()
            with os.scandir(f"{self.base}{folder}") as items:
                for item in items:
                    path = f"{folder}/{item.name}"
                    if item.is_dir(follow_symlinks=False):
                        todo.append(path)
                        found.append((path, None))
                    elif item.inode() in self._inodes:
                        found.append((path, item.inode()))
                    else:
                        found.append((path, _read(f"{self.base}{path}")))
        return tuple(sorted(found, key=lambda entry: entry[0]))

    def put(self, still: Still) -> None:
        """Make the disk what it was."""
        shutil.rmtree(self.base)
        self.base.mkdir()
        for path, content in still:
            place = f"{self.base}{path}"
            if content is None:
                os.mkdir(place)  # noqa: PTH102 - thousands of times
            elif isinstance(content, int):
                os.link(self._originals / str(content), place)
            else:
                _write(place, content)

    def clear(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.base)
        shutil.rmtree(self._originals)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 24)
    finally:
        os.close(fd)


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def key_of(still: Still) -> bytes:
    """Name a disk by all it holds."""
    digest = hashlib.blake2b(digest_size=16)
    for path, content in still:
        kind = b"folder" if content is None else b"%d" % content if isinstance(content, int) else b"file"
        digest.update(b"%s\0%s\0" % (os.fsencode(path), kind))
        if isinstance(content, bytes):
            digest.update(hashlib.blake2b(content, digest_size=16).digest())
    return digest.digest()


@dataclass
class Met:
    """One disk that a kill can leave: what it holds, how it came about, and what was painted until then."""

    story: str
    kills: int
    still: Still
    starts: Counter[str]
    steps: Counter[str]


@dataclass
class Run:
    """One run to the end, and every disk that a kill in it leaves."""

    points: list[tuple[str, bytes]] = field(default_factory=list)  # "before 7", "during 7", "after 7": its disk
    met: dict[bytes, Met] = field(default_factory=dict)  # those never met before
    engine: FakeEngine = field(default_factory=FakeEngine)

    @property
    def keys(self) -> list[bytes]:
        """The disk of each point."""
        return [key for _, key in self.points]


class Sweep:
    """Kills and errors at every operation of one case."""

    def __init__(self, stage: Stage, *script: str, steps_lost: int | None = None) -> None:
        """Prepare.

        Args:
            stage: tree with the drops in its inbox.
            script: words for the engine's first calls.
            steps_lost: number of steps of a job that one kill may cost; None: nobody counts.
        """
        self.stage = stage
        self.broken: list[str] = []
        self.tried: Counter[str] = Counter()
        self._script = script
        self._steps_lost = steps_lost
        self._known: set[bytes] = set()
        self._resumed: dict[bytes, Run] = {}

    # Kills

    def kill(self, stride: int = 1, again: int = 0, *, start: int | None = None) -> None:
        """Die at operations of the first run, go on, and die once more at operations of what follows.

        Args:
            stride: stride through the disks that a kill leaves; each of them is resumed from.
            again: stride of the second kill; 0: there is none.
            start: first of these disks; the others are for sweeps with another start.
        """
        first = self.first()
        chosen = dict(list(first.met.items())[start or 0 :: stride])
        seconds = {}
        for key, met in chosen.items():
            seconds[key] = self._resume(key, met, is_watched=bool(again))
            for met_key, again_met in list(seconds[key].met.items())[:: again or 1]:
                self._resume(met_key, again_met, is_watched=False)
            seconds[key].met.clear()
        covered = set(self._resumed) if start is None else {*self._resumed, *first.met}
        for key in first.keys:
            if key in seconds:
                self.tried["kills"] += 1
                self.tried["double kills"] += sum(point in covered for point in seconds[key].keys)

    def first(self) -> Run:
        """Work off what was dropped, and meet every disk on the way."""
        self.stage.put(self.stage.beginning)
        self._known.clear()
        return self._watched(Met("", 0, (), Counter(), Counter()), *self._script)

    def labels(self) -> list[str]:
        """Name every operation of a run, in order: number, what is done, path."""
        found: list[str] = []
        self.stage.put(self.stage.beginning)
        disk = Disk(self.stage.base, on_moment=found.append)
        with Clock().attached():
            self._work_off(disk, FakeEngine(*self._script))
        return [label.removeprefix("before ") for label in found if label.startswith("before ")]

    def _resume(self, key: bytes, met: Met, *, is_watched: bool) -> Run:
        """Start on a disk and work everything off."""
        self.stage.put(met.still)
        self.tried["disks resumed from"] += 1
        run = Run()
        try:
            run = self._watched(met) if is_watched else self._unwatched(met)
        except Exception as error:  # noqa: BLE001 - whatever it was, the other disks are tried too
            self.broken.append(f"{met.story}: {type(error).__name__}: {error}")
        self._resumed[key] = run
        return run

    def _watched(self, begun: Met, *script: str) -> Run:
        """Work off what lies there, and keep every disk on the way."""
        run = Run(engine=FakeEngine(*script))
        disk = Disk(self.stage.base, on_moment=lambda label: self._meet(run, begun, label))
        with Clock().attached():
            self._work_off(disk, run.engine)
        self._meet(run, begun, "after")
        self._expect(run, begun, "the end", is_quiet=True)
        return run

    def _unwatched(self, begun: Met) -> Run:
        run = Run()
        with Clock().attached():
            self._work_off(Disk(self.stage.base), run.engine)
        self._expect(run, begun, "the end", is_quiet=True)
        return run

    def _meet(self, run: Run, begun: Met, label: str) -> None:
        """Keep a disk that a kill would leave now: after one operation, and before or during the next."""
        still = self.stage.take()
        key = key_of(still)
        moment, _, what = label.partition(" ")
        if moment != "during" and run.points:
            run.points.append((f"after {run.points[-1][0].partition(' ')[2]}", key))
        if what:
            run.points.append((f"{moment} {what.partition(':')[0]}", key))
        if key in self._known:
            return
        self._known.add(key)
        starts, steps = begun.starts + Counter(run.engine.calls), begun.steps + Counter(run.engine.steps)
        story = f"{begun.story}, then {label}" if begun.story else label
        run.met[key] = Met(story, begun.kills + 1, still, starts, steps)
        self._expect(run, begun, label, is_quiet=False)

    def _expect(self, run: Run, begun: Met, label: str, *, is_quiet: bool) -> None:
        """Check the invariant on the disk as it is now."""
        starts = begun.starts + Counter(run.engine.calls)
        try:
            self.stage.tree.check(is_quiet=is_quiet, starts=starts)
            if is_quiet and self._steps_lost is not None:
                self._count_steps(begun.steps + Counter(run.engine.steps), begun.kills)
        except (AssertionError, OSError, ValueError, KeyError) as error:
            story = begun.story or "the first run"
            self.broken.append(f"{story}, {label}: {type(error).__name__}: {error}")

    def _count_steps(self, steps: Counter[str], kills: int) -> None:
        for entry in self.stage.tree.spool.all_entries():
            allowed = entry.job.settings.iterations + kills * (self._steps_lost or 0)
            assert steps[entry.id] <= allowed, f"bounded work: {steps[entry.id]} steps, {allowed} allowed"

    # Errors

    def fail(self, numbers: Iterable[int], code: int, *, length: int = 1, moment: str = "torn") -> None:
        """Have operations of the first run fail, `length` in a row."""
        for number in numbers:
            disk = Disk(self.stage.base, number, length=length, code=code, moment=moment)
            if not self._fail_at(disk, self.stage.beginning, self._script):
                return

    def kill_and_fail(self, code: int, stride: int, start: int = 0) -> None:
        """Have each operation of a new start fail, after kills."""
        for met in list(self.first().met.values())[start::stride]:
            for number in itertools.count():
                if not self._fail_at(Disk(self.stage.base, number, code=code), met.still, (), met.story):
                    break

    def kill_and_fill(self) -> None:
        """Start on a disk that has no room left, and work off once there is some.

        Disks that hold no job are passed over: a first start makes folders, which takes room.
        """
        for met in list(self.first().met.values()):
            if any(path.endswith("/job.json") and path.split("/")[2] in set(State) for path, _ in met.still):
                disk = Disk(self.stage.base, 0, length=1 << 60, is_full=True)
                self._fill_at(disk, met)

    def _fail_at(self, disk: Disk, still: Still, script: tuple[str, ...], story: str = "") -> bool:
        self.stage.put(still)
        try:
            with Clock().attached():
                stepper = self._work_off(disk, FakeEngine(*script))
                with Disk(self.stage.base).attached():
                    stepper.until_quiet()  # without a new start: it comes to itself
            self.stage.tree.check(is_quiet=True)
        except Exception as error:  # noqa: BLE001 - whatever it was, the other operations are tried too
            self.broken.append(f"{story} {disk.hit}: {type(error).__name__}: {error}")
        self.tried["errors"] += disk.has_struck
        return disk.has_struck

    def _fill_at(self, disk: Disk, met: Met) -> None:
        self.stage.put(met.still)
        try:
            with Clock().attached():
                with disk.attached():
                    stepper = Stepper(self.stage.tree.config, FakeEngine())
                    stepper.turn()
                    self.stage.tree.check()
                with Disk(self.stage.base).attached():
                    stepper.until_quiet()
            self.stage.tree.check(is_quiet=True)
        except Exception as error:  # noqa: BLE001 - whatever it was, the other disks are tried too
            self.broken.append(f"{met.story}, {disk.hit}: {type(error).__name__}: {error}")
        self.tried["starts without room"] += 1

    def _work_off(self, disk: Disk, engine: FakeEngine) -> Stepper:
        """Start, again where the environment does not allow it, and turn until all is done."""
        with disk.attached():
            stepper = _started(self.stage.tree, engine)
            stepper.until_quiet()
        return stepper

    def assert_unbroken(self) -> None:
        """Fail with all that broke."""
        assert not self.broken, f"{len(self.broken)} broke\n" + "\n".join(self.broken[:30])


def _started(tree: Tree, engine: FakeEngine) -> Stepper:
    for _ in range(_STARTS):
        try:
            return Stepper(tree.config, engine)
        except NotReady:
            continue
    raise AssertionError(f"no start in {_STARTS} tries")
