"""Trees for fault tests: settling is quick, pauses end at once, and what was tried is counted."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
import structlog
from support.fakes import FakeEngine
from support.kills import Stage
from support.trees import Stepper, Tree, folder_in_memory

from daemon import config as config_module
from daemon.outbox import loss_table
from daemon.service import backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.config import Config


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Iterator[Counter[str]]:
    """Count what the end of the session reports; see `pytest_terminal_summary` in `tests/conftest.py`."""
    counts: Counter[str] = Counter()
    yield counts
    for what, count in counts.items():
        record_property(what, count)


def _config(base: Path) -> Config:
    return config_module.build({"inbox": {"settle_s": 0.001, "rescan_s": 0.002}}, base, environment={})


@pytest.fixture
def make_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Tree]:
    """Make trees below `tmp_path`, each with folders of its own."""
    monkeypatch.setattr(backoff, "PAUSE_S", 0.001)

    def make(name: str) -> Tree:
        tree = Tree(_config(tmp_path / name))
        tree.inbox.mkdir(parents=True)
        return tree

    return make


@pytest.fixture
def tree(make_tree: Callable[[str], Tree]) -> Tree:
    """Make a tree."""
    return make_tree("tree")


@pytest.fixture
def stepper(tree: Tree) -> Stepper:
    """Make a service on the tree, stepped by hand, whose engine paints."""
    return Stepper(tree.config, FakeEngine())


@pytest.fixture
def make_stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stage]]:
    """Make stages for thousands of runs: in memory, without log and curve.

    `make(kinds, **keys)` drops one job a letter (p is painted, f has a faulty sidecar) with these sidecar keys.
    """
    monkeypatch.setattr(backoff, "PAUSE_S", 0.0)
    monkeypatch.setattr(loss_table, "curve", lambda _rows, _title: b"a curve")
    logging = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with folder_in_memory() as folder:

        def make(kinds: str, **keys: object) -> Stage:
            tree = Tree(_config(folder / f"stage-{len(list(folder.iterdir()))}"))
            tree.inbox.mkdir(parents=True)
            for number, kind in enumerate(kinds):
                tree.drop(f"{kind}{number}", **keys, **({"sise": 3} if kind == "f" else {}))
            return Stage(tree)

        yield make
    structlog.configure(**logging)
