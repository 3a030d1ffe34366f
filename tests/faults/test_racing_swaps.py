"""Somebody swaps files and folders of the inbox at every moment: nothing of theirs is removed or led astray.

A moment is the instant before a system call of ours, for each call from the first to the last, and after it; of
the walk down to the inbox, only the steps from the test's own folder on count.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import pytest
from support.desk import accept
from support.fakes import Disk, FakeEngine, Killed
from support.trees import Stepper, digest

from daemon import files
from daemon.errors import NotTaken
from daemon.inbox import retire
from daemon.job import Drop, Job, Part, Stamp, State
from daemon.sandbox.client import Found
from daemon.settings import Settings
from daemon.spool import Spool

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

    from support.trees import Tree

CALLS: Final = ("open", "stat", "fstat", "read", "rename", "link", "unlink", "mkdir")
ROLES: Final = {"sidecar": "a.yaml", "content": "a.png", "style": "b.png"}
SECRET: Final = b"a secret that lies outside of the inbox"
NEWER: Final = b"somebody's newer bytes"
HIDDEN: Final = ".styletransferd-"


@pytest.fixture(autouse=True)
def _without_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the time: nobody here loses power."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


@dataclass
class Race:
    """Lets something happen right before the n-th of our system calls, once."""

    base: Path
    moment: int | None  # None: never
    act: Callable[[], None]
    forbidden: set[tuple[int, int]] = field(default_factory=set)  # (dev, ino) that no descriptor may lead to
    count: int = 0
    opened: list[int] = field(default_factory=list)  # the number of each call that opened a forbidden file
    _is_acting: bool = False

    @contextmanager
    def attached(self) -> Iterator[Race]:
        """Stand in for the system's calls."""
        with mock.patch.multiple(os, **{name: self._wrapped(name, getattr(os, name)) for name in CALLS}):
            yield self
        if self.moment is not None and self.count <= self.moment:
            self.act()

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if self._is_acting or args[0] in self.base.parts:
                return real(*args, **options)
            if self.moment == self.count:
                self._is_acting = True
                self.act()
                self._is_acting = False
            self.count += 1
            result = real(*args, **options)
            if name == "open" and self._leads_astray(result):
                self.opened.append(self.count)
            return result

        return call

    def _leads_astray(self, fd: int) -> bool:
        self._is_acting = True
        found = os.fstat(fd)
        self._is_acting = False
        return (found.st_dev, found.st_ino) in self.forbidden


@dataclass
class Scene:
    """A drop in a folder of an inbox, and a world outside."""

    base: Path

    def __post_init__(self) -> None:
        self.inbox = self.base / "inbox"
        self.folder = self.inbox / "sub" / "deep"
        self.outside = self.base / "outside"
        self.folder.mkdir(parents=True)
        self.outside.mkdir()
        (self.outside / "secret.png").write_bytes(SECRET)
        for name in ROLES.values():
            (self.folder / name).write_bytes(b"the original bytes of " + name.encode())
        self.originals = {name: (self.folder / name).read_bytes() for name in ROLES.values()}
        self.swapped: tuple[int, int] | None = None  # what was put in place, by (dev, ino)

    def job(self) -> Job:
        """Make the job of the drop, as the spool would have it."""
        parts = []
        for role, name in ROLES.items():
            path = self.folder / name
            stamp = Stamp.of(path.stat())
            parts.append(Part(role, name, f"{role}-0", *stamp, sha256=digest(path.read_bytes())))  # type: ignore[arg-type]
        return Job("0" * 16, 1, "a", "sub/deep", tuple(parts), "default", None, "2026-01-01T00:00:00+00:00")

    def drop(self) -> Drop:
        """Make the drop, as the scan saw it."""
        parts = [
            Part(role, name).seen(Stamp.of((self.folder / name).stat()))  # type: ignore[arg-type]
            for role, name in ROLES.items()
        ]
        return Drop("a", Path("sub/deep"), tuple(parts), "default", Settings(), inbox=self.inbox)

    def world(self) -> dict[str, bytes]:
        """Give every file outside of the inbox with its bytes."""
        return {str(path): path.read_bytes() for path in self.outside.rglob("*") if path.is_file()}

    def find(self, identity: tuple[int, int]) -> list[Path]:
        """Find where something lies in the inbox by now."""
        return [path for path in self.inbox.rglob("*") if _identity(path) == identity]

    def hidden(self) -> list[Path]:
        """Find what is left set aside."""
        return [path for path in self.base.rglob("*") if path.name.startswith(HIDDEN)]


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def _put(scene: Scene, name: str, kind: str) -> None:
    """Make something beside the inbox and rename it into a file's place, as `mv` does."""
    made, place = scene.base / "made", scene.folder / name
    KINDS[kind](scene, made)
    scene.swapped = _identity(made)
    if made.is_dir() and not made.is_symlink() and place.exists():
        place.unlink()
    made.rename(place)


