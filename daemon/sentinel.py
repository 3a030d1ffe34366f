"""Proof that a share is mounted: a small file in it that an empty mount point does not have."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daemon import files
from daemon.errors import NotReady, PauseKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TEXT = b"styletransferd looks for this file to know that the folder is mounted. Please leave it here.\n"


@dataclass(frozen=True)
class Sentinel:
    """The sentinel of one folder.

    It is made when this spool uses the folder for the first time, and never again: from then on a folder
    without it counts as an empty mount point.
    """

    folder: Path
    kind: str  # inbox or outbox
    memory: Path  # a file in the spool: the folders that were used, separated by NUL

    @property
    def path(self) -> Path:
        """The file in the folder."""
        return self.folder / f".styletransferd-{self.kind}"

    def establish(self) -> None:
        """Make the folder and its sentinel when the folder is used for the first time.

        Raises:
            NotReady: they cannot be made, or were there before and are gone.
        """
        try:
            known = self.memory.read_bytes().split(b"\0") if self.memory.exists() else []
            if os.fsencode(self.folder) not in known:
                files.make_folder(self.folder)
                if not self.path.exists():
                    files.replace(self.path, _TEXT)
                files.replace(self.memory, b"\0".join([*known, os.fsencode(self.folder)]))
        except OSError as error:
            raise NotReady(f"{self.kind} {self.folder}: {error.strerror}") from error
        self.check()

    def check(self) -> None:
        """Raise NotReady, with what to do, if the folder is not there."""
        with self.opened():
            pass

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """Open the folder, whatever is mounted or unmounted at its path meanwhile.

        Yields:
            A descriptor to give as `dir_fd`; it can be listed.

        Raises:
            NotReady: the folder is not there; the message says what to do.
        """
        with self._explained():
            fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.check_in(fd)
            yield fd
        finally:
            os.close(fd)

    def check_in(self, folder: int) -> None:
        """Raise NotReady if the folder that is open as `folder` is an empty mount point."""
        with self._explained():
            os.stat(self.path.name, dir_fd=folder)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an OSError into NotReady that names the folder and says what to do."""
        try:
            yield
        except OSError as error:
            message = f"{self.folder}: {error.strerror}"
            if isinstance(error, FileNotFoundError):
                message = (
                    f"{self.path} is missing; mount the share, or, if the folder was made again on purpose, "
                    f"run: touch '{self.path}'"
                )
            raise NotReady(f"{self.kind} unavailable: {message}", PauseKind.UNAVAILABLE) from error
