"""Removing originals from the inbox once the spool owes their result: never one that changed."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from daemon import files
from daemon.job import Stamp, printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.job import Job, Part

ACCEPTED_FOLDER = "_accepted"
NEEDED = "accepted; another sidecar names it"


def retire(inbox: Path, job: Job, is_needed: Callable[[str], bool], *, keeps: bool) -> dict[str, str]:
    """Retire a job's originals, the sidecar first.

    Args:
        inbox: the inbox.
        job: an accepted job.
        is_needed: tells whether another sidecar of the folder still names a file.
        keeps: move to `_accepted/` instead of removing.

    Returns:
        What remains of them unchanged: name -> why. Empty when the job is done with the inbox.
    """
    remaining = {}
    folder = inbox / job.folder
    for part in sorted(job.parts, key=lambda part: part.role != "sidecar"):
        if part.library:
            continue
        try:
            reason = _retire_one(inbox, folder, job, part, is_needed, keeps=keeps)
        except files.ChangedError:
            reason = ""  # gone, or something new that is not ours to touch
        except (OSError, files.SourceError) as error:
            reason = f"accepted but present: {getattr(error, 'strerror', error)}"
        if reason:
            remaining[part.name] = reason
    return remaining


def _retire_one(
    inbox: Path, folder: Path, job: Job, part: Part, is_needed: Callable[[str], bool], *, keeps: bool
) -> str:
    fd = files.open_regular(folder, part.name)
    try:
        if Stamp.of(os.fstat(fd)) != part.stamp:
            return ""  # a new file of the same name
        if not part.sha256:
            return "accepted but present: too large to be kept elsewhere"
        if part.role != "sidecar" and is_needed(part.name):
            return NEEDED
        if files.hash_fd(fd) != part.sha256:
            return ""
    finally:
        os.close(fd)
    path = folder / part.name
    if Stamp.of(path.lstat()) != part.stamp:
        return ""
    if keeps:
        _keep(inbox, path, job, part)
    else:
        path.unlink(missing_ok=True)
    return ""


def _keep(inbox: Path, path: Path, job: Job, part: Part) -> None:
    target = inbox / ACCEPTED_FOLDER / job.folder / part.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        target = target.with_name(f"{target.stem[:100]}-{job.id[:8]}{target.suffix}")
    path.rename(target)


def note_rejection(inbox: Path, job: Job) -> None:
    """Leave a readable note of a faulty drop where it was dropped; a share that refuses it is let be."""
    if job.failure is None:
        return
    lines = [f"{printable(job.stem)} was not painted: {job.failure.reason}", ""]
    lines += [str(fault) for fault in job.failure.faults] or [job.failure.message]
    lines += ["", job.failure.hint] if job.failure.hint else []
    with contextlib.suppress(OSError):
        folder = inbox / "_rejected"
        folder.mkdir(exist_ok=True)
        files.replace(folder / f"{job.label}.txt", ("\n".join(lines) + "\n").encode(), is_durable=False)
