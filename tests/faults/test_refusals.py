"""Errors that stay: what waiting does not repair fails one job, everything else is waited out."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from support.fakes import Disk, FakeEngine
from support.trees import Stepper, named, wait_for

from daemon import files, safe_yaml
from daemon.errors import NotReady, Reason
from daemon.job import State
from daemon.worker.outcomes import Ending

if TYPE_CHECKING:
    from pathlib import Path

    from support.trees import Tree


OF_THE_FILE = ("ENAMETOOLONG", "EINVAL", "EILSEQ", "EFBIG", "ENOTSUP", "EXDEV", "EOVERFLOW")
OF_THE_PLACE = (
    *("EIO", "EROFS", "ENOSPC", "EDQUOT", "EACCES", "EPERM", "ESTALE", "ENOTCONN", "ETIMEDOUT", "ENOENT"),
)
EVER = 10**9


def _two_each_day(codes: tuple[str, ...]) -> list[Any]:
    return [*codes[:2], *(pytest.param(code, marks=pytest.mark.nightly) for code in codes[2:])]


def _failure(tree: Tree) -> Any:
    (entry,) = tree.spool.entries(State.FAILED)
    return entry.failure


@pytest.mark.parametrize("code", _two_each_day(OF_THE_FILE))
def test_a_name_that_the_outbox_never_takes_fails_the_job_in_sight(
    code: str, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three refusals of the result end the job as outbox_refused, shown in the outbox; the next is painted."""
    engine, tries = FakeEngine(), 0
    stepper, real = Stepper(tree.config, engine), os.rename
    number = getattr(errno, code)

    def rename(source: Any, target: Any, **options: Any) -> None:
        nonlocal tries
        name = os.path.basename(os.fspath(target))  # noqa: PTH119 - as the call gets it
        if name.startswith("sea-") and not name.endswith(".failed"):
            tries += 1
            raise OSError(number, os.strerror(number), source, None, target)
        real(source, target, **options)

    monkeypatch.setattr(os, "rename", rename)
    tree.drop("sea")
    tree.drop("lake")
    with capture_logs() as records:
        endings = stepper.until_quiet()
    assert sorted(endings) == [Ending.COMPLETED, Ending.FAILED]
    assert tries == 3
    assert len(engine.calls) == 2
    assert _failure(tree).reason == "outbox_refused"
    (shown,) = tree.outbox.glob("sea-*.failed")
    document = safe_yaml.parse((shown / "error.yaml").read_bytes())
    assert document["reason"] == "outbox_refused"
    assert os.strerror(number) in document["message"]
    assert named(records, "outbox.refused") == []
    assert stepper.service.situation.paused == {}
    tree.check(is_quiet=True)


