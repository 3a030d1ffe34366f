"""One look at the inbox: scan, settle, pair. Complete groups become drops; the rest waits, with a reason."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from daemon import files, logs, safe_yaml, sidecar
from daemon.errors import Failure, NotReady, NotTaken
from daemon.inbox import pairing
from daemon.inbox.scan import STAGE_S, Folder, last_changes, scan
from daemon.job import Drop, Job, Stamp, natural_key, printable

if TYPE_CHECKING:
    from daemon.config import Config
    from daemon.inbox.pairing import Group
    from daemon.inbox.retire import Retirer
    from daemon.job import Part
    from daemon.lifeline import Lifeline
    from daemon.sidecar import Sidecar

log = logs.get(__name__)

BEING_WRITTEN: Final = "still being written"
UNREAD: Final = "not read yet"
# A drop fails as faulty only after its files have been quiet for so many times settle_s: a copy may stall.
DOUBT_FACTOR: Final = 5


@dataclass
class Report:
    """What one turn of look, accept and retire finds and does; it does not change once the turn is over."""

    now: float = 0.0  # monotonic, as the files' times are measured
    begun: float = 0.0  # monotonic
    files: int = 0
    folders: dict[str, Folder] = field(default_factory=dict)  # by path
    drops: list[Drop] = field(default_factory=list)  # complete, in the order to accept them
    accepted: list[Job] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)  # path -> why it is not being worked on
    dues: list[float] = field(default_factory=list)  # in how many seconds there may be more to do
    obstacle: NotReady | None = None  # why a complete drop could not be taken

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is being written or doubted: what waits, waits for somebody."""
        return not self.dues and self.obstacle is None


class _Read(NamedTuple):
    """A sidecar that was read, good for as long as its file and the defaults of the config stay the same."""

    stamp: Stamp
    defaults: dict[str, Any]
    sidecar: Sidecar
    sha256: str | None  # None: too large to be read whole


class _Doubt(NamedTuple):
    """A drop that was not taken, and until when it need not be tried again unless it changes."""

    parts: tuple[Part, ...]
    until: float
    reason: str


