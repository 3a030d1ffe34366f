"""An intake on an inbox of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.desk import RESCAN_S, SETTLE_S, Desk

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import Config


@pytest.fixture
def make_desk(make_config: Callable[..., Config]) -> Callable[..., Desk]:
    """Make a desk; keywords are of the config's `inbox` section."""

    def make(folders: dict[str, str] | None = None, **options: Any) -> Desk:
        inbox = {"settle_s": SETTLE_S, "rescan_s": RESCAN_S, **options}
        return Desk(make_config(inbox=inbox, folders=folders or {}))

    return make


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    """Make a desk with the defaults."""
    return make_desk()