def _folder(_scene: Scene, path: Path) -> None:
    path.mkdir()
    (path / "inside").write_bytes(NEWER)


KINDS: Final[dict[str, Callable[[Scene, Path], object]]] = {
    "a newer file": lambda _scene, made: made.write_bytes(NEWER),
    "a link to a file outside": lambda scene, made: made.symlink_to(scene.outside / "secret.png"),
    "a link to nowhere": lambda _scene, made: made.symlink_to("nowhere"),
    "a link to the outside": lambda scene, made: made.symlink_to(scene.outside, target_is_directory=True),
    "a hard link to a file outside": lambda scene, made: made.hardlink_to(scene.outside / "secret.png"),
    "a folder": _folder,
    "a FIFO": lambda _scene, made: os.mkfifo(made),
}


# Every day one of each sort: a file, a link that leads out, a folder.
SOME_KINDS: Final = [
    kind
    if kind in {"a newer file", "a link to a file outside", "a folder"}
    else pytest.param(kind, marks=pytest.mark.nightly)
    for kind in KINDS
]


def _races(
    tmp_path: Path, tried: Counter[str], what: str, run: Callable[..., object], act: Callable[[Scene], None]
) -> Iterator[tuple[Scene, Race]]:
    """Run something once for each moment, with a swap at it, each on a tree of its own."""
    moment, last = 0, None
    while last is None or moment <= last:
        scene = Scene(tmp_path / f"{moment}")
        if last is None:
            race = Race(scene.base, None, lambda: None)
            run(scene, race)
            last = race.count
            shutil.rmtree(scene.base)
            scene = Scene(tmp_path / f"{moment}")
        secret = _identity(scene.outside / "secret.png")
        race = Race(scene.base, moment, lambda scene=scene: act(scene), {secret})  # type: ignore[misc]
        run(scene, race)
        tried[what] += 1
        yield scene, race
        shutil.rmtree(scene.base)
        moment += 1
    assert last > 10


def _left(scene: Scene, job: Job, *, keeps: bool = False) -> dict[str, str]:
    """Retire a job's originals; returns what remains of them."""
    with files.opened_folder(scene.inbox) as root:
        return retire.retire(root, job, (), keeps=keeps)[0]


def _retire(scene: Scene, race: Race, *, keeps: bool = False) -> dict[str, str]:
    job = scene.job()
    with race.attached():
        return _left(scene, job, keeps=keeps)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", SOME_KINDS)
@pytest.mark.parametrize(("role", "keeps"), [("sidecar", False), ("content", True)])
def test_what_was_swapped_in_outlives_the_retiring(
    role: str, kind: str, tmp_path: Path, tried: Counter[str], *, keeps: bool
) -> None:
    """Whenever an original is replaced, the new thing is there after, in sight, whole; none was led outside."""
    name, run, swap = ROLES[role], partial(_retire, keeps=keeps), partial(_put, name=ROLES[role], kind=kind)
    for scene, race in _races(tmp_path, tried, "swaps while originals are retired", run, swap):
        assert scene.swapped
        (place,) = scene.find(scene.swapped)
        is_own = place == scene.folder / name
        assert is_own or (place.parent == scene.folder and place.name.startswith("put-back-")), place
        assert scene.hidden() == []
        assert scene.world() == {str(scene.outside / "secret.png"): SECRET}
        if kind == "a folder":
            assert (place / "inside").read_bytes() == NEWER
        if kind == "a newer file":
            assert place.read_bytes() == NEWER
        if "hard link" not in kind:  # which is a file like any other until it is looked at
            assert race.opened == []
        others = [other for other in ROLES.values() if other != name]
        assert not [other for other in others if (scene.folder / other).exists()]


