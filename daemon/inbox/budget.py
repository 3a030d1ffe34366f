"""The time that one stage of a turn may take, so that no stage keeps the others waiting for long."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from daemon.lifeline import Lifeline

LIMIT_S: Final = 2.0


class Budget:
    """Two seconds from its beginning; a stop ends it at once."""

    def __init__(self, life: Lifeline) -> None:
        """Begin.

        Args:
            life: of the calling thread.
        """
        self._life = life
        self._begun = time.monotonic()

    @property
    def is_spent(self) -> bool:
        """Whether what is left has to wait for the next turn."""
        return self._life.is_stopping or time.monotonic() - self._begun > LIMIT_S
