"""The installed programs, for the records of jobs."""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError, version


@functools.cache
def versions() -> dict[str, str]:
    """Give their versions without importing them."""
    found = {}
    for name in ("styletransferd", "tensorflow", "keras", "numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
