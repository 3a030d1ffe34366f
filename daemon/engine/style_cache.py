"""Gram matrices and samples of styles, kept on disk from job to job and from run to run."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from daemon import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.transfer.targets import Arrays

DISK_BYTES: Final = 512_000_000  # about 45 styles at one size


class StyleCache:
    """Returns what is kept under a key, or computes and keeps it. No error of the disk is ever a job's.

    A file is a `.npz`, whose CRC-32 is checked when it is read; a damaged one is computed again.
    """

    def __init__(self, folder: Path) -> None:
        """Take a folder, made when first needed; beyond the bound the least recently used file goes first."""
        self._folder = folder

    def get(self, key: str, compute: Callable[[], Arrays]) -> Arrays:
        """Return the arrays of a key."""
        path = self._folder / f"{key}.style"
        with contextlib.suppress(Exception):  # numpy raises nearly anything, and they can be computed again
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                found = dict(arrays)
            os.utime(path)  # `_tidy` goes by it
            return found
        found = compute()
        with contextlib.suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            with files.replaced(path, is_durable=False) as new:
                np.savez(new, **dict[str, Any](found))
            self._tidy()
        return found

    def _tidy(self) -> None:
        """Remove the least recently used files beyond the bound; one that a kill left half written counts."""
        total = 0
        for path in sorted(self._folder.iterdir(), key=lambda path: path.lstat().st_mtime, reverse=True):
            total += path.lstat().st_size
            if total > DISK_BYTES:
                files.remove_tree(path)
