"""The only place for durable operations: write, rename, copy, remove, each followed by its fsync.

Three rules hold throughout. A file or folder appears whole or not at all: it is made under a hidden name beside
its place, synced, and renamed. A failed fsync is never repeated on the same descriptor, since Linux may then
report success without the data; the error is raised, and the next try writes the file again. A relative path
starts at the open folder whose descriptor is `at`, whatever is mounted or unmounted meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from daemon.errors import NotReady, PauseKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import BufferedRandom
    from pathlib import Path, PurePath

_CHUNK: Final = 1 << 20
_LISTABLE: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER: Final = _LISTABLE | os.O_PATH
SPARE_BYTES: Final = 1 << 20  # left free on every disk, for records, logs and other programs
# Errors of the file itself, which a retry does not remove. All others are of the disk or share, and retried.
_OF_THE_FILE: Final = {
    *(errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ, errno.EFBIG, errno.ENOTSUP, errno.EXDEV, errno.EOVERFLOW),
}
_NO_DIRECTORY_FSYNC: Final = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


class ChangedError(Exception):
    """A file is not the one that was seen: missing, replaced, still being written, or no regular file."""


class SourceError(Exception):
    """The source of a copy cannot be read; the target's disk is not the reason."""


def cause(error: Exception) -> str:
    """Say in a few words why a file cannot be read, without its path."""
    return str(getattr(error, "strerror", None) or error)


def is_of_the_file(error: Exception) -> bool:
    """Whether a retry is useless, as for a name that a share does not accept."""
    return isinstance(error, OSError) and error.errno in _OF_THE_FILE


def fsync_folder(folder: PurePath, *, at: int | None = None) -> None:
    """Make the names in a folder durable; a share that cannot do that (SMB) is no error."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_FSYNC:
            raise
    finally:
        os.close(fd)


def make_folder(folder: PurePath, mode: int = 0o777, *, at: int | None = None) -> None:
    """Make a folder and its parents if they are missing, durably."""
    if _is_folder(folder, at):
        return
    make_folder(folder.parent, at=at)
    try:
        os.mkdir(folder, mode, dir_fd=at)
    except FileExistsError:
        if not _is_folder(folder, at):
            raise
    fsync_folder(folder.parent, at=at)


def _is_folder(path: PurePath, at: int | None) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path, dir_fd=at).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def write(path: PurePath, data: bytes, *, at: int | None = None) -> None:
    """Write a new file durably, in place: for folders that are themselves still hidden."""
    with _created(path, at) as file:
        file.write(data)
        _sync(file)


def _sync(file: BufferedRandom) -> None:
    file.flush()
    os.fsync(file.fileno())


def _created(path: PurePath, at: int | None) -> BufferedRandom:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return open(os.open(path, flags, 0o666, dir_fd=at), "w+b")


def replace(
    path: PurePath, data: bytes, *, is_durable: bool = True, mode: int | None = None, at: int | None = None
) -> None:
    """Put a file in place whole: readers see the old content or the new.

    A file that is rewritten every second need not be durable. The default mode is the umask's.
    """
    with replaced(path, is_durable=is_durable, mode=mode, at=at) as file:
        file.write(data)


@contextlib.contextmanager
def replaced(
    path: PurePath, *, is_durable: bool = True, mode: int | None = None, at: int | None = None
) -> Iterator[BufferedRandom]:
    """Yield a file to write into, and put it in place whole, as `replace` does."""
    hidden = path.with_name(f".{path.name}.new")
    remove_tree(hidden, at=at)  # left by a crash, or a link that somebody planted
    with _created(hidden, at) as file:
        yield file
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        if is_durable:
            _sync(file)
    os.replace(hidden, path, src_dir_fd=at, dst_dir_fd=at)
    if is_durable:
        fsync_folder(path.parent, at=at)


def append_line(path: Path, line: str) -> None:
    """Append one line durably; half a line that a crash left before it stays a line of its own."""
    private = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(private, "a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        torn = bool(end) and os.pread(file.fileno(), 1, end - 1) != b"\n"
        data = (b"\n" if torn else b"") + line.encode("utf-8") + b"\n"
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file.fileno())


def move(source: PurePath, target: PurePath, *, at: int | None = None) -> None:
    """Rename within one file system, durably; `target` does not exist."""
    os.rename(source, target, src_dir_fd=at, dst_dir_fd=at)
    fsync_folder(target.parent, at=at)
    if source.parent != target.parent:
        fsync_folder(source.parent, at=at)


def remove_tree(folder: PurePath, *, at: int | None = None) -> None:
    """Remove a folder or file of our own; a missing one is no error, and of a link only the link is removed."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(folder, dir_fd=at, follow_symlinks=False).st_mode):
            shutil.rmtree(folder, dir_fd=at)
        else:
            os.unlink(folder, dir_fd=at)


