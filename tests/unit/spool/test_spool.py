"""The spool: jobs as directories, moved by rename; see also `test_spool_machine`, which states the rules."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.desk import accept, pair
from support.trees import claim_next, save

from daemon.errors import Failure, NotReady, NotTaken, Reason
from daemon.job import Part, Stamp, State
from daemon.spool import Spool, lock

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.spool import StoredJob


def _started(spool: Spool, tmp_path: Path, stem: str = "sea") -> StoredJob:
    accept(spool, pair(tmp_path / stem, stem))
    return claim_next(spool).entry


def _only(spool: Spool) -> StoredJob:
    (entry,) = spool.all_entries()
    return entry


# Accepting


def test_an_accepted_drop_is_copied_whole_into_queued(spool: Spool, tmp_path: Path) -> None:
    """A job lies in queued/ with byte-equal copies, and its job.json reads back as it was."""
    drop = pair(tmp_path / "in")
    entry = accept(spool, drop)
    assert entry.folder == spool.root / "queued" / entry.id
    job = Spool(spool.root).entries(State.QUEUED)[0].job
    assert job == entry.job
    for part, item in zip(job.parts, drop.parts, strict=True):
        assert entry.input(part).read_bytes() == (drop.folder / item.name).read_bytes()
        assert part.stamp == item.stamp
    assert list((spool.root / "tmp").iterdir()) == []


def test_the_spool_is_private(spool: Spool) -> None:
    """The spool and its folders are for the daemon's user alone."""
    assert spool.root.stat().st_mode & 0o777 == 0o700
    assert (spool.root / "queued").stat().st_mode & 0o777 == 0o700


def test_a_file_that_changed_since_the_scan_is_not_taken(spool: Spool, tmp_path: Path) -> None:
    """What is not the file the scan saw stays in the inbox, and nothing of it in the spool."""
    drop = pair(tmp_path / "in")
    (tmp_path / "in" / "sea.png").write_bytes(b"newer")
    with pytest.raises(NotTaken, match=r"sea\.png changed"):
        accept(spool, drop)
    assert list(spool.all_entries()) == []
    assert list((spool.root / "tmp").iterdir()) == []


def test_a_sidecar_that_changed_since_it_was_read_is_not_taken(spool: Spool, tmp_path: Path) -> None:
    """Settings come from the very bytes that are kept: another hash is another sidecar."""
    drop = pair(tmp_path / "in")
    path = tmp_path / "in" / "sea.yaml"
    path.write_text("size: 64")
    part = Part("sidecar", path.name).seen(Stamp.of(path.stat()))
    changed = replace(drop, parts=(part, *drop.parts), sidecar_sha256="0" * 64)
    with pytest.raises(NotTaken, match=r"sea\.yaml changed while it was read"):
        accept(spool, changed)


