"""One look at the inbox: scan, settle, pair. Complete groups become drops; the rest waits, with a reason."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from daemon import files, logs, sidecar
from daemon.errors import Failure, NotReady, NotTaken
from daemon.inbox import pairing
from daemon.inbox.budget import Budget
from daemon.inbox.scan import Folder, scan
from daemon.inbox.settle import Settle
from daemon.inbox.sidecars import Sidecars
from daemon.job import Drop, Job, Part, Stamp, natural_key, printable

if TYPE_CHECKING:
    from daemon.config import Config
    from daemon.inbox.pairing import Group, Member
    from daemon.inbox.retire import Retirer
    from daemon.lifeline import Lifeline
    from daemon.sidecar import Sidecar

log = logs.get(__name__)

BEING_WRITTEN: Final = "still being written"
UNREAD: Final = "not read yet"
# A fault is believed once the files have been quiet for so many times settle_s: a copy may stall.
DOUBT_FACTOR: Final = 5


@dataclass(frozen=True)
class Look:
    """What one look found."""

    drops: tuple[Drop, ...]  # complete, in the order to accept them
    waiting: dict[str, str]  # path -> why it is not being worked on
    files: int
    due_s: float | None  # until a file may be settled or a fault believed
    folders: dict[str, Folder]  # by path

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is complete, being written or doubted: what waits, waits for somebody."""
        return not self.drops and self.due_s is None


@dataclass(frozen=True)
class Waiting:
    """Something in the inbox that is not being worked on, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What one turn of look, accept and retire did."""

    accepted: tuple[Job, ...]
    waiting: tuple[Waiting, ...]
    files: int
    due_s: float | None  # until there may be more to do
    is_at_rest: bool  # nothing is being written or doubted: what waits, waits for somebody
    obstacle: NotReady | None = None  # why a complete drop could not be taken


@dataclass(frozen=True)
class _View:
    """What gathers up during one look."""

    now: float
    budget: Budget  # for reading sidecars
    waiting: dict[str, str] = field(default_factory=dict)
    dues: list[float] = field(default_factory=list)


class _Doubt(NamedTuple):
    """A drop that was not taken, and until when it need not be tried again unless it changes."""

    stamps: tuple[Stamp, ...]
    until: float
    reason: str


