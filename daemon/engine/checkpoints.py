"""A running job's state on disk: written now and then, read back only where it is whole and of the same job."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

from daemon import files
from daemon.engine import sealed
from daemon.job import CHECKPOINT_SUFFIX
from daemon.transfer.run import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEPT: Final = 2
# A checkpoint may take one part in so many of the time between two of them.
_MAX_SHARE: Final = 200
_ARRAYS: Final = ("image", "moved", "best_image", "first", "rows")


class Checkpoints:
    """The checkpoints of one job, in a folder of its own.

    A file is the SHA-256 of the rest, then an uncompressed `.npz`. Its name is the number of pictures judged:
    newer ones sort last and progress can be told without opening any.
    """

    def __init__(
        self, folder: Path, key: str, interval_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Look at a folder, which need not exist.

        Args:
            folder: the job's own.
            key: names everything that shapes the way; a checkpoint of another key is passed over.
            interval_s: how often one is due, unless writing takes so long that it would cost half a percent.
            clock: monotonic seconds.
        """
        self._folder = folder
        self._key = key
        self._interval_s = interval_s
        self._clock = clock
        self._due = clock() + interval_s

    def is_due(self) -> bool:
        """Tell whether it is time for the next one."""
        return self._clock() >= self._due

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one durably, and remove all but the newest two.

        Raises:
            OSError: the disk does not take it; the ones before it are untouched.
        """
        begun = self._clock()
        self._due = begun + self._interval_s  # also after an error: a full disk is not asked at every step
        if not self._folder.is_dir():
            self._folder.mkdir()  # in a job that is there, or nowhere
        path = self._folder / f"{len(checkpoint.rows):07d}{CHECKPOINT_SUFFIX}"
        try:
            sealed.replace(path, lambda file: _pack(checkpoint, self._key, file))
        finally:
            self._tidy(path)
        now = self._clock()
        self._due = now + max(self._interval_s, _MAX_SHARE * (now - begun))

    def _tidy(self, newest: Path) -> None:
        """Remove what nobody will go on from.

        That is: all but the newest two; later ones that were passed over, whose way is now gone anew; and what
        a failed write, or a kill in the middle of one, left half done.
        """
        good = [path for path in kept(self._folder) if path.name <= newest.name][-KEPT:]
        for path in self._folder.iterdir():
            if path not in good:
                files.remove_tree(path)

    def newest(self, is_usable: Callable[[list[int]], bool] = lambda _: True) -> Checkpoint | None:
        """Read the newest one that is whole, of this key and usable.

        Args:
            is_usable: asked with the iterations of its rows.

        Raises:
            MemoryError: there is none for it.
        """
        for path in reversed(kept(self._folder)):
            found = self._read(path, is_usable)
            if found is not None:
                return found
        return None

    def _read(self, path: Path, is_usable: Callable[[list[int]], bool]) -> Checkpoint | None:
        try:
            with sealed.opened(path) as file:
                return _unpack(file, self._key, is_usable)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - numpy raises nearly anything, and there is an older one, or the start
            return None


def kept(folder: Path) -> list[Path]:
    """List the checkpoints of a folder, oldest first."""
    return sorted(folder.glob(f"*{CHECKPOINT_SUFFIX}"))


def key(*facts: Any) -> str:
    """Name everything that shapes a way, as plain data."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("ascii")).hexdigest()


def _pack(checkpoint: Checkpoint, key_: str, file: BinaryIO) -> None:
    plain = {
        name: value for name, value in vars(checkpoint).items() if not isinstance(value, (np.ndarray, tuple))
    }
    head = json.dumps({**plain, "key": key_, "parts": len(checkpoint.state)}).encode("ascii")
    arrays: dict[str, Any] = {f"state_{number}": part for number, part in enumerate(checkpoint.state)}
    arrays |= {name: getattr(checkpoint, name) for name in _ARRAYS}
    np.savez(file, head=np.frombuffer(head, np.uint8), **arrays)


def _unpack(file: BinaryIO, key_: str, is_usable: Callable[[list[int]], bool]) -> Checkpoint | None:
    with np.load(file, allow_pickle=False) as arrays:
        head = json.loads(arrays["head"].tobytes())
        if head.pop("key") != key_ or not is_usable(arrays["rows"][:, 0].astype(int).tolist()):
            return None
        parts = range(head.pop("parts"))
        return Checkpoint(
            **head,
            **{name: arrays[name] for name in _ARRAYS},
            state=tuple(arrays[f"state_{number}"] for number in parts),
        )