def test_a_picture_that_does_not_decode_is_believed_only_when_old(spool: Spool, tmp_path: Path) -> None:
    """Half a picture is left while young; once believed it is taken with its failure, past the queue."""
    (tmp_path / "in").mkdir()
    whole = save(tmp_path / "in" / "sea.png", 1).read_bytes()
    (tmp_path / "in" / "sea.png").write_bytes(whole[: len(whole) // 2])
    drop = pair(tmp_path / "in")
    with pytest.raises(NotTaken, match="not a readable picture"):
        accept(spool, drop, believes=False)
    entry = accept(spool, drop)
    assert entry.state is State.RUNNING
    assert claim_next(spool) is None
    assert entry.job.failure.reason is Reason.NOT_A_PICTURE


def test_a_file_over_the_cap_is_not_copied(spool: Spool, tmp_path: Path) -> None:
    """A file over max_bytes is the failure, and its bytes stay out of the spool."""
    entry = accept(spool, pair(tmp_path / "in"), max_bytes=100)
    assert entry.job.failure.reason is Reason.FILE_TOO_LARGE
    assert list(entry.inputs.iterdir()) == []


# Working


def test_a_sequence_goes_on_after_a_restart(spool: Spool, tmp_path: Path) -> None:
    """A job accepted after recovery comes after all earlier ones, ended ones included."""
    spool.complete(_started(spool, tmp_path, "a"))
    again = Spool(spool.root)
    again.recover(lambda _job: True)
    entry = accept(again, pair(tmp_path / "bb", "bb"))
    assert entry.job.sequence == 2


@pytest.mark.parametrize(
    ("events", "used"),
    [
        ("started", 1),
        ("started interrupted", 0),
        ("started crashed started", 2),
        ("started started", 1),  # the first never left the queue
        ("started exhausted started", 1),  # with smaller tiles
        ("started crashed crashed started", 2),  # one end, recorded at two tries
        ("started crashed started interrupted started failed", 2),
        ("started crashed retried", 0),
        ("started failed retried started", 1),
        ("interrupted started", 1),
    ],
)
def test_attempts_that_count(events: str, used: int, spool: Spool, tmp_path: Path) -> None:
    """Starts count unless a stop or the environment ended them; a retry counts again from zero."""
    entry = accept(spool, pair(tmp_path / "in"))
    lines = [json.dumps({"event": event}) for event in events.split()]
    (entry.folder / "attempts.jsonl").write_text("\n".join(lines) + '\n{"event": "sta')
    assert entry.attempts_used == used


def test_a_requeued_job_keeps_what_it_painted(spool: Spool, tmp_path: Path) -> None:
    """What was ready for the outbox stays with a job that is put back."""
    entry = _started(spool, tmp_path)
    entry.out.mkdir()
    (entry.out / "result.yaml").touch()
    assert (spool.requeue(entry, "interrupted", "stop").out / "result.yaml").exists()


def test_a_completed_job_is_not_kept_twice(spool: Spool, tmp_path: Path) -> None:
    """A done job keeps its inputs, not the result, which lies in the outbox."""
    entry = _started(spool, tmp_path)
    entry.out.mkdir()
    spool.complete(entry)
    assert _only(spool).state is State.DONE
    assert not _only(spool).out.exists()
    assert len(list(_only(spool).inputs.iterdir())) == 2


def test_endings_can_be_called_again(spool: Spool, tmp_path: Path) -> None:
    """An ending repeated after an error, when the job has moved already, changes nothing."""
    entry = _started(spool, tmp_path)
    failure = Failure(Reason.DIVERGED, "it ran away")
    for _ in range(2):
        assert spool.fail(entry, failure).state is State.FAILED
    assert _only(spool).failure == failure


# Operators' verbs


@pytest.mark.parametrize("state", [State.QUEUED, State.HELD])
def test_cancelled_jobs_are_taken_for_their_end(state: State, spool: Spool, tmp_path: Path) -> None:
    """A cancelled job that waits is handed out once, from running/."""
    entry = accept(spool, pair(tmp_path / "in"))
    entry = spool.hold(entry) if state is State.HELD else entry
    assert list(spool.take_cancelled()) == []
    spool.ask_cancel(entry)
    (taken,) = spool.take_cancelled()
    assert (taken.id, taken.state) == (entry.id, State.RUNNING)
    assert list(spool.take_cancelled()) == []


def test_a_cancelled_job_whose_end_did_not_get_through_is_the_workers(spool: Spool, tmp_path: Path) -> None:
    """Put back with its failure on record it is not handed out again: else each second would write again."""
    spool.ask_cancel(accept(spool, pair(tmp_path / "in")))
    (taken,) = spool.take_cancelled()
    spool.note_failure(taken, Failure(Reason.CANCELLED, "cancelled"))
    spool.requeue(taken, "interrupted", "the outbox is away")
    assert list(spool.take_cancelled()) == []


def test_a_cancelled_job_that_was_passed_over_is_taken_once_it_is_held(spool: Spool, tmp_path: Path) -> None:
    """Left to the worker in the queue, where its turn never comes once it is held, it is handed out then."""
    entry = accept(spool, pair(tmp_path / "in"))
    spool.note_failure(entry, Failure(Reason.CANCELLED, "cancelled"))
    spool.ask_cancel(entry)
    assert list(spool.take_cancelled()) == []
    spool.hold(entry)
    assert [taken.id for taken in spool.take_cancelled()] == [entry.id]


def test_a_cancel_requeued_during_the_look_is_not_lost(spool: Spool, tmp_path: Path) -> None:
    """A cancelled job that is put back while others are handed out is handed out at the next look."""
    running = _started(spool, tmp_path)
    queued = accept(spool, pair(tmp_path / "bb", "bb"))
    for entry in (running, queued):
        spool.ask_cancel(entry)
    taken = []
    for entry in spool.take_cancelled():
        taken.append(entry.id)
        spool.requeue(running, "interrupted", "stop")  # as the publisher's thread does
    assert taken == [queued.id]
    assert [entry.id for entry in spool.take_cancelled()] == [running.id]


def test_an_accepted_drop_is_known_wherever_the_worker_takes_it(spool: Spool, tmp_path: Path) -> None:
    """Claimed before whoever accepted it asks what it is, it still says so."""
    entry = accept(spool, pair(tmp_path / "in"))
    assert claim_next(spool)
    assert not entry.folder.exists()
    assert entry.job.id == entry.id


def test_several_threads_claim_each_job_once(spool: Spool, tmp_path: Path) -> None:
    """However many engines ask at the same time, each job goes to one of them, and is started once."""
    wanted = {accept(spool, pair(tmp_path / stem, stem)).id for stem in ("a", "bb", "ccc", "dddd", "eeeee")}
    start = threading.Barrier(8)

    def claim(_number: int) -> list[str]:
        start.wait()
        return [claim.entry.id for claim in iter(lambda: claim_next(spool), None) if claim]

    with ThreadPoolExecutor(8) as pool:
        claimed = [id_ for ids in pool.map(claim, range(8)) for id_ in ids]
    assert sorted(claimed) == sorted(wanted)
    assert [entry.attempts_used for entry in spool.entries(State.RUNNING)] == [1] * 5


def test_find_takes_ids_prefixes_and_labels(spool: Spool, tmp_path: Path) -> None:
    """JOB is an id, its beginning, or the whole name of its entry, never a part of the name."""
    entry = accept(spool, pair(tmp_path / "in"))
    for given in (entry.id, entry.id[:1], entry.label):
        assert [found.id for found in spool.find(given)] == [entry.id]
    for given in (f"x-{entry.id[:8]}", "sea", "zzz"):
        assert spool.find(given) == []


# Recovery and the lock


def test_recovery_sorts_everything(spool: Spool, tmp_path: Path) -> None:
    """Running jobs are completed if published, else requeued; drafts go; the unreadable is kept aside."""
    for stem in ("a", "bb", "ccc"):
        _started(spool, tmp_path, stem)
    accept(spool, pair(tmp_path / "dddd", "dddd"))
    jobs = {entry.job.stem: entry for entry in spool.all_entries() if entry.job}
    (jobs["ccc"].folder / "job.json").write_text("[" * 100_000)
    (jobs["dddd"].folder / "job.json").write_bytes(b"")
    (spool.root / "tmp" / "draft-1-1").mkdir()
    found = Spool(spool.root).recover(lambda job: job.stem == "a")
    assert [entry.id for entry in found.completed] == [jobs["a"].id]
    assert [(entry.id, entry.attempts_used) for entry in found.requeued] == [(jobs["bb"].id, 1)]
    assert {entry.id for entry in found.corrupt} == {jobs["ccc"].id, jobs["dddd"].id}
    states = {entry.id: entry.state for entry in spool.all_entries()}
    expected = {"a": State.DONE, "bb": State.QUEUED, "ccc": State.FAILED, "dddd": State.FAILED}
    assert states == {jobs[stem].id: state for stem, state in expected.items()}
    for stem in ("ccc", "dddd"):
        (entry,) = spool.find(jobs[stem].id)
        assert entry.failure.reason is Reason.CORRUPT
        assert len(list(entry.inputs.iterdir())) == 2
    assert list((spool.root / "tmp").iterdir()) == []


def test_a_second_daemon_is_refused(spool: Spool) -> None:
    """The lock is for one; `is_locked` sees it, and it ends with its holder."""
    with lock.locked(spool.root):
        assert lock.is_locked(spool.root)
        with pytest.raises(NotReady, match="another styletransferd"), lock.locked(spool.root):
            pass
    assert not lock.is_locked(spool.root)
