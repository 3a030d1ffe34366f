"""Ended jobs are forgotten when their time has come, and never one that somebody may still need."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from support.desk import accept, pair
from support.trees import claim_next
from typer.testing import CliRunner

from daemon import clock, files
from daemon.cli.main import app
from daemon.errors import Failure, Reason
from daemon.job import State
from daemon.spool import Spool
from daemon.spool import stored_job as entry_module

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.spool import StoredJob

DAY = timedelta(days=1)
FAILURE = Failure(Reason.DIVERGED, "the numbers ran away")


class Now:
    """The spool's clock."""

    moment = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Tell the moment."""
        return self.moment

    def pass_(self, age: timedelta) -> None:
        """Let time go by."""
        self.moment += age


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    """Make a clock that the spool lives by."""
    made = Now()
    monkeypatch.setattr(clock, "utc", made)
    return made


def _accepted(spool: Spool, stem: str) -> StoredJob:
    return accept(spool, pair(spool.root.parent / "inbox", stem))


def _ended(spool: Spool, stem: str, state: State, *, is_retired: bool = True) -> StoredJob:
    _accepted(spool, stem)
    entry = claim_next(spool).entry
    ended = spool.complete(entry) if state is State.DONE else spool.fail(entry, FAILURE)
    if is_retired:
        spool.set_retired(ended.id)
    return ended


def _ids(gone: list[StoredJob]) -> list[str]:
    return [entry.id for entry in gone]


@pytest.mark.parametrize("state", [State.DONE, State.FAILED])
def test_an_ended_job_is_forgotten_at_its_age_and_not_before(spool: Spool, now: Now, state: State) -> None:
    """One second before seven days it is kept; at seven days it goes, with its inputs, and no trace is left."""
    ended = _ended(spool, "sea", state)
    now.pass_(7 * DAY - timedelta(seconds=1))
    assert spool.expire(state, 7 * DAY) == []
    assert ended.folder.exists()
    now.pass_(timedelta(seconds=1))
    assert _ids(spool.expire(state, 7 * DAY)) == [ended.id]
    assert spool.ids() == []
    assert list((spool.root / "tmp").iterdir()) == []


def test_each_state_has_its_own_age(spool: Spool, now: Now) -> None:
    """To forget what is done leaves what failed, of the same age, and the other way round."""
    done, failed = _ended(spool, "a", State.DONE), _ended(spool, "b", State.FAILED)
    now.pass_(8 * DAY)
    assert _ids(spool.expire(State.DONE, 7 * DAY)) == [done.id]
    assert spool.ids() == [failed.id]
    now.pass_(22 * DAY)
    assert _ids(spool.expire(State.FAILED, 30 * DAY)) == [failed.id]


def test_a_job_whose_originals_may_lie_in_the_inbox_is_kept(spool: Spool, now: Now) -> None:
    """However old, it stays until they are dealt with: else they would be taken for a new drop."""
    ended = _ended(spool, "sea", State.DONE, is_retired=False)
    now.pass_(300 * DAY)
    assert spool.expire(State.DONE, DAY) == []
    spool.set_retired(ended.id)
    assert _ids(spool.expire(State.DONE, DAY)) == [ended.id]


def test_what_is_not_ended_is_never_forgotten(spool: Spool, now: Now) -> None:
    """Queued, held and running jobs, though retired and a year old, survive the forgetting of both endings."""
    running = _accepted(spool, "a")
    assert claim_next(spool)
    held = spool.hold(_accepted(spool, "b"))
    queued = _accepted(spool, "c")
    for entry in (running, held, queued):
        spool.set_retired(entry.id)
    now.pass_(365 * DAY)
    for state in (State.DONE, State.FAILED):
        assert spool.expire(state, timedelta()) == []
    assert sorted(spool.ids()) == sorted([running.id, held.id, queued.id])


def test_the_age_counts_from_the_last_ending(spool: Spool, now: Now) -> None:
    """A job that failed, was retried and failed again is as old as its last ending."""
    failed = _ended(spool, "sea", State.FAILED)
    now.pass_(29 * DAY)
    spool.retry(failed)
    spool.fail(claim_next(spool).entry, FAILURE)
    now.pass_(2 * DAY)
    assert spool.expire(State.FAILED, 30 * DAY) == []
    now.pass_(28 * DAY)
    assert len(spool.expire(State.FAILED, 30 * DAY)) == 1


@pytest.mark.parametrize(
    "record", ["", '{"event": "compl', '{"event": "completed"}', '{"event": "completed", "at": 3}']
)
def test_an_ending_that_a_full_disk_kept_no_record_of_is_dated_by_its_folder(
    spool: Spool, now: Now, record: str
) -> None:
    """Without a readable record the folder's own time decides, and nothing is forgotten too early."""
    ended = _ended(spool, "sea", State.DONE)
    (ended.folder / "attempts.jsonl").write_text(record)
    moment = now.moment.timestamp()
    os.utime(ended.folder, (moment, moment))
    now.pass_(7 * DAY - timedelta(seconds=1))
    assert spool.expire(State.DONE, 7 * DAY) == []
    now.pass_(timedelta(seconds=1))
    assert len(spool.expire(State.DONE, 7 * DAY)) == 1


