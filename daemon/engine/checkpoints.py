"""A running job's state on disk: saved now and then, loaded only if it is whole and of the same job."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

import numpy as np

from daemon import files
from daemon.job import CHECKPOINT_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

KEPT: Final = 2
# A checkpoint may take one part in so many of the time between two of them.
_MAX_SHARE: Final = 200
_ARRAYS: Final = ("image", "moved", "best_image", "first", "rows")
UNREADABLE: Final = "an older checkpoint cannot be read; the painting begins again"


@dataclass(frozen=True)
class Checkpoint:
    """One `Iterate`, with the table of losses so far and the best picture of its scale.

    Its loss is finite, so it is also a picture to step back to. Nothing in the loop is random.
    """

    scale: int  # number of the scale
    iteration: int  # of this scale
    image: npt.NDArray[np.float32]  # (1, H, W, 3), the picture of that iteration
    moved: npt.NDArray[np.float32]  # (1, H, W, 3), the next one; the same one after the last of a scale
    state: tuple[npt.NDArray[np.float32], ...]  # the optimizer's, for the next step
    best_image: npt.NDArray[np.float32]  # (1, H, W, 3), the best one of this scale
    best_row: int  # its row in the table
    scale_row: int  # the first row of this scale
    target_s: float  # preparing the scales so far
    steps_back: int
    first: npt.NDArray[np.float64]  # (3,), the exact losses of the last scale's first picture
    rows: npt.NDArray[np.float64]  # (n, 6): iteration, size_px, total, style, content, elapsed_s


class Found(NamedTuple):
    """The newest checkpoint that can be used, if there is one."""

    checkpoint: Checkpoint | None
    trouble: str = ""  # set if there is none because none of the files could be read


class Checkpoints:
    """The checkpoints of one job, in a folder of its own.

    A file is an uncompressed `.npz`, whose CRC-32 shows if it is whole. Its name is the number of rows: newer
    ones sort last, and the spool reads a job's progress from it.
    """

    def __init__(self, folder: Path, key: str, interval_s: float) -> None:
        """Take a folder, which need not exist; a checkpoint of another `key` is skipped.

        Between two checkpoints are `interval_s`, or more if writing one takes over half a percent of it.
        """
        self._folder = folder
        self._key = key
        self._interval_s = interval_s
        self._due = time.monotonic() + interval_s

    def is_due(self) -> bool:
        """Tell whether it is time for the next one."""
        return time.monotonic() >= self._due

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one durably, and remove all but the newest two; after an OSError those before are untouched."""
        begun = time.monotonic()
        self._due = begun + self._interval_s  # also after an error: a full disk is not asked at every step
        if not self._folder.is_dir():
            self._folder.mkdir()  # in a job that is there, or nowhere
        path = self._folder / f"{len(checkpoint.rows):07d}{CHECKPOINT_SUFFIX}"
        try:
            with files.replaced(path) as file:
                _pack(checkpoint, self._key, file)
        finally:
            self._tidy(path)
        now = time.monotonic()
        self._due = now + max(self._interval_s, _MAX_SHARE * (now - begun))

    def _tidy(self, newest: Path) -> None:
        """Remove all but the newest two: older ones, later ones that were skipped, and half-written files."""
        good = [path for path in kept(self._folder) if path.name <= newest.name][-KEPT:]
        for path in self._folder.iterdir():
            if path not in good:
                files.remove_tree(path)

    def newest(self, is_usable: Callable[[list[int]], bool] = lambda _: True) -> Found:
        """Load the newest checkpoint that is whole, of this key and usable.

        `is_usable` tests the iterations in its table. MemoryError is raised; other errors mean a damaged file.
        """
        unreadable = 0
        paths = kept(self._folder)
        for path in reversed(paths):
            try:
                if found := _unpack(path, self._key, is_usable):
                    return Found(found)
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001 - numpy raises nearly anything, and there is an older one, or the start
                unreadable += 1
        return Found(None, UNREADABLE if paths and unreadable == len(paths) else "")


def kept(folder: Path) -> list[Path]:
    """List the checkpoints of a folder, oldest first."""
    return sorted(folder.glob(f"*{CHECKPOINT_SUFFIX}"))


def key(*facts: Any) -> str:
    """Name everything that shapes a result, given as plain data."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("ascii")).hexdigest()


def _pack(checkpoint: Checkpoint, key_: str, file: BinaryIO) -> None:
    facts = dict(vars(checkpoint))
    arrays = {name: facts.pop(name) for name in _ARRAYS}
    parts = facts.pop("state")
    arrays |= {f"state_{number}": part for number, part in enumerate(parts)}
    head = json.dumps({**facts, "key": key_, "parts": len(parts)}).encode("ascii")
    np.savez(file, head=np.frombuffer(head, np.uint8), **arrays)


def _unpack(path: Path, key_: str, is_usable: Callable[[list[int]], bool]) -> Checkpoint | None:
    """Load a file; None if it is of another key or not usable, and any exception if it is damaged."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        head = json.loads(arrays["head"].tobytes())
        if head.pop("key") != key_ or not is_usable(arrays["rows"][:, 0].astype(int).tolist()):
            return None
        # Every byte of every member: reading an array with a damaged header might stop before its end.
        if damaged := arrays.zip.testzip():
            raise ValueError(f"{damaged} is damaged")
        state = tuple(arrays[f"state_{number}"] for number in range(head.pop("parts")))
        return Checkpoint(**head, **{name: arrays[name] for name in _ARRAYS}, state=state)