class Inbox:
    """The inbox, and what is remembered of it from look to look."""

    def __init__(self, config: Config, retirer: Retirer, life: Lifeline) -> None:
        """Prepare for looks.

        Args:
            config: the whole config.
            retirer: knows what is accepted and still there.
            life: of the thread that looks.
        """
        self.config = config  # may be replaced between two looks; the folders stay those of the beginning
        self._root = config.folders.inbox.resolve()
        self._library = config.folders.styles.resolve() if config.folders.styles else None
        self._retirer = retirer
        self._life = life
        self._settle = Settle()
        self._sidecars = Sidecars(self._root)
        self._doubts: dict[str, _Doubt] = {}
        self._noticed: set[str] = set()
        self._reasons: dict[str, str] = {}  # as logged last

    def look(self, now: float) -> Look:
        """Look at everything once; nothing in the inbox or the spool changes.

        Args:
            now: monotonic time in seconds.

        Raises:
            NotReady, OSError: the inbox cannot be read.
        """
        view = _View(now, Budget(self._life))
        found = scan(self._root, self.config.inbox.ignore)
        present = {str(folder.path / name): stamp for folder in found for name, stamp in folder.stamps.items()}
        self._settle.observe(present, now)
        self._name_troubles(found, view)
        library = self._library_names(view)
        folders = [self._paired(folder, library, view) for folder in found]
        drops = self._complete(folders, view)
        self._name_orphans(folders, view)
        self._noticed &= {folder.path_of(name) for folder in folders for name in folder.triggers}
        self._sidecars.keep(present)
        return Look(
            drops=tuple(drops),
            waiting=view.waiting,
            files=len(present),
            due_s=min(view.dues, default=None),
            folders={str(folder.path): folder for folder in folders},
        )

    # Settling

    def _quiet_s(self, folder: Folder, name: str, view: _View) -> float:
        return self._settle.quiet_s(str(folder.path / name), view.now)

    def _is_settled(self, folder: Folder, name: str, view: _View) -> bool:
        return self._quiet_s(folder, name, view) >= self.config.inbox.settle_s

    def _name_troubles(self, folders: list[Folder], view: _View) -> None:
        """Note what cannot be listed, and when each file that is still moving may be settled."""
        for folder in folders:
            if folder.trouble:
                view.waiting[printable(str(folder.path))] = folder.trouble
            for name in folder.stamps:
                left = self.config.inbox.settle_s - self._quiet_s(folder, name, view)
                if left > 0:
                    view.dues.append(left)
                    view.waiting[folder.path_of(name)] = BEING_WRITTEN

    # Pairing

    def _library_names(self, view: _View) -> pairing.Names:
        """List the regular files of the styles library."""
        if self._library is None:
            return pairing.Names()
        try:
            with os.scandir(self._library) as items:
                return pairing.Names(item.name for item in items if item.is_file(follow_symlinks=False))
        except OSError as error:
            view.waiting["folders.styles"] = f"{self._library} cannot be read: {error.strerror}"
            return pairing.Names()

    def _paired(self, folder: Folder, library: pairing.Names, view: _View) -> Folder:
        """Fill in the groups of a folder that are not accepted yet."""
        names = pairing.Names([*folder.stamps, *folder.strange])
        groups, unread = [], []
        for name in sorted(filter(pairing.is_sidecar, folder.stamps), key=natural_key):
            if self._retirer.is_accepted(folder, name):
                continue
            self._notice(folder, name)
            read = self._read(folder, name, view)
            if read is None:
                unread.append(name)
            else:
                groups.append(pairing.pair_sidecar(name, read, names, library))
        paired = replace(folder, groups=tuple(groups), unread=tuple(unread))
        if self.config.inbox.sidecar != "optional" or not paired.is_known:
            return paired
        return replace(paired, groups=(*paired.groups, *self._bare(paired)))

    def _bare(self, folder: Folder) -> list[Group]:
        """Find the pairs without a sidecar that are not accepted yet."""
        found = pairing.pair_bare(folder.stamps, folder.needed, folder.strange)
        groups = [group for group in found if not self._retirer.is_accepted(folder, group.trigger)]
        for group in groups:
            self._notice(folder, group.trigger)
        return groups

    def _notice(self, folder: Folder, name: str) -> None:
        path = folder.path_of(name)
        if path not in self._noticed:
            self._noticed.add(path)
            log.info("inbox.noticed", path=path)

    def _read(self, folder: Folder, name: str, view: _View) -> Sidecar | None:
        """Read a settled sidecar; None where it has to wait."""
        if not self._is_settled(folder, name, view):
            return None
        if known := self._sidecars.known(folder, name, self.config.defaults):
            return known.sidecar
        if view.budget.is_spent:
            view.dues.append(0.0)
            view.waiting[folder.path_of(name)] = UNREAD
            return None
        self._life.beat()
        try:
            return self._sidecars.read(folder, name, self.config.defaults).sidecar
        except (OSError, files.ChangedError) as error:
            why = getattr(error, "strerror", None) or error
            view.waiting[folder.path_of(name)] = f"cannot be read: {why}"
            return None

    # Complete drops

    def _complete(self, folders: list[Folder], view: _View) -> list[Drop]:
        """Make a drop of each group that waits for nothing; of the others, say what for."""
        groups = [(folder, group) for folder in folders for group in folder.groups]
        groups.sort(key=lambda pair: natural_key(pair[0].path_of(pair[1].trigger)))
        drops = []
        for folder, group in groups:
            try:
                self._require_whole(folder, group, view)
                drop = self._drop(folder, group, view)
                self._require_belief(drop, view)
            except NotTaken as error:
                view.waiting[folder.path_of(group.trigger)] = str(error)
            else:
                drops.append(drop)
        paths = {folder.path_of(group.trigger) for folder, group in groups}
        self._doubts = {path: doubt for path, doubt in self._doubts.items() if path in paths}
        return drops

    def _require_whole(self, folder: Folder, group: Group, view: _View) -> None:
        """See that every file of a group is there, regular and settled.

        Raises:
            NotTaken: one is not.
        """
        if group.missing:
            raise NotTaken(f"waiting for {', '.join(printable(name) for name in group.missing)}")
        for member in group.members:
            if member.library:
                continue
            if member.name in folder.strange:
                raise NotTaken(f"{printable(member.name)} is {folder.strange[member.name]}")
            if not self._is_settled(folder, member.name, view):
                raise NotTaken(f"{printable(member.name)} is still being written")

    def _drop(self, folder: Folder, group: Group, view: _View) -> Drop:
        known = self._sidecars.known(folder, group.trigger, self.config.defaults) if group.sidecar else None
        read = group.sidecar or sidecar.read({}, "", self.config.defaults)
        quiet = min(self._quiet_s(folder, member.name, view) for member in group.members if not member.library)
        return Drop(
            stem=group.stem,
            folder=folder.path,
            parts=tuple(self._part(folder, member) for member in group.members),
            preset=read.preset,
            settings=read.settings,
            sidecar_sha256=known.sha256 if known else None,
            failure=Failure.of_faults(read.faults) if read.faults else None,
            doubt_s=max(0.0, DOUBT_FACTOR * self.config.inbox.settle_s - quiet),
            inbox=self._root,
            styles=self._library or self._root,
        )

    def _part(self, folder: Folder, member: Member) -> Part:
        if not member.library or self._library is None:
            stamp = folder.stamps[member.name]
        else:
            try:
                stamp = Stamp.of((self._library / member.name).lstat())
            except OSError as error:
                why = f"{printable(member.name)} in the styles library: {error.strerror}"
                raise NotTaken(f"not ready: {why}") from None
        return Part.seen(member.role, member.name, stamp, member.weight, library=member.library)

    def _require_belief(self, drop: Drop, view: _View) -> None:
        """See that a drop is not doubted now.

        Raises:
            NotTaken: it looks faulty and may still be incomplete.
        """
        doubt = self._doubts.get(drop.path)
        reason = drop.failure.message if drop.failure and drop.doubt_s else ""
        if doubt and doubt.stamps == _stamps(drop) and view.now < doubt.until:
            reason = doubt.reason
        if reason:
            if drop.doubt_s:
                view.dues.append(drop.doubt_s)
            raise NotTaken(f"not ready: {reason}")

    def doubt(self, drop: Drop, reason: str, now: float) -> None:
        """Remember that a drop was not taken: it is tried again once it changes or could be believed.

        Args:
            drop: a drop of the last look.
            reason: the message for whoever waits.
            now: the time of that look.
        """
        until = now + (drop.doubt_s or self.config.inbox.rescan_s)
        self._doubts[drop.path] = _Doubt(_stamps(drop), until, reason)

    def forget(self, drop: Drop) -> None:
        """Take a drop of the last look for accepted: files of the same names are then another one."""
        self._noticed.discard(drop.path)

    # Reasons

    def _name_orphans(self, folders: list[Folder], view: _View) -> None:
        for folder in folders:
            needed = folder.needed
            for name in folder.stamps:
                if name not in needed and folder.is_known:
                    view.waiting.setdefault(folder.path_of(name), "no sidecar names it")
            for name, kind in folder.strange.items():
                view.waiting.setdefault(folder.path_of(name), kind)

    def log_waiting(self, waiting: dict[str, str]) -> None:
        """Log each new reason once, at the end of a turn.

        Args:
            waiting: everything that is not being worked on by now: path -> why.
        """
        for path, reason in waiting.items():
            if self._reasons.get(path) != reason and reason not in {BEING_WRITTEN, UNREAD}:
                log.info("inbox.waiting", path=path, reason=reason)
        self._reasons = waiting


def _stamps(drop: Drop) -> tuple[Stamp, ...]:
    return tuple(part.stamp for part in drop.parts)