@pytest.mark.timeout(60)
def test_a_name_that_is_taken_again_at_once_costs_neither_file(tmp_path: Path, tried: Counter[str]) -> None:
    """Where the name of what was set aside is taken before it is back, both new files are there after."""
    place: list[Path] = []
    real = os.rename

    def rename(source: str, target: str, **options: Any) -> None:
        real(source, target, **options)
        if source == "a.png":
            place[-1].write_bytes(b"a second newer file")

    def run(scene: Scene, race: Race) -> None:
        place.append(scene.folder / "a.png")
        with mock.patch.object(os, "rename", rename):
            _retire(scene, race)

    both, swap = 0, partial(_put, name="a.png", kind="a newer file")
    for scene, _race in _races(tmp_path, tried, "swaps of a name that is taken again", run, swap):
        assert scene.swapped
        found = sorted(path.read_bytes() for path in scene.folder.iterdir())
        if len(found) == 2:
            both += 1
            (put_back,) = scene.find(scene.swapped)
            assert put_back.name.startswith("put-back-")
            assert found == [b"a second newer file", NEWER]
        else:
            assert found == [NEWER]
        assert scene.hidden() == []
    assert both


def _lead_outside(scene: Scene, part: str) -> None:
    """Put a link to the outside in a folder's place."""
    folder = scene.inbox / part
    folder.rename(scene.inbox / "moved")
    folder.symlink_to(scene.outside, target_is_directory=True)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("keeps", [False, True], ids=["removed", "kept"])
@pytest.mark.parametrize("part", ["sub", "sub/deep"])
def test_a_folder_swapped_for_a_link_leads_nowhere(
    part: str, tmp_path: Path, tried: Counter[str], *, keeps: bool
) -> None:
    """A link to a folder outside, with the very same files in it, removes, moves and opens nothing there."""

    def run(scene: Scene, race: Race) -> None:
        twin = scene.outside / ("deep" if part == "sub" else "")
        twin.mkdir(exist_ok=True)
        for name in ROLES.values():
            (twin / name).hardlink_to(scene.folder / name)
        _retire(scene, race, keeps=keeps)

    swap = partial(_lead_outside, part=part)
    for scene, _race in _races(tmp_path, tried, "swaps of a folder while originals are retired", run, swap):
        twin = scene.outside / ("deep" if part == "sub" else "")
        found = {path.name: path.read_bytes() for path in twin.iterdir() if path.is_file()}
        assert found == scene.originals | ({} if part == "sub" else {"secret.png": SECRET})
        assert scene.hidden() == []


@pytest.mark.parametrize("target", ["a folder outside", "a file outside", "nowhere"])
def test_a_link_in_the_place_of_accepted_is_not_followed(target: str, tmp_path: Path) -> None:
    """Where `_accepted` is a link, originals stay in sight with the reason; nothing is made outside."""
    scene = Scene(tmp_path)
    goal = {"a folder outside": "", "a file outside": "secret.png", "nowhere": "new"}[target]
    (scene.inbox / "_accepted").symlink_to(scene.outside / goal)
    remaining = _retire(scene, Race(tmp_path, None, lambda: None), keeps=True)
    assert set(remaining) == set(ROLES.values())
    assert set(remaining.values()) == {"accepted but present: _accepted is no folder"}
    assert {path.name: path.read_bytes() for path in scene.folder.iterdir()} == scene.originals
    assert list(scene.outside.iterdir()) == [scene.outside / "secret.png"]


def test_nothing_in_accepted_is_ever_replaced(tmp_path: Path, tried: Counter[str]) -> None:
    """Whenever somebody puts a file where an original is to be kept, both are there after."""

    def put(scene: Scene) -> None:
        place = scene.inbox / "_accepted" / "sub" / "deep"
        place.mkdir(parents=True, exist_ok=True)
        for name in ROLES.values():
            if not (place / name).exists():
                (place / name).write_bytes(NEWER)

    run = partial(_retire, keeps=True)
    for scene, _race in _races(tmp_path, tried, "swaps in _accepted", run, put):
        kept = [path.read_bytes() for path in (scene.inbox / "_accepted").rglob("*") if path.is_file()]
        assert {data for data in kept if data != NEWER} == set(scene.originals.values())
        assert kept.count(NEWER) + len(scene.originals) == len(kept)
        assert scene.hidden() == []


