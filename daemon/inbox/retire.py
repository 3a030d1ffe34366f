"""Removing originals from the inbox once the spool has them: never one that changed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final

from daemon import files
from daemon.errors import NotReady
from daemon.inbox.scan import STAGE_S, Folder
from daemon.job import Stamp, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from daemon.config import Inbox as InboxConfig
    from daemon.job import Job, Part
    from daemon.sentinel import Sentinel

ACCEPTED_FOLDER: Final = "_accepted"
REJECTED_FOLDER: Final = "_rejected"
NEEDED: Final = "accepted; another sidecar names it"
NEXT: Final = "accepted; not removed yet"


@dataclass(frozen=True)
class Retired:
    """One accepted job whose originals were looked at."""

    id: str
    gone: frozenset[str]  # paths that are not its originals any more
    left: dict[str, str]  # path of an original -> why it is still there; empty: done with the inbox
    was_removed: bool = False  # here; else its files were found gone, perhaps moved
    is_put_off: bool = False  # the time of this turn was up


@dataclass
class _Pending:
    """An accepted job whose originals may still be there."""

    job: Job
    next_try: float = 0.0  # monotonic
    left: dict[str, str] = field(default_factory=dict)  # name -> why it was still there at the last try
    was_removed: bool = False  # the trigger, here


class Retirer:
    """Removes the originals of accepted jobs, and knows those that are still there."""

    def __init__(self, sentinel: Sentinel) -> None:
        """Know no accepted job yet; the sentinel is that of the inbox."""
        # The folder that is scanned, even if the inbox is a link and later leads to another one.
        self._sentinel = replace(sentinel, folder=sentinel.folder.resolve())
        self._pending: dict[str, _Pending] = {}  # by id
        self._triggers: dict[tuple[str, str], Stamp] = {}  # of the pending: the file that stands for the drop

    def remember(self, job: Job) -> None:
        """Add an accepted job; its `folder` is where its originals lie now."""
        self._pending.setdefault(job.id, _Pending(job)).job = job
        self._triggers[job.folder, job.parts[0].name] = job.parts[0].stamp

    def forget(self, job_id: str) -> None:
        """Forget a job whose retirement is on record."""
        job = self._pending.pop(job_id).job
        if self._triggers.get((job.folder, job.parts[0].name)) == job.parts[0].stamp:
            del self._triggers[job.folder, job.parts[0].name]

    def is_accepted(self, folder: Folder, name: str) -> bool:
        """Whether a file is the unchanged trigger of a job that the spool has already."""
        return self._triggers.get((str(folder.path), name)) == folder.stamps[name]

    def retire(self, folders: Mapping[str, Folder], now: float, config: InboxConfig) -> Iterator[Retired]:
        """Retire the originals of each accepted job; what cannot be removed is tried again after a rescan.

        `folders` are those of the look at the monotonic time `now`, by path.

        Yields:
            Each job in turn. One that leaves nothing is to be put on record, then forgotten.

        Raises:
            NotReady: the inbox is not there.
        """
        end = time.monotonic() + STAGE_S  # a stop does not shorten it: what is accepted leaves the inbox
        needed = {}  # by path: the names that a drop needs which is not accepted yet
        for path, folder in folders.items():
            waiting = (group for group in folder.groups if not self.is_accepted(folder, group.trigger))
            needed[path] = frozenset[str]().union(*(group.local_names for group in waiting))
        for pending in list(self._pending.values()):
            job = pending.job
            folder = folders.get(job.folder, Folder(Path(job.folder), trouble="not there"))
            names = frozenset(part.name for part in job.parts if not part.library)
            is_due = now >= pending.next_try
            is_put_off = is_due and time.monotonic() > end
            if is_put_off:
                pending.left = dict.fromkeys(names & folder.stamps.keys() or {job.parts[0].name}, NEXT)
            elif is_due:
                needed_of = needed.get(job.folder, frozenset()) if folder.is_known else names
                self._try(pending, needed_of, now, config)
            gone = frozenset(folder.path_of(name) for name in names - pending.left.keys())
            left = {folder.path_of(name): reason for name, reason in pending.left.items()}
            yield Retired(job.id, gone, left, was_removed=pending.was_removed, is_put_off=is_put_off)

    def _try(self, pending: _Pending, needed: frozenset[str], now: float, config: InboxConfig) -> None:
        """Retire one job's originals; what cannot be removed is not read again before the next rescan."""
        with self._sentinel.opened() as root:
            pending.left, was_removed = retire(root, pending.job, needed, keeps=config.keep_originals)
        pending.was_removed |= was_removed
        if any(reason != NEEDED for reason in pending.left.values()):
            pending.next_try = now + config.rescan_s

    def note_rejection(self, job: Job) -> None:
        """Leave a readable note of a faulty drop in the inbox, unless the share refuses it."""
        if job.failure is None:
            return
        lines = [f"{printable(job.stem)} was not painted: {job.failure.reason}", ""]
        lines += [str(fault) for fault in job.failure.faults] or [job.failure.message]
        lines += ["", job.failure.hint] if job.failure.hint else []
        lines += ["", f"Your files are in the outbox: {job.label}.failed/drop/. Drop all of them again."]
        lines += [f"{job.label}.failed/error.html shows what was wrong; more: {job.failure.reason.help}"]
        with (
            contextlib.suppress(OSError, files.ChangedError, NotReady),
            self._sentinel.opened() as root,
            files.opened_folder(PurePath(REJECTED_FOLDER), at=root, makes=True) as folder,
        ):
            note = PurePath(f"{job.label}.txt")
            files.replace(note, ("\n".join(lines) + "\n").encode(), is_durable=False, at=folder)


