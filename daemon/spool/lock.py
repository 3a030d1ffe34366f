"""The spool's lock: one daemon works on a spool at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING, Final

from daemon.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TRIES: Final = 20
_PAUSE_S: Final = 0.05


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Be the only daemon of a spool; raises NotReady where another process is."""
    try:
        fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NotReady(f"spool {root}: {error.strerror}") from error
    try:
        for tries_left in reversed(range(_TRIES)):  # `status` holds it shared for an instant
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not tries_left:
                    raise NotReady(f"spool {root}: another styletransferd works here") from None
                time.sleep(_PAUSE_S)
        yield
    finally:
        os.close(fd)


def is_locked(root: Path) -> bool:
    """Whether a daemon works on a spool now."""
    try:
        with (root / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
