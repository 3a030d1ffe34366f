"""Frames and the preview, written by a thread of their own."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from structlog.testing import capture_logs
from support.trees import wait_for

from daemon.job import Job
from daemon.lifeline import Lifeline
from daemon.outbox.frames import FrameWriter
from daemon.pictures import decoding, encoding

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.outbox.publish import Outbox

JOB = Job("3f9c21ab00000001", 1, "sea", ".", (), "default", None, "2026-01-01T00:00:00+00:00")


@pytest.fixture
def writer(outbox: Outbox, tmp_path: Path) -> FrameWriter:
    """Make a writer of the job's frames."""
    return FrameWriter(tmp_path / "frames", outbox, JOB)


def _picture(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


def test_frames_are_named_by_their_iteration(writer: FrameWriter, tmp_path: Path) -> None:
    """Frames are called NNNN.png and hold the pictures they were given; others are not kept."""
    for iteration in range(0, 31, 5):
        writer.put(iteration if iteration % 10 == 0 else None, _picture(iteration), {"iteration": iteration})
    writer.close(Lifeline().beat)
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == ["0000.png", "0010.png", "0020.png", "0030.png"]
    assert decoding.read(tmp_path / "frames" / "0030.png", 1).max() == 30


def test_the_preview_is_whole_at_any_time_and_gone_at_the_end(writer: FrameWriter, outbox: Outbox) -> None:
    """Whoever looks while a job runs finds a whole picture and whole JSON, and nothing after it."""
    live = outbox.live(JOB)
    writer.put(None, _picture(0), {"iteration": 0})
    wait_for((live / "status.json").exists, "the first status")
    seen: set[int] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            assert decoding.read(live / "latest.png", 1).shape == (8, 8, 3)
            seen.add(json.loads((live / "status.json").read_bytes())["iteration"])

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            for iteration in range(1, 200):
                writer.put(iteration, _picture(iteration), {"iteration": iteration})
            wait_for(lambda: 199 in seen or looking.done(), "the last status")
        finally:
            done.set()
    looking.result()
    writer.close(Lifeline().beat)
    assert len(seen) > 2
    assert not (outbox.root / "_running").exists()


def test_another_jobs_preview_is_left(writer: FrameWriter, outbox: Outbox) -> None:
    """`_running/` stays while it holds somebody else's folder."""
    (outbox.root / "_running" / "other").mkdir(parents=True)
    writer.put(None, _picture(1), {})
    writer.close(Lifeline().beat)
    assert [path.name for path in (outbox.root / "_running").iterdir()] == ["other"]


def test_a_preview_that_cannot_be_written_costs_one_warning(
    writer: FrameWriter, outbox: Outbox, tmp_path: Path
) -> None:
    """An outbox that refuses the preview is warned about once, and the frames are kept all the same."""
    (outbox.root / "_running").write_text("a file in the place of the folder")
    with capture_logs() as records:
        for iteration in range(5):
            writer.put(iteration, _picture(1), {})
        writer.close(Lifeline().beat)
    assert [record["event"] for record in records] == ["outbox.preview_failed"]
    assert len(list((tmp_path / "frames").iterdir())) == 5


def _hold(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Have the first encoding begin, then wait: both as events."""
    begun, gate, encode = threading.Event(), threading.Event(), encoding.encode

    def wait(*args: object) -> bytes:
        begun.set()
        assert gate.wait(30)
        return encode(*args)

    monkeypatch.setattr(encoding, "encode", wait)
    return begun, gate


def test_a_close_beats(writer: FrameWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While frames are still written the close beats, and all of them are kept."""
    _, gate = _hold(monkeypatch)
    for iteration in range(5):
        writer.put(iteration, _picture(1), {})
    beats: list[None] = []

    def beat() -> None:
        beats.append(None)
        if len(beats) == 2:
            gate.set()

    writer.close(beat)
    assert len(beats) >= 2
    assert len(list((tmp_path / "frames").iterdir())) == 5


def test_a_close_that_is_cut_short_leaves_no_one_writing(
    writer: FrameWriter, outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a heartbeat raises comes out once the frame that was begun is written, and no other is."""
    begun, gate = _hold(monkeypatch)
    for iteration in range(5):
        writer.put(iteration, _picture(1), {})
    assert begun.wait(30)

    def beat() -> None:
        threading.Timer(0.1, gate.set).start()
        raise TimeoutError

    with pytest.raises(TimeoutError):
        writer.close(beat)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("frames")]
    assert [path.name for path in (tmp_path / "frames").iterdir()] == ["0000.png"]
    assert not (outbox.root / "_running").exists()


def _put_many(writer: FrameWriter) -> None:
    for iteration in range(50):
        writer.put(iteration, _picture(1), {})


def test_a_frame_that_cannot_be_kept_is_raised_at_once(
    writer: FrameWriter, outbox: Outbox, tmp_path: Path
) -> None:
    """A full disk under the job's own folder ends the job's turn soon, and blocks nothing."""
    (tmp_path / "frames").write_text("a file in the place of the folder")
    with pytest.raises(FileExistsError):
        _put_many(writer)
    writer.close(Lifeline().beat)
    with pytest.raises(FileExistsError):
        writer.require_all()
    assert not (outbox.root / "_running").exists()


def test_a_defect_in_the_thread_is_raised_and_blocks_nobody(
    writer: FrameWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the encoder throws at the thread comes out of `put`, at the latest when the queue is full."""

    def fail(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(encoding, "encode", fail)
    with pytest.raises(MemoryError):
        _put_many(writer)
    writer.close(Lifeline().beat)


def test_the_preview_is_not_synced(
    writer: FrameWriter, outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preview, worthless after a crash, is never fsynced; a frame is, since checkpoints count on it."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    writer.put(None, _picture(1), {})
    writer.close(Lifeline().beat)
    assert synced == []
    writer = FrameWriter(tmp_path / "frames", outbox, JOB)
    writer.put(0, _picture(1), {})
    writer.close(Lifeline().beat)
    assert synced


def test_the_end_of_one_job_does_not_cost_the_next_one_its_preview(
    writer: FrameWriter, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`_running/` may vanish between its making and that of the folder in it; then both are made again."""
    live = outbox.live(JOB)
    mkdir, left = os.mkdir, 2

    def vanish_first(path: str, *args: Any, **options: Any) -> None:
        nonlocal left
        if path == live.name and left:
            left -= 1
            live.parent.rmdir()
        mkdir(path, *args, **options)

    monkeypatch.setattr(os, "mkdir", vanish_first)
    with capture_logs() as records:
        writer.put(None, _picture(0), {"iteration": 0})
        wait_for((live / "status.json").exists, "the status")
        writer.close(Lifeline().beat)
    assert (left, records) == (0, [])
