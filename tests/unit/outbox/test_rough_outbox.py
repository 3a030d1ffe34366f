"""An outbox on a share that locks files, goes away or hangs: results are shown, nothing else is touched."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import structlog
from structlog.testing import capture_logs
from support.trees import wait_for

from daemon.job import Job
from daemon.lifeline import Lifeline
from daemon.outbox.frames import FrameWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.outbox.publish import Outbox

ID = "3f9c21ab00000001"
PICTURE = np.zeros((8, 8, 3), np.uint8)
QUEUE = 8  # what may wait unwritten


def _job(id_: str = ID, stem: str = "sunset") -> Job:
    return Job(id_, 1, stem, ".", (), "default", None, "2026-01-01T00:00:00+00:00")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".styletransferd-outbox")


@pytest.fixture
def outbox(outbox: Outbox) -> Outbox:
    """Make an outbox that shows the progress of one job."""
    outbox.live(_job()).mkdir(parents=True)
    (outbox.live(_job()) / "latest.png").touch()
    return outbox


@pytest.fixture
def is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let somebody look at the preview over a share that removes no open file."""
    real = os.unlink

    def unlink(path: Any, **options: Any) -> None:
        if Path(path).name == "latest.png":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        real(path, **options)

    monkeypatch.setattr(os, "unlink", unlink)


# Progress that somebody is looking at


def test_a_result_is_shown_though_its_progress_is_locked(
    outbox: Outbox, is_watched: None, tmp_path: Path
) -> None:
    """A preview that cannot be removed keeps no result back, and no earlier failure in its place."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.png").write_bytes(b"picture")
    failed = outbox.publish_failure(
        _job(), b"reason: diverged", tmp_path, tmp_path / "last_good.png", Lifeline()
    )
    assert failed.name == "sunset-3f9c21ab.failed"
    entry = outbox.publish(_job(), tmp_path / "out", Lifeline())
    assert _names(outbox.root) == ["_running", "sunset-3f9c21ab"]
    assert _names(entry) == ["manifest.json", "result.png"]


def test_a_start_goes_on_though_progress_is_locked(outbox: Outbox, is_watched: None) -> None:
    """What a locked preview leaves at a start stays, and the half made drafts go all the same."""
    (outbox.root / f".tmp-{ID}").mkdir()
    other = _job("9" * 16, "hill")
    outbox.live(other).mkdir()
    outbox.clean([_job().id, other.id])
    assert _names(outbox.root) == ["_running"]
    assert _names(outbox.root / "_running") == ["sunset-3f9c21ab"]


def test_another_daemons_jobs_are_let_be_at_a_start(outbox: Outbox) -> None:
    """Of two daemons on one outbox, the one that starts removes no draft and no progress of the other."""
    others = (".tmp-1111111111111111", ".tmp-old-1111111111111111", "_running/sunset-11111111")
    for name in others:
        (outbox.root / name).mkdir()
        (outbox.root / name / "half.png").touch()
    outbox.clean([])
    assert outbox.live(_job()).is_dir()
    outbox.clean([_job().id])
    assert not outbox.live(_job()).exists()
    assert [name for name in others if (outbox.root / name / "half.png").exists()] == list(others)


# The writer of frames and previews


def test_nothing_is_written_where_the_outbox_is_away(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No folder appears under a mount point without its share; that is said once, with the job's id."""
    outbox.clean([ID])
    (outbox.root / ".styletransferd-outbox").unlink()
    asked: list[Job] = []
    real = outbox.preview

    def preview(job: Job, *args: Any) -> None:
        asked.append(job)
        real(job, *args)

    monkeypatch.setattr(outbox, "preview", preview)
    with (
        capture_logs(processors=[structlog.contextvars.merge_contextvars]) as records,
        structlog.contextvars.bound_contextvars(job_id=ID),
    ):
        writer = FrameWriter(tmp_path / "frames", outbox, _job())
        for iteration in range(5):
            writer.put(iteration, PICTURE, {"iteration": iteration})
        writer.close(Lifeline())
    assert [(record["event"], record.get("job_id")) for record in records] == [("outbox.preview_failed", ID)]
    assert records[0]["error"].startswith("outbox unavailable")
    assert list(outbox.root.iterdir()) == []
    assert len(asked) == 1
    assert _names(tmp_path / "frames") == [f"000{iteration}.png" for iteration in range(5)]


def test_a_missing_outbox_is_not_made(outbox: Outbox, tmp_path: Path) -> None:
    """An outbox whose folder is gone is not made again."""
    outbox.root.rename(tmp_path / "aside")
    writer = FrameWriter(tmp_path / "frames", outbox, _job())
    writer.put(0, PICTURE, {})
    writer.close(Lifeline())
    assert not outbox.root.exists()
    assert _names(tmp_path / "frames") == ["0000.png"]


class _Share:
    """A share that hangs at the first preview until it is let go."""

    def __init__(self, outbox: Outbox) -> None:
        self.is_asked = threading.Event()
        self.goes_on = threading.Event()
        self.shown: list[int] = []  # iterations
        self._real = outbox.preview

    def preview(self, job: Job, picture: bytes | None, status: dict[str, Any]) -> None:
        """Hang, then show it."""
        self.is_asked.set()
        assert self.goes_on.wait(20)
        self._real(job, picture, status)
        self.shown.append(status["iteration"])


@pytest.fixture
def share(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Share]:
    """Make a hanging share, let go at the end in any case."""
    made = _Share(outbox)
    monkeypatch.setattr(outbox, "preview", made.preview)
    yield made
    made.goes_on.set()


@pytest.fixture
def writer(outbox: Outbox, tmp_path: Path, share: _Share) -> FrameWriter:
    """Make a writer whose thread hangs on the share with the first preview."""
    made = FrameWriter(tmp_path / "frames", outbox, _job())
    made.put(None, PICTURE, {"iteration": 0})
    assert share.is_asked.wait(20)
    return made


def _in_thread(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def test_previews_never_wait_for_a_share_that_hangs(writer: FrameWriter, share: _Share) -> None:
    """With the queue full further previews are left out, and the engine goes on at once."""

    def paint() -> None:
        for iteration in range(1, 100):
            writer.put(None, PICTURE, {"iteration": iteration})
            writer.put(None, None, {"iteration": iteration})

    painting = _in_thread(paint)
    painting.join(20)
    assert not painting.is_alive()
    assert share.shown == []  # the share still hangs
    share.goes_on.set()
    writer.close(Lifeline())
    assert share.shown == list(range(QUEUE + 1))


def test_frames_wait_for_a_share_that_hangs_and_none_is_lost(
    writer: FrameWriter, share: _Share, tmp_path: Path
) -> None:
    """With the queue full a frame waits for its place; every one of them is kept in the end."""
    handed: list[int] = []

    def paint() -> None:
        for iteration in range(3 * QUEUE):
            writer.put(iteration, PICTURE, {"iteration": iteration})
            handed.append(iteration)

    painting = _in_thread(paint)
    wait_for(lambda: len(handed) == QUEUE, "the queue to be full")
    painting.join(0.2)
    assert painting.is_alive()
    assert len(handed) == QUEUE
    share.goes_on.set()
    painting.join(20)
    writer.close(Lifeline())
    assert _names(tmp_path / "frames") == [f"{iteration:04d}.png" for iteration in range(3 * QUEUE)]
