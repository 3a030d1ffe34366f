"""Which files are quiet: a pure account of when each file last changed, on a clock that never jumps."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from daemon.job import Stamp


class Settle:
    """Remembers since when every file has looked as it looks now.

    Modification times are compared for equality only, never with a clock: copies keep old ones, and wall
    clocks jump. `now` is any monotonic time in seconds.
    """

    def __init__(self) -> None:
        self._since: dict[str, tuple[Stamp, float]] = {}

    def observe(self, stamps: Mapping[str, Stamp], now: float) -> None:
        """Take in one whole scan; what is not in it is forgotten."""
        before, self._since = self._since, {}
        for path, stamp in stamps.items():
            known = before.get(path)
            self._since[path] = known if known and known[0] == stamp else (stamp, now)

    def quiet_s(self, path: str, now: float) -> float:
        """Give the seconds for which a scanned file has not changed."""
        return now - self._since[path][1]
