"""The only place for durable operations: write, rename, copy, remove, each followed by its fsync.

Two rules hold throughout. A file or folder appears whole or not at all: it is made under a hidden name beside
its place, synced, and renamed. An fsync that failed is never repeated on the same descriptor, since Linux may
then report success without the data; the error goes up, and the next try writes anew.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK: Final = 1 << 20
_NO_DIRECTORY_FSYNC: Final = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


class ChangedError(Exception):
    """A file is not the one that was seen: gone, replaced, still being written, or no regular file."""


class TooLargeError(Exception):
    """A file holds more bytes than allowed."""


class SourceError(Exception):
    """The file that is copied cannot be read, which says nothing about the disk it is copied to."""


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable; shares that cannot do that (SMB) are let be."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_FSYNC:
            raise
    finally:
        os.close(fd)


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder and its parents if they are missing, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=mode, exist_ok=True)
    fsync_folder(folder.parent)


def write(path: Path, data: bytes) -> None:
    """Write a new file durably, in place: for folders that are themselves still hidden."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes, *, is_durable: bool = True) -> None:
    """Put a file in place whole; readers see the old one or the new one.

    Args:
        path: the file; its folder exists.
        data: the whole content.
        is_durable: False for what is rewritten every second and worthless after a crash.
    """
    hidden = path.with_name(f".{path.name}.new")
    with hidden.open("wb") as file:
        file.write(data)
        if is_durable:
            file.flush()
            os.fsync(file.fileno())
    hidden.replace(path)
    if is_durable:
        fsync_folder(path.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def append_line(path: Path, line: str) -> None:
    """Append one line durably; a torn line that a crash left before it stays a line of its own."""
    with open(path, "a+b", buffering=0, opener=_private) as file:
        end = file.seek(0, os.SEEK_END)
        torn = bool(end) and os.pread(file.fileno(), 1, end - 1) != b"\n"
        data = (b"\n" if torn else b"") + line.encode("utf-8") + b"\n"
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file.fileno())


def move(source: Path, target: Path) -> None:
    """Rename within one file system, durably; `target` does not exist.

    Raises:
        FileNotFoundError: another process moved `source` first.
    """
    source.rename(target)
    fsync_folder(target.parent)
    if source.parent != target.parent:
        fsync_folder(source.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder of our own making with all it holds; a missing one is fine, a link goes alone."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)


def open_regular(folder: Path, name: str) -> int:
    """Open a regular file of a folder for reading: no link is followed, no FIFO waited for.

    Returns:
        A descriptor that the caller closes.

    Raises:
        ChangedError: it is gone or not a regular file.
    """
    try:
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
        finally:
            os.close(folder_fd)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR}:
            raise ChangedError(error.strerror) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ChangedError("not a regular file")
    return fd


def copy_hashed(source_fd: int, target: Path, max_bytes: int) -> str:
    """Copy an open file into a new one durably, hashing on the way.

    Returns:
        The SHA-256 of what was copied, in hexadecimal.

    Raises:
        TooLargeError: the source holds more than `max_bytes`.
        SourceError: the source cannot be read.
    """
    digest, total = hashlib.sha256(), 0
    with target.open("xb") as file:
        while chunk := _read(source_fd):
            total += len(chunk)
            if total > max_bytes:
                raise TooLargeError
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _CHUNK)
    except OSError as error:
        raise SourceError(error.strerror) from error


def hash_fd(fd: int) -> str:
    """Hash what is left to read of an open file (SHA-256, hexadecimal)."""
    digest = hashlib.sha256()
    while chunk := os.read(fd, _CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Hash a file of our own (SHA-256, hexadecimal)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
