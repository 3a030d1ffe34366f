"""One turn of the inbox: scan, settle, pair, then accept what is complete and say why the rest waits."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from daemon import documents, files, logs, sidecar
from daemon.errors import Failure, NotTaken
from daemon.inbox import pairing, retire
from daemon.inbox.settle import Settle
from daemon.job import Drop, DropPart, Job, Stamp, natural_key, printable

if TYPE_CHECKING:
    from daemon.config import Config
    from daemon.inbox.pairing import Group, Member
    from daemon.sidecar import Sidecar

log = logs.get(__name__)

IGNORED: Final = (
    *(".*", "~*", "*~", "*.tmp", "*.part", "*.partial", "*.filepart", "*.crdownload", "*.download", "*.swp"),
    *("~$*", "Thumbs.db", "desktop.ini", "@eaDir/", "__MACOSX/", "lost+found/", "_accepted/", "_rejected/"),
)
# A fault is believed once the files have been quiet for so many times settle_s: a copy may stall.
DOUBT_FACTOR: Final = 5


class Sink(Protocol):
    """What takes a complete drop."""

    def __call__(self, drop: Drop, *, believes_faults: bool) -> Job:
        """Commit a drop.

        Raises:
            NotTaken: it stays in the inbox.
        """


@dataclass(frozen=True)
class Waiting:
    """Something in the inbox that is not being worked on, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What one turn did."""

    accepted: tuple[Job, ...]
    waiting: tuple[Waiting, ...]
    retired: tuple[str, ...]  # ids of jobs that are done with the inbox
    files: int
    due_s: float | None  # until a file may be settled or a fault believed
    is_at_rest: bool  # nothing is being written or doubted: what waits, waits for somebody


@dataclass
class _Turn:
    """What gathers up during one turn."""

    now: float
    accepted: list[Job] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    retired: list[str] = field(default_factory=list)
    dues: list[float] = field(default_factory=list)


@dataclass
class _Folder:
    """One folder of the inbox as scanned."""

    path: Path  # relative to the inbox
    stamps: dict[str, Stamp] = field(default_factory=dict)  # regular files
    strange: dict[str, str] = field(default_factory=dict)  # anything else: name -> what it is
    groups: list[Group] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)  # sidecars that are not settled yet


class Intake:
    """The inbox and what is remembered of it from turn to turn."""

    def __init__(self, config: Config, sink: Sink, unretired: list[Job]) -> None:
        """Prepare for turns.

        Args:
            config: the whole config.
            sink: where complete drops go.
            unretired: accepted jobs whose originals may still be here.
        """
        self._root = config.folders.inbox
        self._library = config.folders.styles
        self._house = config.defaults
        self._options = config.inbox
        self._ignored = [pattern.casefold() for pattern in (*IGNORED, *config.inbox.ignore)]
        self._sink = sink
        self._settle = Settle()
        self._pending: dict[str, Job] = {}
        self._triggers: dict[tuple[str, str], Stamp] = {}  # of the pending: the file that stands for the drop
        self._sidecars: dict[str, tuple[Stamp, Sidecar, str]] = {}
        self._reasons: dict[str, str] = {}
        self._noticed: set[str] = set()
        for job in unretired:
            self._remember(job)

    def _remember(self, job: Job) -> None:
        self._pending[job.id] = job
        self._triggers[job.folder, job.parts[0].name] = job.parts[0].stamp

    def _forget(self, job: Job) -> None:
        del self._pending[job.id]
        if self._triggers.get((job.folder, job.parts[0].name)) == job.parts[0].stamp:
            del self._triggers[job.folder, job.parts[0].name]

    def turn(self, now: float) -> Report:
        """Look at everything once.

        Args:
            now: monotonic time in seconds.

        Raises:
            OSError: the inbox cannot be read, or the sink's disk is full.
        """
        turn = _Turn(now)
        folders = self._scan()
        self._settle.observe(
            {str(folder.path / name): stamp for folder in folders for name, stamp in folder.stamps.items()},
            now,
        )
        self._watch_settling(folders, turn)
        for folder in folders:
            self._pair(folder, turn)
        self._accept_complete(folders, turn)
        self._retire_pending(folders, turn)
        self._name_orphans(folders, turn)
        return self._report(folders, turn)

    # Scanning

    def _scan(self) -> list[_Folder]:
        found, todo = [], [Path()]
        while todo:
            folder = _Folder(todo.pop())
            found.append(folder)
            with os.scandir(self._root / folder.path) as items:
                for item in items:
                    is_folder = item.is_dir(follow_symlinks=False)
                    if self._is_ignored(item.name, is_folder=is_folder):
                        continue
                    if is_folder:
                        todo.append(folder.path / item.name)
                    else:
                        _classify(folder, item)
        return found

    def _is_ignored(self, name: str, *, is_folder: bool) -> bool:
        name = name.casefold()
        return any(
            fnmatch.fnmatchcase(f"{name}/" if pattern.endswith("/") else name, pattern)
            for pattern in self._ignored
            if is_folder or not pattern.endswith("/")
        )

    # Settling

    def _quiet_s(self, folder: _Folder, name: str, turn: _Turn) -> float:
        return self._settle.quiet_s(str(folder.path / name), turn.now)

    def _is_settled(self, folder: _Folder, name: str, turn: _Turn) -> bool:
        return self._quiet_s(folder, name, turn) >= self._options.settle_s

    def _watch_settling(self, folders: list[_Folder], turn: _Turn) -> None:
        """Note when each file that is still moving may be settled."""
        for folder in folders:
            for name in folder.stamps:
                left = self._options.settle_s - self._quiet_s(folder, name, turn)
                if left > 0:
                    turn.dues.append(left)
                    turn.waiting[_path(folder, name)] = "still being written"

    # Pairing

    def _pair(self, folder: _Folder, turn: _Turn) -> None:
        names = [*folder.stamps, *folder.strange]
        library = self._library_names()
        for name in sorted((name for name in folder.stamps if pairing.is_sidecar(name)), key=natural_key):
            if self._is_accepted(folder, name):
                continue
            self._notice(folder, name)
            if not self._is_settled(folder, name, turn):
                folder.unread.append(name)
                continue
            try:
                read = self._read_sidecar(folder, name)
            except (OSError, files.ChangedError) as error:
                turn.waiting[_path(folder, name)] = (
                    f"cannot be read: {getattr(error, 'strerror', None) or error}"
                )
                folder.unread.append(name)
                continue
            folder.groups.append(pairing.pair_sidecar(name, read, names, library))
        if self._options.sidecar == "optional":
            claimed = {name for group in folder.groups for name in group.local_names}
            for group in pairing.pair_bare(names, claimed):
                if not self._is_accepted(folder, group.trigger):
                    self._notice(folder, group.trigger)
                    folder.groups.append(group)

    def _library_names(self) -> list[str]:
        try:
            return os.listdir(self._library) if self._library else []
        except OSError:
            return []  # its pictures then count as missing, and say so

    def _read_sidecar(self, folder: _Folder, name: str) -> Sidecar:
        """Read a settled sidecar, once for each state of the file."""
        path, stamp = str(folder.path / name), folder.stamps[name]
        known = self._sidecars.get(path)
        if known and known[0] == stamp:
            return known[1]
        fd = files.open_regular(self._root / folder.path, name)
        with os.fdopen(fd, "rb") as file:
            data = file.read(documents.MAX_BYTES + 1)
        read = sidecar.parse(data, printable(name), self._house)
        self._sidecars[path] = (stamp, read, hashlib.sha256(data).hexdigest())
        return read

    def _is_accepted(self, folder: _Folder, name: str) -> bool:
        """Tell whether a file is the unchanged original of a job that the spool has already."""
        return self._triggers.get((str(folder.path), name)) == folder.stamps[name]

    def _notice(self, folder: _Folder, name: str) -> None:
        path = _path(folder, name)
        if path not in self._noticed:
            self._noticed.add(path)
            log.info("inbox.noticed", path=path)

    # Accepting

    def _accept_complete(self, folders: list[_Folder], turn: _Turn) -> None:
        groups = [(folder, group) for folder in folders for group in folder.groups]
        for folder, group in sorted(groups, key=lambda item: natural_key(_path(item[0], item[1].trigger))):
            reason = self._obstacle(folder, group, turn)
            if not reason:
                reason = self._accept(folder, group, turn)
            if reason:
                turn.waiting[_path(folder, group.trigger)] = reason

    def _obstacle(self, folder: _Folder, group: Group, turn: _Turn) -> str:
        """Say what a group still waits for, or nothing."""
        if group.missing:
            return f"waiting for {', '.join(printable(name) for name in group.missing)}"
        for member in group.members:
            if member.library:
                continue
            if member.name in folder.strange:
                return f"{printable(member.name)} is {folder.strange[member.name]}"
            if not self._is_settled(folder, member.name, turn):
                return f"{printable(member.name)} is still being written"
        return ""

    def _accept(self, folder: _Folder, group: Group, turn: _Turn) -> str:
        quiet = min(self._quiet_s(folder, member.name, turn) for member in group.members if not member.library)
        believe_s = DOUBT_FACTOR * self._options.settle_s
        drop = self._drop(folder, group)
        if isinstance(drop, str):
            return drop
        if drop.failure and quiet < believe_s:
            turn.dues.append(believe_s - quiet)
            return f"not ready: {drop.failure.message}"
        try:
            job = self._sink(drop, believes_faults=quiet >= believe_s)
        except NotTaken as error:
            if quiet < believe_s:
                turn.dues.append(believe_s - quiet)
            return f"not ready: {error}"
        self._remember(job)
        folder.groups.remove(group)
        turn.accepted.append(job)
        if job.failure:
            retire.note_rejection(self._root, job)
        return ""

    def _drop(self, folder: _Folder, group: Group) -> Drop | str:
        parts = []
        for member in group.members:
            part = self._part(folder, member)
            if isinstance(part, str):
                return part
            parts.append(part)
        read, digest = group.sidecar, None
        if read is None:
            read = sidecar.read({}, "", self._house)
        else:
            digest = self._sidecars[str(folder.path / group.trigger)][2]
        return Drop(
            stem=group.stem,
            folder=folder.path,
            parts=tuple(parts),
            preset=read.preset,
            settings=read.settings,
            sidecar_sha256=digest,
            failure=Failure.of_faults(read.faults) if read.faults else None,
        )

    def _part(self, folder: _Folder, member: Member) -> DropPart | str:
        if not member.library or self._library is None:
            place, stamp = self._root / folder.path, folder.stamps[member.name]
        else:
            place = self._library
            try:
                stamp = Stamp.of((place / member.name).stat())
            except OSError as error:
                return f"{printable(member.name)} in the styles library: {error.strerror}"
        return DropPart(member.role, member.name, place, stamp, member.weight, member.library)

    # Retiring

    def _retire_pending(self, folders: list[_Folder], turn: _Turn) -> None:
        by_path = {str(folder.path): folder for folder in folders}
        for job in list(self._pending.values()):
            folder = by_path.get(job.folder, _Folder(Path(job.folder)))

            def is_needed(name: str, folder: _Folder = folder) -> bool:
                return bool(folder.unread) or any(name in group.local_names for group in folder.groups)

            remaining = retire.retire(self._root, job, is_needed, keeps=self._options.keep_originals)
            for part in job.parts:
                if part.name not in remaining:
                    folder.stamps.pop(part.name, None)
                    turn.waiting.pop(_path(folder, part.name), None)
            for name, reason in remaining.items():
                turn.waiting[_path(folder, name)] = reason
            if not remaining:
                self._forget(job)
                turn.retired.append(job.id)

    # Telling

    def _name_orphans(self, folders: list[_Folder], turn: _Turn) -> None:
        for folder in folders:
            claimed = {name for group in folder.groups for name in group.local_names}
            for name in folder.stamps:
                if name not in claimed and not folder.unread:
                    turn.waiting.setdefault(_path(folder, name), "no sidecar names it")
            for name, kind in folder.strange.items():
                turn.waiting.setdefault(_path(folder, name), kind)

    def _report(self, folders: list[_Folder], turn: _Turn) -> Report:
        for path, reason in turn.waiting.items():
            if self._reasons.get(path) != reason and reason != "still being written":
                log.info("inbox.waiting", path=path, reason=reason)
        self._reasons = turn.waiting
        self._noticed &= turn.waiting.keys()
        present = {str(folder.path / name) for folder in folders for name in folder.stamps}
        self._sidecars = {path: known for path, known in self._sidecars.items() if path in present}
        return Report(
            accepted=tuple(turn.accepted),
            waiting=tuple(Waiting(path, reason) for path, reason in sorted(turn.waiting.items())),
            retired=tuple(turn.retired),
            files=len(present),
            due_s=min(turn.dues, default=None),
            is_at_rest=not turn.dues,
        )


def _path(folder: _Folder, name: str) -> str:
    return printable(str(folder.path / name))


def _classify(folder: _Folder, item: os.DirEntry[str]) -> None:
    """Sort one directory entry; what vanishes meanwhile was never there."""
    try:
        if item.is_symlink():
            folder.strange[item.name] = "a symbolic link, which is not followed"
        elif item.is_file(follow_symlinks=False):
            folder.stamps[item.name] = Stamp.of(item.stat(follow_symlinks=False))
        else:
            folder.strange[item.name] = "not a regular file"
    except OSError:
        return
