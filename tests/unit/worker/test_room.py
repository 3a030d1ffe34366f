"""The room a job needs, and what is left of the disks for the next one."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.fakes import FakeEngine

from daemon import files
from daemon.errors import Failure, NotReady, PauseKind, Reason
from daemon.job import State
from daemon.lifeline import Lifeline
from daemon.settings import Frames, Output, Settings
from daemon.worker import result
from daemon.worker.room import room_needed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.trees import Tree

    from daemon.job import Job


@pytest.fixture
def waiting(make_studio: Callable[..., Any]) -> Any:
    """A studio whose claimed job waits in the queue again."""
    studio = make_studio()
    studio.service.spool.requeue(studio.claim.entry, "interrupted", "x")
    return studio


def _job(studio: Any, settings: Settings | None) -> Job:
    failure = None if settings else Failure(Reason.BAD_SIDECAR, "x")
    return replace(studio.claim.job, settings=settings, failure=failure)


@pytest.mark.parametrize(("iterations", "every"), [(10, 1), (4000, 0)])
def test_the_room_estimated_is_enough_for_what_is_written(
    iterations: int, every: int, make_studio: Callable[..., Any]
) -> None:
    """Bytes and files of a finished painting stay below what was asked for before its start."""
    studio = make_studio(size=32, iterations=iterations, frames={"every": every})
    outbox, spool, entries = room_needed(studio.claim.job)
    result.write(studio.claim, studio.paint(FakeEngine()), Lifeline())
    used = sum(path.stat().st_size for path in studio.claim.entry.out.rglob("*") if path.is_file())
    dropped = sum(path.stat().st_size for path in studio.claim.entry.inputs.iterdir())
    assert used + dropped < outbox < spool
    assert len(studio.out) + len(list(studio.claim.entry.inputs.iterdir())) < entries


def test_the_room_grows_with_size_and_frames(make_studio: Callable[..., Any]) -> None:
    """Twice the side is about four times the bytes; every frame costs a file; `original` is as dropped."""
    base = Settings(size=512, iterations=100, scales="none", frames=Frames(every=0))
    job = _job(make_studio(), base)
    small = room_needed(job)
    large = room_needed(replace(job, settings=base.model_copy(update={"size": 1024})))
    assert 3.5 < large.spool / small.spool < 4.5
    deep = room_needed(replace(job, settings=base.model_copy(update={"output": Output(bits=16)})))
    assert deep.outbox - small.outbox == 4 * 512 * 384
    filmed = room_needed(replace(job, settings=base.model_copy(update={"frames": Frames(every=10)})))
    assert filmed.entries == small.entries + 11
    assert filmed.outbox > small.outbox + 10 * 512 * 512
    original = room_needed(replace(job, settings=base.model_copy(update={"size": "original"})))
    assert original == room_needed(replace(job, settings=base.model_copy(update={"size": 32})))
    assert original.spool < small.spool


def test_a_faulty_job_needs_room_for_what_was_dropped(make_studio: Callable[..., Any]) -> None:
    """Its failure is shown with the files, and nothing is painted."""
    job = _job(make_studio(), None)
    outbox, spool, entries = room_needed(job)
    assert outbox == sum(part.size for part in job.parts)
    assert (spool, entries) == (0, len(job.parts) + 4)


def test_what_is_claimed_keeps_its_room_until_it_is_released(
    waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk for one job a second one is claimed only when the first has ended, whoever asks."""
    room, spool = waiting.service.room, waiting.service.spool
    needed = room_needed(waiting.claim.job)
    fits_one = int(needed.spool + 1.5 * needed.outbox) + files.SPARE_BYTES  # both folders are on one disk
    monkeypatch.setattr(files, "room", lambda _folder: files.Room(fits_one, None))
    claim = room.claim()
    spool.requeue(claim.entry, "interrupted", "x")
    with pytest.raises(NotReady) as raised:
        room.claim()
    assert raised.value.kind is PauseKind.NO_SPACE
    room.release(claim.entry.id)
    room.release("another")
    assert room.claim()


def test_a_job_that_fits_on_no_disk_holds_up_nobody(
    waiting: Any, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is claimed, to fail with figures and a hint; no room is kept for it."""
    monkeypatch.setattr(files, "capacity", lambda _folder: 1000)
    monkeypatch.setattr(files, "room", lambda _folder: files.Room(0, None))
    claim = waiting.service.room.claim()
    failure = waiting.service.room.hopeless(claim.job)
    assert (failure.reason, failure.key) == (Reason.PICTURE_TOO_LARGE, "size")
    assert "0.0 GB in all" in failure.message
    assert waiting.service.room.reserved == {}


def test_a_disk_that_fails_at_the_claim_leaves_no_job_behind(
    waiting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a job lies in `running/` its claim is returned, whatever the disks say by then."""
    room, spool = waiting.service.room, waiting.service.spool
    real = files.capacity

    def capacity(folder: Path) -> int:
        if spool.count(State.RUNNING):
            raise OSError(errno.ESTALE, "stale")
        return real(folder)

    monkeypatch.setattr(files, "capacity", capacity)
    assert room.claim()
    assert list(room.reserved.values()) == [room_needed(waiting.claim.job)]
