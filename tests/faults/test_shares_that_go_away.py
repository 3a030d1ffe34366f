"""A share that is not mounted: the service waits, and goes on by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from support.fakes import FakeEngine
from support.trees import Stepper, named, wait_for

from daemon.job import State
from daemon.worker.outcomes import Ending

if TYPE_CHECKING:
    from support.trees import Tree

    from daemon.job import Step
    from daemon.spool import Draft, StoredJob


def test_a_missing_outbox_pauses_and_the_painted_picture_waits(tree: Tree) -> None:
    """An outbox that goes away during a job gets the picture when it is back; it is painted once."""
    sentinel, aside = tree.outbox / ".styletransferd-outbox", tree.config.folders.spool / "aside"
    attempts = 0

    def unmount(step: Step) -> None:
        if step.painting and sentinel.exists():
            sentinel.rename(aside)

    engine = FakeEngine(on_step=unmount)
    stepper = Stepper(tree.config, engine)
    tree.drop("sea")

    def pause(part: str, error: Exception) -> None:
        nonlocal attempts
        attempts += 1
        assert tree.results() == []
        assert part == "outbox"
        assert "outbox unavailable" in str(error)
        if attempts == 3:
            aside.rename(sentinel)

    stepper.service.situation.backoff.begin = pause  # type: ignore[method-assign]
    assert stepper.until_quiet() == [Ending.COMPLETED]
    assert attempts == 3
    assert len(engine.calls) == 1
    tree.check(is_quiet=True)


def test_a_stop_while_the_outbox_is_away_keeps_the_painted_picture(tree: Tree) -> None:
    """A job painted while the outbox was away is published after a restart without being painted again."""
    sentinel = tree.outbox / ".styletransferd-outbox"

    def unmount(step: Step) -> None:
        if step.painting:
            sentinel.unlink()
            stepper.service.stop.set()

    first = FakeEngine(on_step=unmount)
    stepper = Stepper(tree.config, first)
    tree.drop("sea")
    wait_for(lambda: stepper.turn() is Ending.INTERRUPTED, "the job to be put off")
    (entry,) = tree.spool.entries(State.QUEUED)
    assert entry.attempts_used == 0
    sentinel.touch()
    second = FakeEngine()
    assert Stepper(tree.config, second).until_quiet() == [Ending.COMPLETED]
    assert (len(first.calls), second.calls) == (1, [])
    tree.check(is_quiet=True)


def test_nothing_is_started_or_published_without_the_outbox(tree: Tree, stepper: Stepper) -> None:
    """With the outbox' sentinel gone the service pauses, says so, and writes nothing under the mount point."""
    (tree.outbox / ".styletransferd-outbox").unlink()
    tree.drop("sea")
    with capture_logs() as records:
        for _ in range(20):
            stepper.turn()
            stepper.service.stop.wait(0.001)
    paused = named(records, "service.paused")
    assert [record["part"] for record in paused] == ["worker"]
    assert "outbox unavailable" in paused[0]["reason"]
    assert list(tree.outbox.iterdir()) == []
    (tree.outbox / ".styletransferd-outbox").touch()
    with capture_logs() as records:
        assert stepper.until_quiet() == [Ending.COMPLETED]
    assert [record["part"] for record in named(records, "service.resumed")] == ["worker"]
    tree.check(is_quiet=True)


def test_nothing_is_accepted_without_the_inbox(tree: Tree, stepper: Stepper) -> None:
    """With the inbox' sentinel gone what lies there is left alone, and accepted once the sentinel is back."""
    (tree.inbox / ".styletransferd-inbox").unlink()
    tree.drop("sea")
    before = tree.left()
    with capture_logs() as records:
        for _ in range(20):
            stepper.turn()
            stepper.service.stop.wait(0.001)
    assert [record["part"] for record in named(records, "service.paused")] == ["inbox"]
    assert tree.left() == before
    assert list(tree.spool.all_entries()) == []
    (tree.inbox / ".styletransferd-inbox").touch()
    assert stepper.until_quiet() == [Ending.COMPLETED]
    tree.check(is_quiet=True)


def test_a_sentinel_is_never_made_again(tree: Tree) -> None:
    """A start on a folder that lost its sentinel is refused instead of taking the mount point for the share."""
    Stepper(tree.config, FakeEngine())
    (tree.inbox / ".styletransferd-inbox").unlink()
    with pytest.raises(Exception, match="inbox unavailable"):
        Stepper(tree.config, FakeEngine())
    assert not (tree.inbox / ".styletransferd-inbox").exists()


@pytest.mark.parametrize("leaves_mount_point", [True, False], ids=["unmounted", "moved away"])
@pytest.mark.parametrize("has_reason", [False, True], ids=["good", "faulty"])
def test_an_inbox_that_goes_between_accepting_and_removing_is_not_taken_for_emptied(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, *, leaves_mount_point: bool, has_reason: bool
) -> None:
    """Originals that cannot be seen are not gone: back with the share they are removed, not painted again."""
    stepper, aside = Stepper(tree.config, FakeEngine()), tree.inbox.with_name("aside")
    real = stepper.service.spool.commit

    def commit(draft: Draft, versions: dict[str, str]) -> StoredJob:
        entry = real(draft, versions)
        tree.inbox.rename(aside)
        if leaves_mount_point:
            tree.inbox.mkdir()
        return entry

    tree.drop("sea", **({"sise": 3} if has_reason else {}))
    with monkeypatch.context() as patch:
        patch.setattr(stepper.service.spool, "commit", commit)
        wait_for(lambda: stepper.look() or aside.exists(), "the inbox to go")
        for _ in range(3):
            stepper.turn()
    assert not leaves_mount_point or list(tree.inbox.iterdir()) == []
    if leaves_mount_point:
        tree.inbox.rmdir()
    assert not tree.inbox.exists()
    aside.rename(tree.inbox)
    stepper.until_quiet()
    assert len(list(tree.spool.all_entries())) == 1
    tree.check(is_quiet=True)
