"""Settings from a sidecar's keys, as this version of the product reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon import sidecar

if TYPE_CHECKING:
    from daemon.settings import Settings


def settings(keys: dict[str, Any], **more: Any) -> Settings:
    """Read a sidecar's keys; no frames unless a key asks for them."""
    found = sidecar.read({"frames": {"every": 0, "animation": "none"}, **keys, **more}, "benchmark")
    assert found.settings, found.faults
    return found.settings


def is_known(keys: dict[str, Any]) -> bool:
    """Whether this version accepts the keys."""
    return not sidecar.read(keys, "benchmark").faults
