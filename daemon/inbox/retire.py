"""Removing originals from the inbox once the spool owes their result: never one that changed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from pathlib import PurePath
from typing import TYPE_CHECKING

from daemon import files
from daemon.errors import NotReady
from daemon.job import Stamp, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.job import Job, Part

ACCEPTED_FOLDER = "_accepted"
REJECTED_FOLDER = "_rejected"
NEEDED = "accepted; another sidecar names it"
NEXT = "accepted; not removed yet"


def retire(
    inbox: Path,
    job: Job,
    is_needed: Callable[[str], bool],
    *,
    keeps: bool,
    check: Callable[[int], None] = lambda _root: None,
    note_removed: Callable[[Part], None] = lambda _part: None,
) -> dict[str, str]:
    """Retire a job's originals, the sidecar first.

    The inbox is opened once and looked at once: what is missing in it then is gone, and not merely unmounted.

    Args:
        inbox: the inbox.
        job: an accepted job.
        is_needed: tells whether another sidecar of the folder still names a file.
        keeps: move to `_accepted/` instead of removing.
        check: given the open inbox, raises NotReady where it is an empty mount point.
        note_removed: told of each part that was removed here, and not found gone.

    Returns:
        What remains of them unchanged: name -> why. Empty when the job is done with the inbox.

    Raises:
        NotReady: the inbox is not there.
    """
    with opened_inbox(inbox, check) as root:
        return _retire_all(root, job, is_needed, note_removed, keeps=keeps)


@contextlib.contextmanager
def opened_inbox(inbox: Path, check: Callable[[int], None]) -> Iterator[int]:
    """Open the inbox, and see that it is the mounted one.

    Raises:
        NotReady: it is not there.
    """
    with contextlib.ExitStack() as stack:
        try:
            root = stack.enter_context(files.opened_folder(inbox))
        except files.ChangedError as error:
            raise NotReady(f"inbox unavailable: {inbox}: {error}") from error
        check(root)
        yield root


def _retire_all(
    root: int,
    job: Job,
    is_needed: Callable[[str], bool],
    note_removed: Callable[[Part], None],
    *,
    keeps: bool,
) -> dict[str, str]:
    remaining = {}
    for part in sorted(job.parts, key=lambda part: part.role != "sidecar"):
        if part.library:
            continue
        try:
            reason = _retire_one(root, job, part, is_needed, keeps=keeps)
        except files.ChangedError:
            reason = ""  # gone, or something new that is not ours to touch
        except (OSError, files.SourceError) as error:
            reason = f"accepted but present: {getattr(error, 'strerror', error)}"
        if reason is None:
            note_removed(part)
        elif reason:
            remaining[part.name] = reason
    return remaining


def _retire_one(
    root: int, job: Job, part: Part, is_needed: Callable[[str], bool], *, keeps: bool
) -> str | None:
    """Retire one original: look, set aside under a hidden name, look again, and only then remove.

    Between a look and an unlink somebody may put another file in place; nobody does so under a name that nobody
    knows. A death in between leaves the hidden name, where the next try finds it.

    Returns:
        None once it is removed, "" where it is not ours to remove, else why it stays.
    """
    aside = f".styletransferd-{job.id}-{part.stored}"
    with files.opened_folder(PurePath(job.folder), at=root) as fd:
        # Of an original that was shown again the hidden name may be left, where it could not be removed.
        if (
            files.exists_at(fd, aside)
            and files.exists_at(fd, part.name)
            and files.is_same(fd, aside, fd, part.name)
        ):
            os.unlink(aside, dir_fd=fd)
        if not files.exists_at(fd, aside):
            reason = _refusal(fd, part, is_needed)
            if reason is not None:
                return reason
            os.rename(part.name, aside, src_dir_fd=fd, dst_dir_fd=fd)
        try:
            if not _is_original(fd, aside, part):
                _show_again(fd, aside, job, part)
                return ""
            if keeps:
                _keep(root, fd, aside, job, part)
            else:
                os.unlink(aside, dir_fd=fd)
        except OSError:
            _show_again(fd, aside, job, part)
            raise
    return None


def _show_again(folder: int, aside: str, job: Job, part: Part) -> None:
    """Give a file its name again, or, where somebody took that meanwhile, one that says what happened."""
    if files.exists_at(folder, aside):
        others = (f"put-back-{job.id}{number}-{part.stored}" for number in _numbers())
        files.show(folder, aside, folder, itertools.chain((part.name,), others))


def _numbers() -> Iterator[str]:
    """Give nothing, -2, -3 and so on."""
    return itertools.chain(("",), (f"-{number}" for number in itertools.count(2)))


def _refusal(folder: int, part: Part, is_needed: Callable[[str], bool]) -> str | None:
    """Say why a file stays ("" where it is not ours), or None where it may go."""
    fd = files.open_regular(folder, part.name)
    try:
        if Stamp.of(os.fstat(fd)) != part.stamp:
            return ""  # a new file of the same name
        if not part.sha256:
            return "accepted but present: too large to be kept elsewhere"
        if part.role != "sidecar" and is_needed(part.name):
            return NEEDED
        return None if files.hash_fd(fd) == part.sha256 else ""
    finally:
        os.close(fd)


def _is_original(folder: int, name: str, part: Part) -> bool:
    """Tell whether the file set aside is the one that was hashed.

    Some shares give a renamed file another inode number; there its bytes decide once more.
    """
    try:
        fd = files.open_regular(folder, name)
    except files.ChangedError:
        return False
    try:
        now = Stamp.of(os.fstat(fd))
        if (now.size, now.mtime_ns) != (part.size, part.mtime_ns):
            return False
        return now == part.stamp or files.hash_fd(fd) == part.sha256
    finally:
        os.close(fd)


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


def note_rejection(inbox: Path, job: Job, check: Callable[[int], None] = lambda _root: None) -> None:
    """Leave a readable note of a faulty drop where it was dropped; a share that refuses it is let be."""
    if job.failure is None:
        return
    lines = [f"{printable(job.stem)} was not painted: {job.failure.reason}", ""]
    lines += [str(fault) for fault in job.failure.faults] or [job.failure.message]
    lines += ["", job.failure.hint] if job.failure.hint else []
    with (
        contextlib.suppress(OSError, files.ChangedError, NotReady),
        opened_inbox(inbox, check) as root,
        files.opened_folder(PurePath(REJECTED_FOLDER), at=root, makes=True) as folder,
    ):
        note = PurePath(f"{job.label}.txt")
        files.replace(note, ("\n".join(lines) + "\n").encode(), is_durable=False, at=folder)