# Kills and shares


@pytest.mark.parametrize("keeps", [False, True], ids=["removed", "kept"])
def test_a_killed_retiring_is_finished_by_the_next_start(
    tmp_path: Path, tried: Counter[str], *, keeps: bool
) -> None:
    """Killed before, during or after any change, the next try leaves nothing hidden and nothing double."""
    number = 0
    while True:
        scene = Scene(tmp_path / f"{number}")
        job = scene.job()
        disk = Disk(scene.base, number // 2, moment=("before", "after")[number % 2], is_kill=True)
        try:
            with disk.attached():
                _left(scene, job, keeps=keeps)
        except Killed:
            tried["kills while originals are retired"] += 1
        else:
            break
        assert _left(scene, job, keeps=keeps) == {}
        left = [path for path in scene.inbox.rglob("*") if path.is_file()]
        assert sorted(path.name for path in left) == (sorted(ROLES.values()) if keeps else [])
        assert {path.parts[len(scene.inbox.parts)] for path in left} == ({"_accepted"} if keeps else set())
        number += 1
    assert number > 10


def test_what_was_dropped_after_a_kill_is_not_removed_with_the_old(tmp_path: Path) -> None:
    """A new file under the name of one that was set aside when a kill came stays, and the old one goes."""
    scene = Scene(tmp_path)
    job = scene.job()
    (scene.folder / "a.png").rename(scene.folder / f"{HIDDEN}{job.id}-content-0")
    (scene.folder / "a.png").write_bytes(NEWER)
    assert _left(scene, job) == {}
    assert [path.name for path in scene.folder.iterdir()] == ["a.png"]
    assert (scene.folder / "a.png").read_bytes() == NEWER


@pytest.mark.parametrize("is_same", [True, False], ids=["same bytes", "other bytes"])
def test_a_share_that_gives_a_renamed_file_another_number_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_same: bool
) -> None:
    """After the rename the inode's number is no help; size, time and bytes tell whether it is the original."""
    scene = Scene(tmp_path)
    job = scene.job()
    path = scene.folder / "a.png"
    renamed, real, rename = False, Stamp.of, os.rename

    def move(source: str, target: str, **options: Any) -> None:
        nonlocal renamed
        if source == "a.png" and not is_same:
            before = path.stat()
            with path.open("r+b") as file:
                file.write(b"THE")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        rename(source, target, **options)
        renamed = True

    def of(status: os.stat_result) -> Stamp:
        stamp = real(status)
        return stamp._replace(ino=stamp.ino + 1) if renamed else stamp

    monkeypatch.setattr(os, "rename", move)
    monkeypatch.setattr(Stamp, "of", of)
    part = next(part for part in job.parts if part.role == "content")
    alone = Job(**{**vars(job), "parts": (part,)})
    assert _left(scene, alone) == {}
    assert path.exists() is not is_same
    assert scene.hidden() == []
    if not is_same:
        assert path.read_bytes().startswith(b"THE original")


