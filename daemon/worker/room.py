"""Whether there is room on the disks for the next job, beside what is claimed and not ended yet."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Final, NamedTuple

from daemon import files
from daemon.errors import Failure, NotReady, Reason
from daemon.job import State
from daemon.settings import scaled
from daemon.transfer import optimizer_memory

if TYPE_CHECKING:
    from daemon.job import Job
    from daemon.outbox.publish import Outbox
    from daemon.spool import Claim, Spool, StoredJob

_CHECKPOINTS: Final = 3  # two are kept while one is written
_PAGE_BYTES: Final = 250_000  # report.html
_ROW_BYTES: Final = 250  # of an iteration, there and in losses.csv
_SHOWN_BYTES: Final = 16  # a pixel of a picture that it and the contact sheet show, there enlarged
_MOST_SHOWN_BYTES: Final = 5_000_000  # of one such picture, reduced


class Needed(NamedTuple):
    """What a job takes."""

    outbox: int  # bytes
    spool: int  # bytes
    entries: int  # files in each


class Room:
    """The disks under spool and outbox, and what the claimed jobs may still take of them."""

    def __init__(self, spool: Spool, outbox: Outbox) -> None:
        self.spool = spool
        self.outbox = outbox
        self._claiming = threading.Lock()
        self.reserved: dict[str, Needed] = {}  # by job

    def claim(self) -> Claim | None:
        """Claim the next job that there is room for, and reserve it until its `release`.

        Raises:
            NotReady: there is room for none that is queued.
            OSError: the spool cannot be read, or does not take the record of the attempt.
        """
        obstacle: NotReady | None = None
        with self._claiming:
            for entry in self.spool.entries(State.QUEUED):
                try:
                    needed = self._required(entry)  # before the claim: an error after it would strand the job
                except NotReady as error:
                    obstacle = obstacle or error
                    continue
                if claim := self.spool.claim(entry):
                    if needed is not None:
                        self.reserved[entry.id] = needed
                    return claim
        if obstacle is not None:
            raise obstacle
        return None

    def release(self, id_: str) -> None:
        """Give back the room of a job that has ended, or is queued again."""
        self.reserved.pop(id_, None)

    def hopeless(self, job: Job) -> Failure | None:
        """Refuse a job whose result would not fit on the empty disks."""
        needed = room_needed(job)
        capacity = min(files.capacity(self.spool.root), files.capacity(self.outbox.root))
        if max(needed.spool, needed.outbox) <= capacity:
            return None
        return Failure(
            Reason.PICTURE_TOO_LARGE,
            f"it needs {needed.spool / 1e9:.1f} GB of a disk that has {capacity / 1e9:.1f} GB in all",
            hint="use a smaller size, or keep fewer frames",
            key="size",
        )

    def _required(self, entry: StoredJob) -> Needed | None:
        """Give what a job takes, and raise NotReady where there is no room to start it.

        None for one that fails without being painted. One that is stored starts in any case.
        """
        if entry.job is None or entry.failure or self.hopeless(entry.job):
            return None
        needed, reserved = room_needed(entry.job), list(self.reserved.values())
        if entry.is_stored:
            return needed
        # The claimed jobs have yet to write their results, in the spool and then in the outbox.
        others = sum(other.outbox for other in reserved)
        spool = max(0, needed.spool - files.size_of(entry.out) - files.size_of(entry.checkpoints)) + others
        outbox = needed.outbox + others
        entries = needed.entries + sum(other.entries for other in reserved)
        is_one_disk = self.spool.root.stat().st_dev == self.outbox.root.stat().st_dev
        files.require_room(self.spool.root, spool + (outbox if is_one_disk else 0), entries)
        files.require_room(self.outbox.root, outbox, entries)
        return needed


def room_needed(job: Job) -> Needed:
    """Give an upper bound of what a job takes."""
    dropped = sum(part.size for part in job.parts if part.sha256)
    settings = job.settings
    if settings is None:
        return Needed(dropped, 0, len(job.parts) + 4)
    (content,) = job.parts_of("content")
    frames = job.total_iterations // settings.frames.every + 1 if settings.frames.every else 0
    pixels = math.prod(scaled(content.height_px, content.width_px, job.scales[-1].size))
    result = 4 * settings.output.bits // 8  # bytes a pixel, with an alpha channel
    result *= 3 * len(job.scales) if job.preset == "sheet" else 1  # a page has captions
    shown = [pixels, *(part.height_px * part.width_px for part in job.parts)]
    pages = _PAGE_BYTES + _ROW_BYTES * job.total_iterations
    pages += sum(min(_SHOWN_BYTES * size, _MOST_SHOWN_BYTES) for size in shown)
    outbox = dropped + pixels * (result + 3 * (frames + 1)) + pages
    state = optimizer_memory.state_bytes(settings.optimizer, pixels)
    return Needed(outbox, outbox + state * _CHECKPOINTS, frames + len(job.parts) + 16)
