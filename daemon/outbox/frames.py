"""Frames and the live preview, encoded and written by a thread of their own, so that the engine never waits."""

from __future__ import annotations

import contextlib
import contextvars
import errno
import json
import queue
import threading
from typing import TYPE_CHECKING, Any, Final

from daemon import files, images, logs
from daemon.errors import NotReady

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.job import Job, Picture
    from daemon.lifeline import Lifeline
    from daemon.outbox.publish import Outbox

log = logs.get(__name__)

_QUEUE: Final = 8
_TICK_S: Final = 0.2
_TRIES: Final = 5
_NOT_OURS: Final = {errno.ENOENT, errno.ENOTEMPTY, errno.ENOTDIR}  # `_running/` is another's, or not there


class FrameWriter:
    """Writes one job's frames to `folder` and its progress to `live`, a folder of the outbox.

    The preview is a courtesy: where the outbox does not take it, one warning is logged and the job goes on.
    A frame that cannot be kept is an error of the job's own folder, raised by `put` and `require_all`.
    """

    def __init__(self, folder: Path, outbox: Outbox, job: Job) -> None:
        """Start the thread.

        Args:
            folder: path where frames are kept.
            outbox: where the progress is shown.
            job: that runs.
        """
        self._check = outbox.check
        self._folder = folder
        self._live = outbox.live(job)
        self._queue: queue.Queue[tuple[int | None, Picture | None, dict[str, Any]] | None] = queue.Queue(_QUEUE)
        self._error: Exception | None = None
        self._is_live = True
        self._is_left = False
        run = contextvars.copy_context().run  # so that its log lines carry the job's id
        self._thread = threading.Thread(target=run, args=(self._run,), name="frames", daemon=True)
        self._thread.start()

    def put(self, frame: int | None, picture: Picture | None, status: dict[str, Any]) -> None:
        """Hand over one step; only a frame waits while eight are unwritten, a preview is left out then.

        Args:
            frame: the iteration, where the picture is to be kept as a frame.
            picture: (H, W, 3) uint8 RGB, or None where only the progress is new.
            status: what `status.json` shall say.

        Raises:
            OSError: an earlier frame could not be kept.
        """
        if self._error is not None:
            raise self._error
        if frame is not None:
            self._queue.put((frame, picture, status))
        elif picture is not None or self._queue.empty():
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait((frame, picture, status))

    def close(self, life: Lifeline) -> None:
        """Wait until everything is written, with heartbeats, and remove the preview if the outbox lets us."""
        self._queue.put(None)
        try:
            while self._thread.is_alive():
                life.beat()
                self._thread.join(_TICK_S)
        finally:
            self._is_left = True  # and not written into a folder that may be moved by then
            self._thread.join()
            with contextlib.suppress(OSError):
                remove_live(self._live)

    def require_all(self) -> None:
        """See that every frame was kept; after `close`.

        Raises:
            OSError: one could not be.
        """
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._is_left:
                continue
            try:
                self._write(*item)
            except Exception as error:  # noqa: BLE001 - for `close` to raise; the queue must be emptied, or `put` waits
                self._error = self._error or error

    def _write(self, frame: int | None, picture: Picture | None, status: dict[str, Any]) -> None:
        data = images.encode(picture, "png") if picture is not None else None
        if self._is_live:
            self._show(data, status)
        if frame is not None and data is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            files.replace(self._folder / f"{frame:04d}.png", data)  # a checkpoint counts on it

    def _show(self, data: bytes | None, status: dict[str, Any]) -> None:
        try:
            self._check()
            self._make_live()
            if data is not None:
                files.replace(self._live / "latest.png", data, is_durable=False)
            files.replace(self._live / "status.json", json.dumps(status).encode(), is_durable=False)
        except (OSError, NotReady) as error:
            self._is_live = False
            log.warning("outbox.preview_failed", folder=str(self._live), error=str(error))

    def _make_live(self) -> None:
        """Make the live folder; `_running/` may be taken away this instant by the end of the job before."""
        for tries_left in reversed(range(_TRIES)):
            try:
                self._live.parent.mkdir(exist_ok=True)
                self._live.mkdir(exist_ok=True)
            except FileNotFoundError:
                if not tries_left:
                    raise
            else:
                return


def remove_live(live: Path) -> None:
    """Remove a live folder, and `_running/` around it once it is empty.

    Raises:
        OSError: the outbox does not let us.
    """
    try:
        files.remove_tree(live)
        live.parent.rmdir()
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