@contextlib.contextmanager
def opened_folder(
    folder: PurePath, *, at: int | None = None, makes: bool = False, lists: bool = False
) -> Iterator[int]:
    """Open a folder, which need be listable only if it `lists`; with `makes`, its missing parts are made.

    The path is absolute unless `at` is given, and must be free of links, so that nobody can redirect it.

    Raises:
        ChangedError: it is missing, or a part of its path is no folder.
    """
    with _absence_as_change():
        fd = os.open("/", _FOLDER) if at is None else os.dup(at)
        parts = folder.parts if at is not None else folder.parts[1:]
        for name in (*parts, ".") if lists else parts:
            above, fd = fd, -1
            try:
                if makes and not exists_at(above, name):
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, dir_fd=above)
                fd = os.open(name, _LISTABLE if name == "." else _FOLDER, dir_fd=above)
            finally:
                os.close(above)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _absence_as_change() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR}:
            raise ChangedError(error.strerror) from error
        raise


def open_regular(folder: int | Path, name: str) -> int:
    """Open a regular file for reading: no link is followed, no FIFO waited for.

    The folder is a descriptor, or a path as `opened_folder` takes it. The caller closes the result.

    Raises:
        ChangedError: it is missing or not a regular file.
    """
    if not isinstance(folder, int):
        with opened_folder(folder) as folder_fd:
            return open_regular(folder_fd, name)
    with _absence_as_change():
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ChangedError("not a regular file")
    return fd


def show(folder: int, hidden: str, target: int, names: Iterable[str]) -> None:
    """Move a hidden file between open folders, to the first of `names` that is free; one must be."""
    for wanted in names:
        try:
            os.link(hidden, wanted, src_dir_fd=folder, dst_dir_fd=target, follow_symlinks=False)
        except FileExistsError:
            if not is_same(folder, hidden, target, wanted):  # else a crash came before the unlink below
                continue
        except OSError:  # a folder, or a share without hard links
            if exists_at(target, wanted):
                continue
            os.rename(hidden, wanted, src_dir_fd=folder, dst_dir_fd=target)
            return
        os.unlink(hidden, dir_fd=folder)
        return


def is_same(folder: int, name: str, other_folder: int, other_name: str) -> bool:
    """Whether two existing names, each in an open folder, are of one file."""
    one = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return os.path.samestat(one, os.stat(other_name, dir_fd=other_folder, follow_symlinks=False))


def exists_at(folder: int, name: str) -> bool:
    """Whether an open folder has a file, folder or link of this name."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def require_room(folder: Path, size: int, entries: int) -> None:
    """Raise NotReady if a file system has no room for so many bytes and so many files."""
    free = room(folder)
    if free.size < size + SPARE_BYTES:
        found = f"{free.size / 1e6:.1f} MB free, {(size + SPARE_BYTES) / 1e6:.1f} MB needed"
        raise NotReady(f"{folder}: {found}", PauseKind.NO_SPACE)
    if free.entries is not None and free.entries < entries:
        raise NotReady(f"{folder}: {free.entries} inodes free, {entries} needed", PauseKind.NO_SPACE)


class Room(NamedTuple):
    """The free space of a file system for an ordinary user."""

    size: int  # bytes
    entries: int | None  # None: not limited


def room(folder: Path) -> Room:
    """Get the free space of the file system of a folder."""
    found = os.statvfs(folder)
    return Room(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def capacity(folder: Path) -> int:
    """Get the size of the file system of a folder in bytes."""
    found = os.statvfs(folder)
    return found.f_blocks * found.f_frsize


def size_of(folder: Path) -> int:
    """Add up the sizes of the files below a folder of our own; 0 if it is missing."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def copy_hashed(source_fd: int, target: PurePath, beat: Callable[[], object], *, at: int | None = None) -> str:
    """Copy an open file into a new one durably, with a heartbeat for every piece; what it grows by is left out.

    Returns:
        The SHA-256 of the copy, in hexadecimal.

    Raises:
        SourceError: the source cannot be read.
    """
    digest = hashlib.sha256()
    with _created(target, at) as file:
        for chunk in _chunks(source_fd):
            beat()
            digest.update(chunk)
            file.write(chunk)
        _sync(file)
    return digest.hexdigest()


def _chunks(fd: int) -> Iterator[bytes]:
    try:
        left = os.fstat(fd).st_size
        while chunk := os.read(fd, min(left, _CHUNK)):
            left -= len(chunk)
            yield chunk
    except OSError as error:
        raise SourceError(error.strerror) from error


def hash_fd(fd: int) -> str:
    """Hash the rest of an open file (SHA-256, hexadecimal)."""
    with open(fd, "rb", buffering=0, closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
