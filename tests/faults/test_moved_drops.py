"""Drops that people move about in the inbox, and drops that there is no room for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from support.fakes import FakeEngine
from support.trees import Stepper, named, wait_for

from daemon.errors import NotReady
from daemon.inbox.scan import MAX_DEPTH
from daemon.job import State

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from support.trees import Tree

    from daemon.job import Drop
    from daemon.spool import Draft, StoredJob


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_folder_renamed_after_the_acceptance_is_painted_once(
    tree: Tree, stepper: Stepper, monkeypatch: pytest.MonkeyPatch, *, is_killed: bool
) -> None:
    """A drop that is moved between its acceptance and its removal is the same drop, and is removed there."""
    tree.drop("sea", "batch")
    real = stepper.service.spool.commit

    def commit(draft: Draft, versions: dict[str, str]) -> StoredJob:
        entry = real(draft, versions)
        (tree.inbox / "batch").rename(tree.inbox / "renamed")
        return entry

    with monkeypatch.context() as patch:
        patch.setattr(stepper.service.spool, "commit", commit)
        wait_for(lambda: stepper.look() or (tree.inbox / "renamed").exists(), "the folder to be renamed")
    if is_killed:
        stepper = Stepper(tree.config, FakeEngine())
    stepper.until_quiet()
    assert len(list(tree.spool.all_entries())) == 1
    assert tree.left() == []
    assert stepper.service.status.counts.accepted == (0 if is_killed else 1)
    tree.check(is_quiet=True)
    tree.drop("sea", "renamed")
    stepper.until_quiet()
    assert len(list(tree.spool.all_entries())) == 2


def test_a_drop_without_room_holds_up_no_smaller_one(
    tree: Tree, stepper: Stepper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit waits and says so, the service shows that it is paused, and the next one is painted."""
    tree.drop("a-big")
    tree.drop("small")
    real = stepper.service.spool.draft

    def draft(drop: Drop, *args: Any) -> AbstractContextManager[Draft]:
        if drop.stem == "a-big":
            raise NotReady("no room")
        return real(drop, *args)

    with monkeypatch.context() as patch, capture_logs() as records:
        patch.setattr(stepper.service.spool, "draft", draft)
        wait_for(lambda: stepper.turn() or tree.spool.count(State.DONE), "the small one to be painted")
        reasons = stepper.waiting
        assert reasons["a-big.yaml"] == "no room"
        assert stepper.service.situation.paused == {"inbox": "no room"}
    assert [record["reason"] for record in named(records, "service.paused")] == ["no room"]
    stepper.until_quiet()
    tree.check(is_quiet=True)


def test_a_bottomless_tree_is_not_followed(tree: Tree) -> None:
    """Folders nested too deep are in trouble alone; a drop beside them is painted."""
    deep = tree.inbox.joinpath(*(["d"] * (MAX_DEPTH + 2)))
    deep.mkdir(parents=True)
    tree.drop("good")
    stepper = Stepper(tree.config, FakeEngine())
    wait_for(lambda: stepper.turn() or tree.spool.count(State.DONE), "the good one to be painted")
    (reason,) = stepper.waiting.values()
    assert reason == f"nested deeper than {MAX_DEPTH} folders"


@pytest.mark.parametrize("keys", [{}, {"sise": 3}], ids=["good", "faulty"])
def test_an_error_after_the_commit_is_counted_once_and_leaves_nothing_behind(
    keys: dict[str, Any], tree: Tree, stepper: Stepper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drop that is in the spool when its acceptance reports an error is ended, and counted once."""
    tree.drop("sea", **keys)
    real, failures = stepper.service.spool.commit, [OSError(5, "Input/output error")]

    def commit(draft: Draft, versions: dict[str, str]) -> StoredJob:
        entry = real(draft, versions)
        if failures:
            raise failures.pop()
        return entry

    monkeypatch.setattr(stepper.service.spool, "commit", commit)
    stepper.until_quiet()
    assert failures == []
    assert stepper.service.status.counts.accepted == 1
    tree.check(is_quiet=True)
