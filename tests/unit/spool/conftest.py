"""A spool with nothing in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from daemon.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """Make a spool, where a config in `tmp_path` has it."""
    made = Spool(tmp_path / "spool")
    made.prepare()
    return made
