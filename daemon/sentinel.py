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
        with contextlib.ExitStack() as stack:
            try:
                fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                os.stat(self.path.name, dir_fd=fd)
            except OSError as error:
                raise NotReady(self._absence(error), PauseKind.UNAVAILABLE) from error
            yield fd

    def _absence(self, error: OSError) -> str:
        if not isinstance(error, FileNotFoundError):
            return f"{self.kind} unavailable: {self.folder}: {error.strerror}"
        remedy = f"mount the share, or, if the folder was made again on purpose, run: touch '{self.path}'"
        return f"{self.kind} unavailable: {self.path} is missing; {remedy}"