def retire(root: int, job: Job, needed: Collection[str], *, keeps: bool) -> tuple[dict[str, str], bool]:
    """Retire an accepted job's originals, the sidecar first; `root` is the open inbox.

    A name that is `needed`, since another sidecar may ask for it, stays. With `keeps` the originals move to
    `_accepted/` instead of being removed.

    Returns:
        What remains of them unchanged: name -> why, empty when the job is done with the inbox. And whether the
        trigger was removed here, not found gone: the same files seen again are then another drop.
    """
    left, was_removed = {}, False
    for part in sorted(job.parts, key=lambda part: part.role != "sidecar"):
        if part.library:
            continue
        try:
            reason = _retire_one(root, job, part, needed, keeps=keeps)
        except files.ChangedError:
            reason = ""  # gone, or something new that is not ours to touch
        except OSError as error:
            reason = f"accepted but present: {files.cause(error)}"
        if reason:
            left[part.name] = reason
        was_removed |= reason is None and part is job.parts[0]
    return left, was_removed


def _retire_one(root: int, job: Job, part: Part, needed: Collection[str], *, keeps: bool) -> str | None:
    """Retire one original: look, set aside under a hidden name, look again, and only then remove.

    Between a look and an unlink somebody may put another file in place; nobody does so under a name that nobody
    knows. A death in between leaves the hidden name, where the next try finds it.

    Returns:
        None once it is removed, "" where it is not ours to remove, else why it stays.
    """
    aside = f".styletransferd-{job.id}-{part.stored}"
    with files.opened_folder(PurePath(job.folder), at=root) as fd:
        # The hidden name may be left of an original that got its own name back.
        is_double = files.exists_at(fd, aside) and files.exists_at(fd, part.name)
        if is_double and files.is_same(fd, aside, fd, part.name):
            os.unlink(aside, dir_fd=fd)
        if not files.exists_at(fd, aside):
            reason = _refusal(fd, part, needed)
            if reason is not None:
                return reason
            os.rename(part.name, aside, src_dir_fd=fd, dst_dir_fd=fd)
        try:
            if not _is_original(fd, aside, part):
                _give_back(fd, aside, job, part)
                return ""
            if keeps:
                _keep(root, fd, aside, job, part)
            else:
                os.unlink(aside, dir_fd=fd)
        except OSError:
            _give_back(fd, aside, job, part)
            raise
    return None


def _give_back(folder: int, aside: str, job: Job, part: Part) -> None:
    """Give a file its name again or, if that is taken by now, a name that says what happened."""
    if files.exists_at(folder, aside):
        others = (f"put-back-{job.id}{number}-{part.stored}" for number in _numbers())
        files.show(folder, aside, folder, itertools.chain((part.name,), others))


def _numbers() -> Iterator[str]:
    """Yield nothing, -2, -3 and so on."""
    return itertools.chain(("",), (f"-{number}" for number in itertools.count(2)))


def _refusal(folder: int, part: Part, needed: Collection[str]) -> str | None:
    """Say why a file stays ("" where it is not ours), or None where it may go."""
    with open(files.open_regular(folder, part.name), "rb") as file:
        if Stamp.of(os.fstat(file.fileno())) != part.stamp:
            return ""  # a new file of the same name
        if not part.sha256:
            return "accepted but present: too large to be kept elsewhere"
        if part.role != "sidecar" and part.name in needed:
            return NEEDED
        return None if files.hash_fd(file.fileno()) == part.sha256 else ""


def _is_original(folder: int, name: str, part: Part) -> bool:
    """Whether the file set aside is the one that was hashed.

    Some shares give a renamed file another inode number; there its bytes decide once more.
    """
    try:
        with open(files.open_regular(folder, name), "rb") as file:
            now = Stamp.of(os.fstat(file.fileno()))
            is_alike = (now.size, now.mtime_ns) == (part.size, part.mtime_ns)
            return is_alike and (now == part.stamp or files.hash_fd(file.fileno()) == part.sha256)
    except files.ChangedError:
        return False


def _keep(root: int, folder: int, aside: str, job: Job, part: Part) -> None:
    """Move to `_accepted/`; a link in its place, which would lead out of the inbox, is not followed."""
    place = PurePath(ACCEPTED_FOLDER, job.folder)
    name = PurePath(part.name)
    others = (f"{name.stem[:100]}-{job.id[:8]}{number}{name.suffix}" for number in _numbers())
    try:
        with files.opened_folder(place, at=root, makes=True) as kept:
            files.show(folder, aside, kept, itertools.chain((part.name,), others))
    except files.ChangedError:
        raise NotADirectoryError(errno.ENOTDIR, f"{ACCEPTED_FOLDER} is no folder", str(place)) from None
