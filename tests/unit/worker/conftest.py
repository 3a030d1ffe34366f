"""One claimed job, and what is needed to paint it and to bring it to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.fakes import FakeEngine
from support.trees import Stepper, Tree, claim_next, wait_for

from daemon.job import State
from daemon.lifeline import Lifeline
from daemon.outbox import loss_table
from daemon.service import backoff
from daemon.worker.attempt import Attempt
from daemon.worker.lookahead import LookAhead

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import Config
    from daemon.worker.outcomes import Interrupted, Painted


class Studio:
    """One claimed job, and attempts at it."""

    def __init__(self, tree: Tree, **keys: Any) -> None:
        tree.drop("sea", **keys)
        self.stepper = Stepper(tree.config, FakeEngine())
        self.service = self.stepper.service
        wait_for(lambda: self.stepper.look() or tree.spool.count(State.QUEUED), "the drop to be accepted")
        self.claim = claim_next(self.service.spool)
        self.life = Lifeline()
        self.shown: list[int] = []  # the iteration of the progress after each step

    def attempt(self, engine: FakeEngine) -> Attempt:
        """Begin one, nothing of it done yet."""
        ahead = LookAhead(self.service.spool, engine)
        rates = self.service.attempts.rates
        return Attempt(self.claim, self.service.outbox, self.life.nested(), ahead, rates)

    def paint(self, engine: FakeEngine) -> Painted | Interrupted:
        """Make one."""
        attempt = self.attempt(engine)
        with self.service.attempts.running(attempt):
            return attempt.paint(engine)

    @property
    def out(self) -> set[str]:
        """List what is ready for the outbox."""
        folder = self.claim.entry.out
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    @property
    def rows(self) -> list[list[str]]:
        """Read losses.csv without its head."""
        lines = (self.claim.entry.out / "losses.csv").read_text().splitlines()
        return [line.split(",") for line in lines[1:]]


@pytest.fixture
def tree(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Make a tree that settles at once, and draw no curves."""
    monkeypatch.setattr(loss_table, "curve", lambda _rows, _title: b"a curve")
    monkeypatch.setattr(backoff, "PAUSE_S", 0.001)
    made = Tree(make_config(inbox={"settle_s": 0.001, "rescan_s": 0.002}))
    made.inbox.mkdir()
    return made


@pytest.fixture
def make_studio(tree: Tree) -> Callable[..., Studio]:
    """Make studios; keywords are the sidecar's keys."""
    return lambda **keys: Studio(tree, **keys)