@pytest.mark.parametrize("code", ["ENAMETOOLONG", pytest.param("EINVAL", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("kind", ["painted", "faulty"])
def test_an_outbox_that_takes_nothing_of_it_does_not_hold_up_the_rest(
    kind: str, code: str, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where not even the failure can be shown the job ends in the spool, with one warning and its files."""
    stepper, real = Stepper(tree.config, FakeEngine()), os.mkdir
    number = getattr(errno, code)

    def mkdir(path: Any, *args: Any, **options: Any) -> None:
        drafts = [f".tmp-{entry.id}" for entry in tree.spool.all_entries() if entry.job.stem == "sea"]
        if os.fspath(path) in drafts:
            raise OSError(number, os.strerror(number), path)
        real(path, *args, **options)

    monkeypatch.setattr(os, "mkdir", mkdir)
    tree.drop("sea", **({"sise": 3} if kind == "faulty" else {}))
    tree.drop("lake")
    with capture_logs() as records:
        stepper.until_quiet()
    failure = _failure(tree)
    assert failure.reason == ("outbox_refused" if kind == "painted" else "bad_sidecar")
    assert len(named(records, "outbox.refused")) == 1
    assert len(named(records, "job.failed")) == 1
    assert [name.rpartition("-")[0] for name in tree.results()] == ["lake"]
    (entry,) = tree.spool.entries(State.FAILED)
    assert len(list(entry.inputs.iterdir())) == 3
    assert stepper.service.situation.paused == {}


@pytest.mark.parametrize("code", _two_each_day(OF_THE_PLACE))
def test_an_outbox_that_does_not_work_now_is_waited_for(code: str, tree: Tree) -> None:
    """Twenty refusals long the service pauses and says why; the job never fails and is shown in the end."""
    engine = FakeEngine()
    stepper = Stepper(tree.config, engine)
    disk = Disk(tree.outbox, 0, length=EVER, code=getattr(errno, code))
    real, pauses = stepper.service.situation.backoff.begin, 0

    def pause(part: str, error: Exception) -> None:
        nonlocal pauses
        pauses += 1
        real(part, error)
        if pauses == 20:
            disk._first = None  # repaired

    stepper.service.situation.backoff.begin = pause  # type: ignore[method-assign]
    tree.drop("sea")
    with capture_logs() as records, disk.attached():
        assert stepper.until_quiet(deadline_s=20) == [Ending.COMPLETED]
    assert pauses == 20
    paused = named(records, "service.paused")
    assert {record["part"] for record in paused} == {"outbox"}
    assert all(f"fake {code}" in record["reason"] for record in paused)
    assert [record["part"] for record in named(records, "service.resumed")] == ["outbox"]
    assert named(records, "job.failed") == []
    assert len(engine.calls) == 1
    tree.check(is_quiet=True)


def test_a_painted_job_that_the_outbox_keeps_waiting_can_be_cancelled(tree: Tree, stepper: Stepper) -> None:
    """Cancelled while an outbox does not take its result, it is shown as cancelled once the outbox works."""
    disk = Disk(tree.outbox, 0, length=EVER, code=errno.EIO)
    real = stepper.service.situation.backoff.begin

    def pause(part: str, error: Exception) -> None:
        real(part, error)
        (entry,) = tree.spool.entries(State.RUNNING)
        tree.spool.ask_cancel(entry)
        disk._first = None  # repaired

    stepper.service.situation.backoff.begin = pause  # type: ignore[method-assign]
    tree.drop("sea")
    with disk.attached():
        assert stepper.until_quiet(deadline_s=20) == [Ending.FAILED]
    assert _failure(tree).reason is Reason.CANCELLED
    assert [name.endswith(".failed") for name in tree.results()] == [True]
    tree.check(is_quiet=True)


@pytest.mark.parametrize("code", _two_each_day(("EIO", "EINVAL", "EROFS", "ENOSPC")))
def test_a_spool_that_does_not_work_now_is_waited_for(code: str, tree: Tree) -> None:
    """Errors of the spool, of whatever kind, never fail a job: it is painted once the disk works again."""
    engine = FakeEngine()
    stepper = Stepper(tree.config, engine)
    tree.drop("sea")
    wait_for(lambda: not stepper.look() and tree.spool.count(State.QUEUED), "the drop to be accepted")
    disk = Disk(tree.config.folders.spool, 0, length=EVER, code=getattr(errno, code))
    with capture_logs() as records:
        with disk.attached():
            for _ in range(10):
                assert stepper.turn() is Ending.INTERRUPTED
        assert stepper.service.situation.paused.keys() == {"worker"}
        assert stepper.until_quiet() == [Ending.COMPLETED]
    assert [record["part"] for record in named(records, "service.resumed")] == ["worker"]
    assert named(records, "job.failed") == []
    tree.check(is_quiet=True)


def test_an_error_of_the_spool_after_the_publication_is_not_the_outboxs(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is published is not called refused because the spool cannot record it, however it answers."""
    stepper, real, tries = Stepper(tree.config, FakeEngine()), os.rename, 0

    def rename(source: Any, target: Any, **options: Any) -> None:
        nonlocal tries
        if str(target).startswith(str(tree.spool.folder(State.DONE))) and tries < 9:
            tries += 1
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), source)
        real(source, target, **options)

    monkeypatch.setattr(os, "rename", rename)
    tree.drop("sea")
    assert stepper.until_quiet() == [Ending.COMPLETED]
    assert tries == 9
    assert [name.rpartition("-")[0] for name in tree.results()] == ["sea"]
    tree.check(is_quiet=True)


# Before the start of a job, and before a drop is accepted


@pytest.mark.parametrize("lack", ["bytes", "inodes"])
@pytest.mark.parametrize("where", ["spool", "outbox"])
def test_without_room_no_job_is_started_and_none_fails(
    where: str, lack: str, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk too full for the next job pauses the service, with figures, before an attempt is begun."""
    engine = FakeEngine()
    stepper = Stepper(tree.config, engine)
    tree.drop("sea")
    wait_for(lambda: not stepper.look() and tree.spool.count(State.QUEUED), "the drop to be accepted")
    full, real = getattr(tree.config.folders, where), files.room

    def room(folder: Path) -> files.Room:
        found = real(folder)
        if folder != full:
            return found
        return files.Room(500_000, found.entries) if lack == "bytes" else files.Room(found.size, 3)

    with monkeypatch.context() as patch, capture_logs() as records:
        patch.setattr(files, "room", room)
        for _ in range(5):
            assert stepper.turn() is Ending.INTERRUPTED
    (paused,) = named(records, "service.paused")
    assert paused["part"] == "worker"
    assert ("0.5 MB free" if lack == "bytes" else "3 inodes free") in paused["reason"]
    (entry,) = tree.spool.entries(State.QUEUED)
    assert entry.attempts == []
    assert engine.calls == []
    assert stepper.until_quiet() == [Ending.COMPLETED]
    tree.check(is_quiet=True)


def test_without_room_no_drop_is_accepted(
    tree: Tree, stepper: Stepper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spool too full for a drop leaves it in the inbox, untouched, and pauses the inbox with figures."""
    tree.drop("sea")
    before = tree.left()
    with monkeypatch.context() as patch, capture_logs() as records:
        patch.setattr(files, "room", lambda _folder: files.Room(1_000_000, None))
        for _ in range(5):
            stepper.look()
            stepper.service.stop.wait(0.002)
    (paused,) = named(records, "service.paused")
    assert paused["part"] == "inbox"
    assert "1.0 MB free" in paused["reason"]
    assert tree.left() == before
    assert list((tree.spool.root / "tmp").iterdir()) == []
    assert stepper.until_quiet() == [Ending.COMPLETED]
    tree.check(is_quiet=True)


def test_an_error_without_a_place_is_reported_without_one(stepper: Stepper) -> None:
    """Some errors name no file; then the reason is what the system says, and no `None`."""
    for error, reason in (
        (OSError(errno.ENOSPC, "No space left on device"), "[Errno 28] No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device", "x.png"), "No space left on device: x.png"),
        (NotReady("the GPU is busy"), "the GPU is busy"),
    ):
        stepper.service.situation.backoff.begin("worker", error)
        assert stepper.service.situation.paused["worker"] == reason


def test_a_stop_ends_the_wait(tree: Tree, stepper: Stepper) -> None:
    """A service that is asked to stop while it waits for its outbox stops at once, and loses nothing."""
    tree.drop("sea")
    disk = Disk(tree.outbox, 0, length=EVER, code=errno.EIO)
    stepper.service.situation.backoff.begin = lambda *_: stepper.service.ask_stop()  # type: ignore[method-assign]
    with disk.attached():
        wait_for(lambda: stepper.turn() is Ending.INTERRUPTED, "the stop")
    (entry,) = tree.spool.entries(State.QUEUED)
    assert entry.attempts_used == 0
    engine = FakeEngine()
    assert Stepper(tree.config, engine).until_quiet() == [Ending.COMPLETED]
    assert engine.calls == []  # it was painted already
    tree.check(is_quiet=True)
