"""Gram matrices of styles, kept from job to job in memory and between runs on disk, both bounded."""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from daemon import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.transfer.targets import Grams

_SUFFIX: Final = ".grams"
MEMORY_BYTES: Final = 64_000_000  # about 25 styles at one size
DISK_BYTES: Final = 256_000_000


class GramCache:
    """Returns what is kept under a key, or computes and keeps it. No error of the disk is ever a job's.

    A file is a `.npz`, whose CRC-32 is checked when it is read; a damaged one is computed again.
    """

    def __init__(
        self, folder: Path | None, memory_bytes: int = MEMORY_BYTES, disk_bytes: int = DISK_BYTES
    ) -> None:
        """Begin with an empty memory; beyond either bound the least recently used goes first.

        The folder is made when first needed, in a folder that exists. None: memory alone.
        """
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._disk_bytes = disk_bytes
        self._known: collections.OrderedDict[str, Grams] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, compute: Callable[[], Grams]) -> Grams:
        """Return the Gram matrices of a key, layer -> (C, C) float32."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        grams = self._read(key)
        if grams is None:
            grams = compute()
            self._write(key, grams)
        with self._lock:
            self._known[key] = grams
            while len(self._known) > 1 and sum(map(_size, self._known.values())) > self._memory_bytes:
                self._known.popitem(last=False)
        return grams

    def forget(self) -> None:
        """Free the memory; what is on disk stays."""
        with self._lock:
            self._known.clear()

    def _read(self, key: str) -> Grams | None:
        if self._folder is None:
            return None
        with contextlib.suppress(Exception):  # numpy raises nearly anything, and they can be computed again
            path = self._folder / f"{key}{_SUFFIX}"
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                grams = dict(arrays)
            os.utime(path)  # `_tidy` goes by it
            return grams
        return None

    def _write(self, key: str, grams: Grams) -> None:
        if self._folder is None:
            return
        with contextlib.suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            path = self._folder / f"{key}{_SUFFIX}"
            with files.replaced(path, is_durable=False) as file:
                np.savez(file, **dict[str, Any](grams))
            self._tidy(self._folder)

    def _tidy(self, folder: Path) -> None:
        """Remove the least recently used files beyond the bound, and those that a kill left half written."""
        total = 0
        for path in sorted(folder.glob("*"), key=lambda path: path.lstat().st_mtime, reverse=True):
            is_whole = path.suffix == _SUFFIX
            total += path.lstat().st_size if is_whole else 0
            if path.name.endswith(f"{_SUFFIX}.new") or (is_whole and total > self._disk_bytes):
                files.remove_tree(path)


def _size(grams: Grams) -> int:
    return sum(gram.nbytes for gram in grams.values())
