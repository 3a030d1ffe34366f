"""An outbox that is mounted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from daemon.outbox.publish import Outbox
from daemon.sentinel import Sentinel

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    """Make an empty outbox with its sentinel."""
    sentinel = Sentinel(tmp_path / "outbox", "outbox", tmp_path / "met")
    sentinel.establish()
    return Outbox(sentinel.folder, sentinel)
