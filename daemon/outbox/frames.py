"""Frames and the preview, encoded and written by a thread of their own, so that the engine never waits."""

from __future__ import annotations

import concurrent.futures
import contextvars
from collections import deque
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from daemon import files, logs
from daemon.errors import NotReady
from daemon.pictures import encoding

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from daemon.job import Job, Picture
    from daemon.outbox.publish import Outbox

log = logs.get(__name__)

_MOST_WAITING: Final = 8
_TICK_S: Final = 0.2


class FrameWriter:
    """Keeps one job's frames in a folder of the spool, and shows its progress in the outbox.

    The preview is a courtesy: where the outbox does not take it, one warning is logged and the job goes on.
    A frame that cannot be kept is an error of the job's own folder, raised by `put` and `require_all`.
    """

    def __init__(self, folder: Path, outbox: Outbox, job: Job) -> None:
        self._folder = folder  # made when the first frame comes
        self._outbox = outbox
        self._job = job
        self._has_preview = True
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="frames")
        self._unwritten: deque[Future[None]] = deque()

    def put(self, frame: int | None, picture: Picture | None, status: dict[str, Any]) -> None:
        """Hand over one step; only a frame waits while eight are unwritten, a preview is left out then.

        Args:
            frame: iteration, where the picture is to be kept as a frame.
            picture: (H, W, 3) uint8 RGB, or None where only the progress is new.
            status: content of `status.json`.

        Raises:
            OSError: an earlier frame could not be kept.
        """
        self.require_all()
        if frame is None and len(self._unwritten) > (_MOST_WAITING if picture is not None else 1):
            return
        while len(self._unwritten) > _MOST_WAITING:  # besides the one that is being written
            concurrent.futures.wait(self._unwritten, return_when=FIRST_COMPLETED)
            self.require_all()
        run = contextvars.copy_context().run  # so that its log lines carry the job's id
        self._unwritten.append(self._executor.submit(run, self._write, frame, picture, status))

    def close(self, beat: Callable[[], object]) -> None:
        """Wait until everything is written, with heartbeats, and remove the preview if the outbox lets us.

        An exception that `beat` raises leaves the frames unwritten that are not begun.
        """
        try:
            while concurrent.futures.wait(self._unwritten, _TICK_S).not_done:
                beat()
        finally:
            self._executor.shutdown(cancel_futures=True)
            self._outbox.end_preview(self._job)

    def require_all(self) -> None:
        """See that every frame was kept that should be written by now; after `close`, every one.

        Raises:
            OSError: one could not be.
        """
        while self._unwritten and self._unwritten[0].done():
            self._unwritten[0].result()
            self._unwritten.popleft()

    def _write(self, frame: int | None, picture: Picture | None, status: dict[str, Any]) -> None:
        data = encoding.encode(picture) if picture is not None else None
        try:
            if self._has_preview:
                self._outbox.preview(self._job, data, status)
        except (OSError, NotReady, files.ChangedError) as error:
            self._has_preview = False
            log.warning("outbox.preview_failed", folder=str(self._outbox.live(self._job)), error=str(error))
        if frame is not None and data is not None:
            files.make_folder(self._folder)
            files.replace(self._folder / f"{frame:04d}.png", data)  # a checkpoint counts on it
