"""One turn of the inbox: scan, settle, pair, then accept what is complete and say why the rest waits."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from daemon import files, logs, safe_yaml, sidecar
from daemon.errors import Failure, NotReady, NotTaken
from daemon.inbox import pairing, retire
from daemon.inbox.scan import Folder, scan
from daemon.inbox.settle import Settle
from daemon.job import Drop, DropPart, Job, Stamp, natural_key, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import Config
    from daemon.inbox.pairing import Group, Member
    from daemon.job import Part
    from daemon.sidecar import Sidecar

log = logs.get(__name__)

# One turn reads sidecars, and accepts, for about so long each, then looks around again: a stop is seen, and
# what was accepted is retired.
BUDGET_S: Final = 2.0
BEING_WRITTEN: Final = "still being written"
UNREAD: Final = "not read yet"
# A fault is believed once the files have been quiet for so many times settle_s: a copy may stall.
DOUBT_FACTOR: Final = 5


class Sink(Protocol):
    """What takes a complete drop."""

    def __call__(self, drop: Drop, *, believes_faults: bool) -> Job:
        """Commit a drop.

        Raises:
            NotTaken: it stays in the inbox.
        """


class SetRetired(Protocol):
    """What is told that a job is done with the inbox."""

    def __call__(self, id: str, /, *, was_removed: bool) -> None:  # noqa: A002 - what it is
        """Remember it; `was_removed` is False where its files were found gone, perhaps moved."""


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
    files: int
    due_s: float | None  # until a file may be settled or a fault believed
    is_at_rest: bool  # nothing is being written or doubted: what waits, waits for somebody
    obstacle: NotReady | None = None  # why a complete drop could not be taken


@dataclass
class _Turn:
    """What gathers up during one turn."""

    now: float
    begun: float = field(default_factory=time.monotonic)
    accepted: list[Job] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    dues: list[float] = field(default_factory=list)
    obstacle: NotReady | None = None


class _Doubt(NamedTuple):
    """A drop that was not taken, and until when it need not be tried again unless it changes."""

    stamps: tuple[Stamp, ...]
    until: float
    reason: str


class Intake:
    """The inbox and what is remembered of it from turn to turn."""

    def __init__(
        self,
        config: Config,
        sink: Sink,
        unretired: list[Job],
        set_retired: SetRetired,
        *,
        is_stopping: Callable[[], bool] = lambda: False,
        check: Callable[[int], None] = lambda _root: None,
    ) -> None:
        """Prepare for turns.

        Args:
            config: the whole config.
            sink: where complete drops go.
            unretired: accepted jobs whose originals may still be here.
            set_retired: told the id of each job that is done with the inbox, and whether it was removed here.
            is_stopping: whether a turn should end early.
            check: given the open inbox, raises NotReady where it is an empty mount point.
        """
        self._root = config.folders.inbox.resolve()
        self._library = config.folders.styles.resolve() if config.folders.styles else None
        self._config = config
        self._sink = sink
        self._set_retired = set_retired
        self._is_stopping = is_stopping
        self._check = check
        self._doubts: dict[str, _Doubt] = {}
        self._rests: dict[
            str, tuple[float, dict[str, str]]
        ] = {}  # of the pending: when to try again, what stays
        self._settle = Settle()
        self._pending: dict[str, Job] = {}
        self._triggers: dict[tuple[str, str], Stamp] = {}  # of the pending: the file that stands for the drop
        self._sidecars: dict[str, tuple[Stamp, Sidecar, str | None]] = {}
        self._reasons: dict[str, str] = {}
        self._noticed: set[str] = set()
        self._removed: set[str] = set()  # of the pending
        for job in unretired:
            self._remember(job)

    @property
    def config(self) -> Config:
        """The config that applies; its folders are those of the beginning."""
        return self._config

    @config.setter
    def config(self, config: Config) -> None:
        if config.defaults != self._config.defaults:
            self._sidecars.clear()  # they were read with other defaults
        self._config = config

    def _remember(self, job: Job) -> None:
        self._pending[job.id] = job
        self._triggers[job.folder, job.parts[0].name] = job.parts[0].stamp

    def _forget(self, job: Job) -> None:
        del self._pending[job.id]
        self._rests.pop(job.id, None)
        self._removed.discard(job.id)
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
        folders = scan(self._root, self._config.inbox.ignore)
        turn.waiting.update(
            (printable(str(folder.path)), folder.trouble) for folder in folders if folder.trouble
        )
        self._settle.observe(
            {str(folder.path / name): stamp for folder in folders for name, stamp in folder.stamps.items()},
            now,
        )
        self._watch_settling(folders, turn)
        library = self._library_names(turn)
        for folder in folders:
            self._pair(folder, library, turn)
        self._accept_complete(folders, turn)
        self._retire_pending(folders, turn)
        self._name_orphans(folders, turn)
        return self._report(folders, turn)

    # Settling

    def _quiet_s(self, folder: Folder, name: str, turn: _Turn) -> float:
        return self._settle.quiet_s(str(folder.path / name), turn.now)

    def _is_settled(self, folder: Folder, name: str, turn: _Turn) -> bool:
        return self._quiet_s(folder, name, turn) >= self._config.inbox.settle_s

    def _watch_settling(self, folders: list[Folder], turn: _Turn) -> None:
        """Note when each file that is still moving may be settled."""
        for folder in folders:
            for name in folder.stamps:
                left = self._config.inbox.settle_s - self._quiet_s(folder, name, turn)
                if left > 0:
                    turn.dues.append(left)
                    turn.waiting[folder.path_of(name)] = BEING_WRITTEN

    # Pairing

    def _pair(self, folder: Folder, library: pairing.Names, turn: _Turn) -> None:
        names = pairing.Names([*folder.stamps, *folder.strange])
        for name in sorted((name for name in folder.stamps if pairing.is_sidecar(name)), key=natural_key):
            if self._is_accepted(folder, name):
                continue
            self._notice(folder, name)
            if not self._is_settled(folder, name, turn):
                folder.unread.append(name)
                continue
            if self._is_spent(turn.begun) and not self._is_read(folder, name):
                turn.dues.append(0.0)
                turn.waiting[folder.path_of(name)] = UNREAD
                folder.unread.append(name)
                continue
            try:
                read = self._read_sidecar(folder, name)
            except (OSError, files.ChangedError) as error:
                turn.waiting[folder.path_of(name)] = (
                    f"cannot be read: {getattr(error, 'strerror', None) or error}"
                )
                folder.unread.append(name)
                continue
            folder.groups.append(pairing.pair_sidecar(name, read, names, library))
        if self._config.inbox.sidecar == "optional" and folder.is_known:
            for group in pairing.pair_bare(folder.stamps, folder.needed, folder.strange):
                if not self._is_accepted(folder, group.trigger):
                    self._notice(folder, group.trigger)
                    folder.groups.append(group)

    def _library_names(self, turn: _Turn) -> pairing.Names:
        """List the regular files of the styles library."""
        if self._library is None:
            return pairing.Names()
        try:
            with os.scandir(self._library) as items:
                return pairing.Names(item.name for item in items if item.is_file(follow_symlinks=False))
        except OSError as error:
            turn.waiting["folders.styles"] = f"{self._library} cannot be read: {error.strerror}"
            return pairing.Names()

    def _is_spent(self, begun: float) -> bool:
        """Tell whether it is time to look around again."""
        return self._is_stopping() or time.monotonic() - begun > BUDGET_S

    def _is_read(self, folder: Folder, name: str) -> bool:
        known = self._sidecars.get(str(folder.path / name))
        return known is not None and known[0] == folder.stamps[name]

    def _read_sidecar(self, folder: Folder, name: str) -> Sidecar:
        """Read a settled sidecar, once for each state of the file."""
        path, stamp = str(folder.path / name), folder.stamps[name]
        if self._is_read(folder, name):
            return self._sidecars[path][1]
        fd = files.open_regular(self._root / folder.path, name)
        with os.fdopen(fd, "rb") as file:
            data = file.read(safe_yaml.MAX_BYTES + 1)
        read = sidecar.parse(data, printable(name), self._config.defaults)
        is_whole = len(data) <= safe_yaml.MAX_BYTES
        self._sidecars[path] = (stamp, read, hashlib.sha256(data).hexdigest() if is_whole else None)
        return read

    def _is_accepted(self, folder: Folder, name: str) -> bool:
        """Tell whether a file is the unchanged original of a job that the spool has already."""
        return self._triggers.get((str(folder.path), name)) == folder.stamps[name]

    def _notice(self, folder: Folder, name: str) -> None:
        path = folder.path_of(name)
        if path not in self._noticed:
            self._noticed.add(path)
            log.info("inbox.noticed", path=path)

    # Accepting

    def _accept_complete(self, folders: list[Folder], turn: _Turn) -> None:
        begun = time.monotonic()
        groups = [(folder, group) for folder in folders for group in folder.groups]
        for folder, group in sorted(groups, key=lambda item: natural_key(item[0].path_of(item[1].trigger))):
            if self._is_spent(begun):
                turn.dues.append(0.0)
                return
            reason = self._obstacle(folder, group, turn)
            if not reason:
                try:
                    self._accept(folder, group, turn)
                except NotTaken as error:
                    reason = f"not ready: {error}"
                except NotReady as error:  # no room for this one; a smaller one may do
                    turn.obstacle = turn.obstacle or error
                    reason = str(error)
            if reason:
                turn.waiting[folder.path_of(group.trigger)] = reason

    def _obstacle(self, folder: Folder, group: Group, turn: _Turn) -> str:
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

    def _accept(self, folder: Folder, group: Group, turn: _Turn) -> None:
        """Hand one complete group to the sink.

        Raises:
            NotTaken: it stays, and is not tried again before it changes or could be believed.
        """
        quiet = min(self._quiet_s(folder, member.name, turn) for member in group.members if not member.library)
        left = DOUBT_FACTOR * self._config.inbox.settle_s - quiet
        drop = self._drop(folder, group)
        try:
            job = self._offer(drop, folder.path_of(group.trigger), left, turn.now)
        except NotTaken:
            if left > 0:
                turn.dues.append(left)
            raise
        self._remember(replace(job, folder=str(folder.path)))  # where it lies now: somebody may have moved it
        folder.groups.remove(group)
        turn.accepted.append(job)
        if job.failure:
            retire.note_rejection(self._root, job, self._check)

    def _offer(self, drop: Drop, path: str, left: float, now: float) -> Job:
        """Hand a drop to the sink, unless it was refused as it is a moment ago.

        Args:
            drop: complete and settled.
            path: what it is called.
            left: seconds until its faults are believed.
            now: monotonic time.
        """
        stamps = tuple(part.stamp for part in drop.parts)
        doubt = self._doubts.get(path)
        if doubt and doubt.stamps == stamps and now < doubt.until:
            raise NotTaken(doubt.reason)
        try:
            if drop.failure and left > 0:
                raise NotTaken(drop.failure.message)  # noqa: TRY301 - remembered like the sink's own
            return self._sink(drop, believes_faults=left <= 0)
        except NotTaken as error:
            until = now + (left if left > 0 else self._config.inbox.rescan_s)
            self._doubts[path] = _Doubt(stamps, until, str(error))
            raise

    def _drop(self, folder: Folder, group: Group) -> Drop:
        read, digest = group.sidecar, None
        if read is None:
            read = sidecar.read({}, "", self._config.defaults)
        else:
            digest = self._sidecars[str(folder.path / group.trigger)][2]
        return Drop(
            stem=group.stem,
            folder=folder.path,
            parts=tuple(self._part(folder, member) for member in group.members),
            preset=read.preset,
            settings=read.settings,
            sidecar_sha256=digest,
            failure=Failure.of_faults(read.faults) if read.faults else None,
        )

    def _part(self, folder: Folder, member: Member) -> DropPart:
        if not member.library or self._library is None:
            place, stamp = self._root / folder.path, folder.stamps[member.name]
        else:
            place = self._library
            try:
                stamp = Stamp.of((place / member.name).lstat())
            except OSError as error:
                message = f"{printable(member.name)} in the styles library: {error.strerror}"
                raise NotTaken(message) from None
        return DropPart(member.role, member.name, place, stamp, member.weight, member.library)

    # Retiring

    def _retire_pending(self, folders: list[Folder], turn: _Turn) -> None:
        by_path = {str(folder.path): folder for folder in folders}
        needed = {path: folder.needed for path, folder in by_path.items()}
        begun = time.monotonic()
        for job in list(self._pending.values()):
            folder = by_path.get(job.folder, Folder(Path(job.folder), trouble="not there"))
            if time.monotonic() - begun > BUDGET_S:
                turn.dues.append(0.0)
                remaining = {part.name: retire.NEXT for part in job.parts if part.name in folder.stamps}
                remaining = remaining or {job.parts[0].name: retire.NEXT}
            else:
                remaining = self._retire(job, folder, needed.get(job.folder, frozenset()), turn)
            for part in job.parts:
                if part.name not in remaining and not part.library:
                    folder.stamps.pop(part.name, None)
                    turn.waiting.pop(folder.path_of(part.name), None)
            for name, reason in remaining.items():
                turn.waiting[folder.path_of(name)] = reason
            if not remaining:
                self._set_retired(job.id, was_removed=job.id in self._removed)
                self._forget(job)

    def _note_removed(self, job: Job, part: Part) -> None:
        """Remember that a drop's own file was removed here: then the same files seen again are another drop."""
        if part is job.parts[0]:
            self._removed.add(job.id)

    def _retire(self, job: Job, folder: Folder, needed: frozenset[str], turn: _Turn) -> dict[str, str]:
        """Retire one job's originals; what cannot be removed is not read again before the next rescan."""
        next_try, remaining = self._rests.get(job.id, (turn.now, {}))
        if turn.now < next_try:
            return remaining
        remaining = retire.retire(
            self._root,
            job,
            lambda name: not folder.is_known or name in needed,
            keeps=self._config.inbox.keep_originals,
            check=self._check,
            note_removed=lambda part: self._note_removed(job, part),
        )
        if any(reason != retire.NEEDED for reason in remaining.values()):
            self._rests[job.id] = (turn.now + self._config.inbox.rescan_s, remaining)
        return remaining

    # Telling

    def _name_orphans(self, folders: list[Folder], turn: _Turn) -> None:
        for folder in folders:
            needed = folder.needed
            for name in folder.stamps:
                if name not in needed and folder.is_known:
                    turn.waiting.setdefault(folder.path_of(name), "no sidecar names it")
            for name, kind in folder.strange.items():
                turn.waiting.setdefault(folder.path_of(name), kind)

    def _report(self, folders: list[Folder], turn: _Turn) -> Report:
        for path, reason in turn.waiting.items():
            if self._reasons.get(path) != reason and reason not in {BEING_WRITTEN, UNREAD}:
                log.info("inbox.waiting", path=path, reason=reason)
        self._reasons = turn.waiting
        self._noticed &= turn.waiting.keys()
        self._doubts = {path: doubt for path, doubt in self._doubts.items() if path in turn.waiting}
        present = {str(folder.path / name) for folder in folders for name in folder.stamps}
        self._sidecars = {path: known for path, known in self._sidecars.items() if path in present}
        return Report(
            accepted=tuple(turn.accepted),
            waiting=tuple(Waiting(path, reason) for path, reason in sorted(turn.waiting.items())),
            files=len(present),
            due_s=min(turn.dues, default=None),
            is_at_rest=not turn.dues and turn.obstacle is None,
            obstacle=turn.obstacle,
        )
