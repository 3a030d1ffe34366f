"""Trees for fault tests: settling is quick, and pauses end at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from trees import Tree

from daemon import config as config_module
from daemon import service

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def make_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Tree]:
    """Make trees below `tmp_path`, each with folders of its own."""
    monkeypatch.setattr(service, "_PAUSE_S", 0.001)

    def make(name: str = "tree") -> Tree:
        base = tmp_path / name
        tree = Tree(
            config_module.build({"inbox": {"settle_s": 0.001, "rescan_s": 0.002}}, base, environment={})
        )
        tree.inbox.mkdir(parents=True)
        return tree

    return make
