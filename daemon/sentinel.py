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
        """Raise NotReady, with what to do, where the folder is not there."""
        with self._named():
            self.path.stat()

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """Hold the folder by a descriptor, whatever is mounted or unmounted at its path meanwhile.

        Yields:
            A descriptor to give as `dir_fd`; it can be listed.

        Raises:
            NotReady: the folder is not there; the message says what to do.
        """
        with self._named():
            fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.check_in(fd)
            yield fd
        finally:
            os.close(fd)

    def check_in(self, folder: int) -> None:
        """Raise NotReady where the folder that is open as `folder` is not the one, but an empty mount point."""
        with self._named():
            os.stat(self.path.name, dir_fd=folder)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Say in an error of what follows which folder it is about, and what to do."""
        try:
            yield
        except FileNotFoundError:
            raise NotReady(
                f"{self.kind} unavailable: {self.path} is missing; mount the share, or, if the folder was made "
                f"anew on purpose, run: touch '{self.path}'",
                PauseKind.UNAVAILABLE,
            ) from None
        except OSError as error:
            message = f"{self.kind} unavailable: {self.folder}: {error.strerror}"
            raise NotReady(message, PauseKind.UNAVAILABLE) from error