def test_a_file_that_cannot_be_read_any_more_is_shown_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error after it was set aside does not leave a file out of sight; the reason is reported."""
    scene = Scene(tmp_path)
    job, real = scene.job(), os.open

    def refuse(path: Any, *args: Any, **options: Any) -> int:
        if str(path).startswith(HIDDEN):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    remaining = _left(scene, job)
    assert set(remaining.values()) == {"accepted but present: Permission denied"}
    assert {path.name: path.read_bytes() for path in scene.folder.iterdir()} == scene.originals


def test_a_name_is_always_found(tmp_path: Path) -> None:
    """However many names are taken, what was swapped in is shown under one, and replaces nothing."""
    scene = Scene(tmp_path)
    job = scene.job()
    taken = ["a.png", f"put-back-{job.id}-content-0", f"put-back-{job.id}-2-content-0"]
    (scene.folder / "a.png").unlink()
    for name in taken:
        (scene.folder / name).write_bytes(name.encode())
    (scene.folder / f"{HIDDEN}{job.id}-content-0").write_bytes(NEWER)
    _left(scene, job)
    assert (scene.folder / f"put-back-{job.id}-3-content-0").read_bytes() == NEWER
    assert [(scene.folder / name).read_bytes() for name in taken] == [name.encode() for name in taken]
    assert scene.hidden() == []


# Accepting


def _accept(scene: Scene, race: Race) -> Spool:
    spool, drop = Spool(scene.base / "spool"), scene.drop()
    spool.prepare()
    with race.attached(), suppress(NotTaken):
        accept(spool, drop, decoder=SimpleNamespace(inspect=lambda *_, **__: ((64, 64), Found())))
    return spool


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", SOME_KINDS)
def test_only_what_the_scan_saw_is_accepted(kind: str, tmp_path: Path, tried: Counter[str]) -> None:
    """Whenever a picture is replaced during the copy, the spool has all originals or none, never a secret."""
    endings, swap = set(), partial(_put, name="a.png", kind=kind)
    for scene, race in _races(tmp_path, tried, "swaps while a drop is accepted", _accept, swap):
        spool = Spool(scene.base / "spool")
        copies = {path.read_bytes() for path in spool.root.rglob("*") if path.is_file()}
        assert not [data for data in copies if SECRET in data or NEWER in data]
        found = list(spool.all_entries())
        if found:
            (entry,) = found
            assert entry.state is State.QUEUED
            assert {path.read_bytes() for path in entry.inputs.iterdir()} == set(scene.originals.values())
        endings.add(len(found))
        assert list((spool.root / "tmp").iterdir()) == []
        if "hard link" not in kind:
            assert race.opened == []
        assert scene.swapped
        assert scene.find(scene.swapped) == [scene.folder / "a.png"]
        assert scene.world() == {str(scene.outside / "secret.png"): SECRET}
    assert endings == {0, 1}


@pytest.mark.parametrize("part", ["sub", "sub/deep"])
def test_a_drop_is_not_read_through_a_link(part: str, tmp_path: Path, tried: Counter[str]) -> None:
    """A folder of the path swapped for a link to one outside has nothing outside opened."""
    seen: list[Race] = []

    def run(scene: Scene, race: Race) -> None:
        twin = scene.outside / ("deep" if part == "sub" else "")
        twin.mkdir(exist_ok=True)
        for name in ROLES.values():
            (twin / name).write_bytes(SECRET)
            race.forbidden.add(_identity(twin / name))
        _accept(scene, race)
        seen.append(race)

    swap = partial(_lead_outside, part=part)
    for scene, race in _races(tmp_path, tried, "swaps of a folder while a drop is accepted", run, swap):
        assert race.opened == []
        copies = [path.read_bytes() for path in (scene.base / "spool").rglob("*") if path.is_file()]
        assert not [data for data in copies if SECRET in data]
    assert len(seen) > 10


# The whole intake


@pytest.mark.parametrize("name", ["sea.yaml", "sea.jpg"])
def test_a_swap_during_a_look_loses_and_leaks_nothing(
    name: str, make_tree: Callable[[str], Tree], tmp_path: Path, tried: Counter[str]
) -> None:
    """A file of a drop that becomes a link at some moment of a turn is neither read through nor removed."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"size: 48\n# " + SECRET)
    last, moment = None, 0
    while last is None or moment <= last:
        tree = make_tree(f"{name}-{moment}-{last is None}")
        stepper = Stepper(tree.config, FakeEngine())
        tree.drop("sea")
        tree.drops.clear()
        stepper.look()  # once to see it; settled at the next

        def swap(place: Path = tree.inbox / name) -> None:
            made = place.with_name("made")
            made.symlink_to(secret)
            made.rename(place)

        race = Race(tmp_path, None if last is None else moment, swap, {_identity(secret)})
        stepper.service.stop.wait(0.002)
        with race.attached():
            stepper.look()
        if last is None:
            last = race.count
            continue
        tried["swaps during a whole turn of the intake"] += 1
        assert race.opened == []
        assert stat.S_ISLNK((tree.inbox / name).lstat().st_mode)
        copies = [path.read_bytes() for path in tree.config.folders.spool.rglob("*") if path.is_file()]
        assert not [data for data in copies if SECRET in data]
        shutil.rmtree(tree.inbox.parent)
        moment += 7
    assert last > 50