def test_a_clock_that_was_set_back_forgets_nothing(spool: Spool, now: Now) -> None:
    """Endings that lie in the future are young, also where nothing is to be kept for long."""
    _ended(spool, "sea", State.DONE)
    now.pass_(-365 * DAY)
    assert spool.expire(State.DONE, timedelta()) == []
    assert spool.count(State.DONE) == 1


def test_a_retry_in_that_instant_wins(spool: Spool, now: Now, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job retried between the look at its age and its end is queued, whole; the others still go."""
    retried, other = _ended(spool, "a", State.FAILED), _ended(spool, "b", State.FAILED)
    now.pass_(31 * DAY)
    operator, real = Spool(spool.root), entry_module.StoredJob.ended_at

    def look(entry: StoredJob) -> datetime:
        moment: datetime = real.fget(entry)  # type: ignore[attr-defined]
        if entry.id == retried.id and entry.state is State.FAILED:
            operator.retry(operator.find(entry.id)[0])
        return moment

    monkeypatch.setattr(entry_module.StoredJob, "ended_at", property(look))
    assert _ids(spool.expire(State.FAILED, 30 * DAY)) == [other.id]
    (entry,) = spool.entries(State.QUEUED)
    assert entry.id == retried.id
    assert len(list(entry.inputs.iterdir())) == 2
    assert claim_next(spool)


def test_a_retry_of_what_was_just_forgotten_fails_and_makes_nothing(spool: Spool, now: Now) -> None:
    """An operator who comes too late gets an error; no half job appears."""
    failed = _ended(spool, "sea", State.FAILED)
    now.pass_(31 * DAY)
    spool.expire(State.FAILED, 30 * DAY)
    with pytest.raises(FileNotFoundError):
        Spool(spool.root).retry(failed)
    assert spool.ids() == []


def test_a_crash_during_the_removal_leaves_only_what_recovery_removes(
    spool: Spool, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half removed, the job is in tmp/ and in no state; the next start removes the rest."""
    ended = _ended(spool, "sea", State.DONE)
    now.pass_(8 * DAY)

    def die(folder: Path) -> None:
        (folder / "job.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "remove_tree", die)
    with pytest.raises(KeyboardInterrupt):
        spool.expire(State.DONE, 7 * DAY)
    monkeypatch.undo()
    assert not ended.folder.exists()
    assert spool.ids() == []
    assert len(list((spool.root / "tmp").iterdir())) == 1
    recovery = Spool(spool.root).recover(lambda _job: False)
    assert vars(recovery) == {"completed": [], "requeued": [], "corrupt": []}
    assert list((spool.root / "tmp").iterdir()) == []


def test_the_same_files_dropped_again_are_a_new_job(spool: Spool, now: Now) -> None:
    """The very same untouched files get a job, a result and another id: the old one's entry may be there."""
    ended = _ended(spool, "sea", State.DONE)
    now.pass_(8 * DAY)
    assert spool.expire(State.DONE, 7 * DAY)
    assert (spool.root / "expired" / ended.id).exists()
    again = _accepted(spool, "sea")
    assert again.state is State.QUEUED
    assert spool.ids() == [again.id] != [ended.id]
    assert len(list(again.inputs.iterdir())) == 2
    assert spool.complete(claim_next(spool).entry).state is State.DONE


def test_the_operators_verbs_know_nothing_of_what_was_forgotten(tmp_path: Path, spool: Spool, now: Now) -> None:
    """`list` shows the others, `show` and `retry` say in one line that there is no such job."""
    gone, kept = _ended(spool, "a", State.FAILED), _ended(spool, "b", State.DONE)
    now.pass_(31 * DAY)
    spool.expire(State.FAILED, 30 * DAY)
    config = tmp_path / "config.yaml"
    config.write_text("{}")

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, [*words, "--config", str(config)])

    listed = json.loads(run("list", "--json").stdout)
    assert [(item["id"], item["state"]) for item in listed] == [(kept.id, "done")]
    for verb in ("show", "retry"):
        answer = run(verb, gone.id)
        assert answer.exit_code == 1
        assert "no such job" in str(answer.exception)
    assert run("show", kept.id).exit_code == 0


def test_one_that_cannot_be_moved_is_an_error_and_stays_whole(
    spool: Spool, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that refuses costs no job its files: the error goes up, and the next hour tries again."""
    ended = _ended(spool, "sea", State.DONE)
    before = sorted(path.name for path in ended.folder.rglob("*"))
    now.pass_(8 * DAY)
    shutil.rmtree(spool.root / "tmp")
    (spool.root / "tmp").write_text("no folder")
    with pytest.raises(OSError, match="Not a directory"):
        spool.expire(State.DONE, 7 * DAY)
    assert sorted(path.name for path in ended.folder.rglob("*")) == before
    (spool.root / "tmp").unlink()
    spool.prepare()
    assert len(spool.expire(State.DONE, 7 * DAY)) == 1


def test_a_clock_that_jumped_ahead_forgets_nothing(spool: Spool, now: Now) -> None:
    """Years too long is no age but a wrong clock; once it is right again, the retention goes on."""
    ended = _ended(spool, "sea", State.DONE)
    now.pass_(3000 * DAY)
    assert spool.expire(State.DONE, 7 * DAY) == []
    now.pass_(-2990 * DAY)
    assert _ids(spool.expire(State.DONE, 7 * DAY)) == [ended.id]
