"""What this version of the product knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon import sidecar

if TYPE_CHECKING:
    from daemon.settings import Settings


def settings(keys: dict[str, Any], **more: Any) -> Settings:
    """Read a sidecar's keys; no frames, unless they are asked for."""
    found = sidecar.read({"frames": {"every": 0, "animation": "none"}, **keys, **more}, "benchmark")
    assert found.settings, found.faults
    return found.settings


def is_known(keys: dict[str, Any]) -> bool:
    """Tell whether a sidecar may have some keys."""
    return not sidecar.read(keys, "benchmark").faults