class Inbox:
    """The inbox, and what is remembered of it from look to look."""

    def __init__(self, config: Config, retirer: Retirer, life: Lifeline) -> None:
        """Prepare for looks; `life` is that of the thread that looks."""
        self.config = config  # may be replaced between two looks; the folders stay those of the beginning
        self._root = config.folders.inbox.resolve()
        self._library = config.folders.styles.resolve() if config.folders.styles else None
        self._retirer = retirer
        self._life = life
        self._changes: dict[str, tuple[Stamp, float]] = {}  # of every file, and when it came to look like that
        self._sidecars: dict[str, _Read] = {}
        self._doubts: dict[str, _Doubt] = {}
        self._noticed: set[str] = set()
        self._reasons: dict[str, str] = {}  # as logged last

    def look(self, now: float) -> Report:
        """Look at everything once, at the monotonic time `now`; nothing in the inbox or the spool changes.

        Raises:
            NotReady, OSError: the inbox cannot be read.
        """
        report = Report(now, begun=time.monotonic())
        found = scan(self._root, self.config.inbox.ignore)
        present = {str(folder.path / name): stamp for folder in found for name, stamp in folder.stamps.items()}
        self._changes = last_changes(present, now, self._changes)
        report.files = len(present)
        self._note_troubles(found, report)
        library = self._library_names(report)
        folders = [self._paired(folder, library, report) for folder in found]
        report.folders = {str(folder.path): folder for folder in folders}
        report.drops = self._complete(folders, report)
        self._note_orphans(folders, report)
        self._noticed &= {folder.path_of(name) for folder in folders for name in folder.triggers}
        self._sidecars = {path: read for path, read in self._sidecars.items() if path in present}
        return report

    # Settling

    def _quiet_s(self, folder: Folder, name: str, report: Report) -> float:
        return report.now - self._changes[str(folder.path / name)][1]

    def _is_settled(self, folder: Folder, name: str, report: Report) -> bool:
        return self._quiet_s(folder, name, report) >= self.config.inbox.settle_s

    def _note_troubles(self, folders: list[Folder], report: Report) -> None:
        """Note what cannot be listed, and when each file that is still changing may be settled."""
        for folder in folders:
            if folder.trouble:
                report.waiting[printable(str(folder.path))] = folder.trouble
            for name in folder.stamps:
                left = self.config.inbox.settle_s - self._quiet_s(folder, name, report)
                if left > 0:
                    report.dues.append(left)
                    report.waiting[folder.path_of(name)] = BEING_WRITTEN

    # Pairing

    def _library_names(self, report: Report) -> pairing.Names:
        """List the regular files of the styles library."""
        if self._library is None:
            return pairing.Names()
        try:
            with os.scandir(self._library) as items:
                return pairing.Names(item.name for item in items if item.is_file(follow_symlinks=False))
        except OSError as error:
            report.waiting["folders.styles"] = f"{self._library} cannot be read: {error.strerror}"
            return pairing.Names()

    def _paired(self, folder: Folder, library: pairing.Names, report: Report) -> Folder:
        """Fill in the groups of a folder that are not accepted yet."""
        names = pairing.Names([*folder.stamps, *folder.strange])
        groups, unread = [], []
        for name in sorted(filter(pairing.is_sidecar, folder.stamps), key=natural_key):
            if self._retirer.is_accepted(folder, name):
                continue
            self._notice(folder, name)
            read = self._read(folder, name, report)
            if read is None:
                unread.append(name)
            else:
                groups.append(pairing.pair_sidecar(name, read, names, library))
        paired = replace(folder, groups=tuple(groups), unread=tuple(unread))
        if self.config.inbox.sidecar != "optional" or not paired.is_known:
            return paired
        for group in pairing.pair_bare(folder.stamps, paired.needed, folder.strange):
            if not self._retirer.is_accepted(folder, group.trigger):
                self._notice(folder, group.trigger)
                groups.append(group)
        return replace(paired, groups=tuple(groups))

    def _notice(self, folder: Folder, name: str) -> None:
        path = folder.path_of(name)
        if path not in self._noticed:
            self._noticed.add(path)
            log.info("inbox.noticed", path=path)

    def _read(self, folder: Folder, name: str, report: Report) -> Sidecar | None:
        """Read a settled sidecar, once for each state of its file; None where it has to wait."""
        if not self._is_settled(folder, name, report):
            return None
        path, stamp, defaults = str(folder.path / name), folder.stamps[name], self.config.defaults
        known = self._sidecars.get(path)
        if known and known.stamp == stamp and known.defaults == defaults:
            return known.sidecar
        if self._life.is_stopping or time.monotonic() > report.begun + STAGE_S:
            report.dues.append(0.0)
            report.waiting[folder.path_of(name)] = UNREAD
            return None
        self._life.beat()
        try:
            with os.fdopen(files.open_regular(self._root / folder.path, name), "rb") as file:
                data = file.read(safe_yaml.MAX_BYTES + 1)
        except (OSError, files.ChangedError) as error:
            report.waiting[folder.path_of(name)] = f"cannot be read: {files.cause(error)}"
            return None
        parsed = sidecar.parse(data, printable(name), defaults)
        digest = hashlib.sha256(data).hexdigest() if len(data) <= safe_yaml.MAX_BYTES else None
        self._sidecars[path] = _Read(stamp, defaults, parsed, digest)
        return parsed

    # Complete drops

    def _complete(self, folders: list[Folder], report: Report) -> list[Drop]:
        """Make a drop of each group that waits for nothing; of the others, note what for."""
        groups = [(folder, group) for folder in folders for group in folder.groups]
        groups.sort(key=lambda pair: natural_key(pair[0].path_of(pair[1].trigger)))
        drops = []
        for folder, group in groups:
            try:
                self._require_whole(folder, group, report)
                drop = self._drop(folder, group, report)
                self._require_no_doubt(drop, report)
            except NotTaken as error:
                report.waiting[folder.path_of(group.trigger)] = str(error)
            else:
                drops.append(drop)
        paths = {folder.path_of(group.trigger) for folder, group in groups}
        self._doubts = {path: doubt for path, doubt in self._doubts.items() if path in paths}
        return drops

    def _require_whole(self, folder: Folder, group: Group, report: Report) -> None:
        """Raise NotTaken unless every file of a group is there, regular and settled."""
        if group.missing:
            raise NotTaken(f"waiting for {', '.join(printable(name) for name in group.missing)}")
        for name in sorted(group.local_names):
            if name in folder.strange:
                raise NotTaken(f"{printable(name)} is {folder.strange[name]}")
            if not self._is_settled(folder, name, report):
                raise NotTaken(f"{printable(name)} is still being written")

    def _drop(self, folder: Folder, group: Group, report: Report) -> Drop:
        known = self._sidecars.get(str(folder.path / group.trigger)) if group.sidecar else None
        read = group.sidecar or sidecar.read({}, "", self.config.defaults)
        quiet = min(self._quiet_s(folder, name, report) for name in group.local_names)
        return Drop(
            stem=group.stem,
            folder=folder.path,
            parts=tuple(self._seen(folder, part) for part in group.parts),
            preset=read.preset,
            settings=read.settings,
            sidecar_sha256=known.sha256 if known else None,
            failure=Failure.of_faults(read.faults) if read.faults else None,
            doubt_s=max(0.0, DOUBT_FACTOR * self.config.inbox.settle_s - quiet),
            inbox=self._root,
            styles=self._library or self._root,
        )

    def _seen(self, folder: Folder, part: Part) -> Part:
        if not (part.library and self._library):
            return part.seen(folder.stamps[part.name])
        try:
            return part.seen(Stamp.of((self._library / part.name).lstat()))
        except OSError as error:
            why = f"{printable(part.name)} in the styles library: {error.strerror}"
            raise NotTaken(f"not ready: {why}") from None

    def _require_no_doubt(self, drop: Drop, report: Report) -> None:
        """Raise NotTaken if a drop looks faulty and may still be incomplete."""
        doubt = self._doubts.get(drop.path)
        reason = drop.failure.message if drop.failure and drop.doubt_s else ""
        if doubt and doubt.parts == drop.parts and report.now < doubt.until:
            reason = doubt.reason
        if reason:
            if drop.doubt_s:
                report.dues.append(drop.doubt_s)
            raise NotTaken(f"not ready: {reason}")

    def doubt(self, drop: Drop, reason: str, now: float) -> None:
        """Remember that a drop of the look at `now` was not taken: until it changes or its doubt ends."""
        until = now + (drop.doubt_s or self.config.inbox.rescan_s)
        self._doubts[drop.path] = _Doubt(drop.parts, until, reason)

    def forget(self, drop: Drop) -> None:
        """Forget an accepted drop: later files of the same names are another one."""
        self._noticed.discard(drop.path)

    # Reasons

    def _note_orphans(self, folders: list[Folder], report: Report) -> None:
        for folder in folders:
            needed = folder.needed
            for name in folder.stamps:
                if name not in needed and folder.is_known:
                    report.waiting.setdefault(folder.path_of(name), "no sidecar names it")
            for name, kind in folder.strange.items():
                report.waiting.setdefault(folder.path_of(name), kind)

    def log_waiting(self, waiting: dict[str, str]) -> None:
        """Log each new reason once; `waiting` is all that the turn leaves: path -> why."""
        for path, reason in waiting.items():
            if self._reasons.get(path) != reason and reason not in {BEING_WRITTEN, UNREAD}:
                log.info("inbox.waiting", path=path, reason=reason)
        self._reasons = waiting
