"""How much faster a way of computing is, measured by the first engine and kept for those after it."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Final

from daemon.engine import sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

FILE_NAME: Final = "engine-gains"


class Gains:
    """Gives a gain that was measured before, or measures it and keeps it.

    No measurement comes out the same twice. Beside other work one may fall on the other side of its bound, and
    an engine that computes otherwise than the one before it can neither go on from its checkpoints nor paint
    the same picture to the bit.
    """

    def __init__(self, path: Path | None, facts: Mapping[str, str]) -> None:
        """Read nothing yet.

        Args:
            path: a file in a folder that exists; None: every gain is measured.
            facts: what a gain depends on; those of other facts count no more.
        """
        self._path = path
        self._facts = dict(facts)

    def get(self, name: str, measure: Callable[[], float]) -> float:
        """Give the gain of a name; no error of the disk is one of the engine's.

        Args:
            name: of what is measured, and on what.
            measure: returns how many times as fast it is.
        """
        known = self._read()
        if name not in known:
            known[name] = measure()
            self._write(known)
        return known[name]

    def _read(self) -> dict[str, float]:
        if self._path is None:
            return {}
        try:
            with sealed.opened(self._path) as file:
                kept = json.load(file)
            is_ours = kept["facts"] == self._facts
            return {name: float(gain) for name, gain in kept["gains"].items()} if is_ours else {}
        except Exception:  # noqa: BLE001 - whatever lies there, they can be measured
            return {}

    def _write(self, known: Mapping[str, float]) -> None:
        if self._path is not None:
            data = json.dumps({"facts": self._facts, "gains": known}).encode("ascii")
            with contextlib.suppress(OSError):
                sealed.replace(self._path, lambda file: file.write(data))
