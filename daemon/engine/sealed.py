"""Files that are believed only while they are whole: the SHA-256 of the rest, then the rest.

What they hold may be half of the machine's memory, so neither writing nor reading holds it a second time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, Final

from daemon import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_DIGEST_BYTES: Final = hashlib.sha256().digest_size


class DamagedError(Exception):
    """A file is not what was written, or no file at all."""


def replace(path: Path, write: Callable[[BinaryIO], object], *, is_durable: bool = True) -> None:
    """Put a sealed file in place whole.

    Args:
        path: the file; its folder exists.
        write: writes the data into the file it is given.
        is_durable: see `files.replace`.
    """
    with files.replaced(path, is_durable=is_durable) as file:
        file.write(bytes(_DIGEST_BYTES))
        write(file)
        file.seek(_DIGEST_BYTES)
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0)
        file.write(digest)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a sealed file where its data begins.

    Raises:
        DamagedError: a bit of it, or of its digest, has changed; or it is a FIFO, a folder or the like.
        OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DamagedError("not a regular file")
    with open(fd, "rb") as file:
        wanted = file.read(_DIGEST_BYTES)
        if hashlib.file_digest(file, "sha256").digest() != wanted:
            raise DamagedError("not what was written")
        file.seek(_DIGEST_BYTES)
        yield file
