"""Proof that a share is mounted: a small file in it that an empty mount point does not have."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daemon import files
from daemon.errors import NotReady, PauseKind

if TYPE_CHECKING:
    from pathlib import Path

_TEXT = b"styletransferd looks for this file to know that the folder is mounted. Please leave it here.\n"


@dataclass(frozen=True)
class Sentinel:
    """The sentinel of one folder, and the spool's memory of having met it.

    It is made when this spool sees the folder for the first time, and never again: from then on a folder
    without it is taken for an empty mount point.
    """

    folder: Path
    kind: str  # inbox or outbox
    memory: Path  # a file in the spool

    @property
    def path(self) -> Path:
        """The file in the folder."""
        return self.folder / f".styletransferd-{self.kind}"

    def establish(self) -> None:
        """Make folder and sentinel at the first meeting.

        Raises:
            NotReady: they cannot be made, or were met before and are gone.
        """
        try:
            met = self.memory.read_bytes().split(b"\0") if self.memory.exists() else []
            if os.fsencode(self.folder) not in met:
                files.make_folder(self.folder)
                if not self.path.exists():
                    files.replace(self.path, _TEXT)
                files.replace(self.memory, b"\0".join([*met, os.fsencode(self.folder)]))
        except OSError as error:
            raise NotReady(f"{self.kind} {self.folder}: {error.strerror}") from error
        self.check()

    def check(self) -> None:
        """See that the folder is there.

        Raises:
            NotReady: it is not; the message says what to do.
        """
        self._look(None)

    def check_in(self, folder: int) -> None:
        """See that a folder that is open already is the one, and no empty mount point.

        Args:
            folder: a descriptor.

        Raises:
            NotReady: it is not.
        """
        self._look(folder)

    def _look(self, folder: int | None) -> None:
        try:
            os.stat(self.path.name if folder is not None else self.path, dir_fd=folder)
        except FileNotFoundError:
            raise NotReady(
                f"{self.kind} unavailable: {self.path} is missing; mount the share, or, if the folder was made "
                f"anew on purpose, run: touch '{self.path}'",
                PauseKind.UNAVAILABLE,
            ) from None
        except OSError as error:
            message = f"{self.kind} unavailable: {self.folder}: {error.strerror}"
            raise NotReady(message, PauseKind.UNAVAILABLE) from error
