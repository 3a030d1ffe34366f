"""Files appear whole or not at all, and only regular ones are read."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from daemon import files
from daemon.files import ChangedError, TooLargeError


def names(folder: Path) -> set[str]:
    """List a folder, hidden files included."""
    return set(os.listdir(folder))


@pytest.mark.parametrize("is_durable", [True, False])
def test_replace_puts_a_file_in_place_of_another(tmp_path: Path, *, is_durable: bool) -> None:
    """New or not, the file holds the new content, and nothing lies beside it."""
    path = tmp_path / "status.json"

    files.replace(path, b"first, and longer", is_durable=is_durable)
    files.replace(path, b"second", is_durable=is_durable)

    assert path.read_bytes() == b"second"
    assert names(tmp_path) == {"status.json"}


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """While a writer replaces a file over and over, every read gives one whole version."""
    path = tmp_path / "status.json"
    versions = {bytes([digit]) * 200_000 for digit in b"abc"}
    files.replace(path, b"a" * 200_000, is_durable=False)
    stopped = threading.Event()

    def write() -> None:
        while not stopped.is_set():
            for version in versions:
                files.replace(path, version, is_durable=False)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {path.read_bytes() for _ in range(500)}
    finally:
        stopped.set()
        writer.join()

    assert seen <= versions
    assert len(seen) > 1


def test_a_failed_replace_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not take the new content keeps the old one in place."""
    path = tmp_path / "a"
    files.replace(path, b"old")

    def fail(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        files.replace(path, b"new")

    assert path.read_bytes() == b"old"


def test_write_refuses_an_existing_file(tmp_path: Path) -> None:
    """A file of a draft is written once."""
    files.write(tmp_path / "a", b"first")

    with pytest.raises(FileExistsError):
        files.write(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"


def test_lines_are_appended(tmp_path: Path) -> None:
    """Each line ends in a line break, and the file is the daemon's alone."""
    path = tmp_path / "attempts.jsonl"

    files.append_line(path, '{"a": 1}')
    files.append_line(path, "ä")

    assert path.read_text("utf-8") == '{"a": 1}\nä\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_move_takes_a_folder_with_all_it_holds(tmp_path: Path) -> None:
    """The source is gone, the target is there whole."""
    (tmp_path / "queued/job/in").mkdir(parents=True)
    (tmp_path / "queued/job/in/a").write_bytes(b"a")
    (tmp_path / "running").mkdir()

    files.move(tmp_path / "queued/job", tmp_path / "running/job")

    assert names(tmp_path / "queued") == set()
    assert (tmp_path / "running/job/in/a").read_bytes() == b"a"


def test_a_move_that_lost_the_race_says_so(tmp_path: Path) -> None:
    """A source that another process has moved raises FileNotFoundError."""
    with pytest.raises(FileNotFoundError):
        files.move(tmp_path / "gone", tmp_path / "target")


def test_both_folders_of_a_move_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rename is durable: where the job went, and where it left."""
    synced: list[Path] = []
    monkeypatch.setattr(files, "fsync_folder", synced.append)
    (tmp_path / "queued/job").mkdir(parents=True)
    (tmp_path / "running").mkdir()

    files.move(tmp_path / "queued/job", tmp_path / "running/job")

    assert set(synced) == {tmp_path / "queued", tmp_path / "running"}


@pytest.mark.parametrize(
    ("number", "is_raised"),
    [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True), (errno.ENOSPC, True)],
)
def test_folders_that_cannot_be_synced_are_let_be_and_failures_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, *, is_raised: bool
) -> None:
    """SMB knows no fsync of folders; a disk error is one, and the descriptor is closed either way."""

    def fail(_fd: int) -> None:
        raise OSError(number, "no")

    before = names(Path("/proc/self/fd"))
    monkeypatch.setattr(os, "fsync", fail)
    if is_raised:
        with pytest.raises(OSError, match="no"):
            files.fsync_folder(tmp_path)
    else:
        files.fsync_folder(tmp_path)

    assert len(names(Path("/proc/self/fd"))) == len(before)


def test_make_folder_makes_parents(tmp_path: Path) -> None:
    """Missing parents are made; the mode is the last one's; a folder that exists is left alone."""
    files.make_folder(tmp_path / "a/b/c", mode=0o700)
    (tmp_path / "a/b/c/x").write_bytes(b"")
    files.make_folder(tmp_path / "a/b/c", mode=0o755)

    assert stat.S_IMODE((tmp_path / "a/b/c").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) & 0o500 == 0o500
    assert names(tmp_path / "a/b/c") == {"x"}


def test_make_folder_does_not_replace_a_file(tmp_path: Path) -> None:
    """A file where a folder should be is an error."""
    (tmp_path / "a").write_bytes(b"x")

    with pytest.raises(OSError, match=r"exists|directory"):
        files.make_folder(tmp_path / "a/b")
    assert (tmp_path / "a").read_bytes() == b"x"


def test_remove_tree_removes_anything_and_follows_no_link(tmp_path: Path) -> None:
    """Folders, files and links go; what a link points to stays; a missing name is fine."""
    (tmp_path / "folder/sub").mkdir(parents=True)
    (tmp_path / "folder/sub/a").write_bytes(b"a")
    (tmp_path / "file").write_bytes(b"a")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/a").write_bytes(b"a")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "folder/link").symlink_to(tmp_path / "kept")

    for name in ("folder", "file", "link", "missing"):
        files.remove_tree(tmp_path / name)

    assert names(tmp_path) == {"kept"}
    assert names(tmp_path / "kept") == {"a"}


def test_a_regular_file_is_opened(tmp_path: Path) -> None:
    """A descriptor for reading comes back, not inherited by children."""
    (tmp_path / "-a\n").write_bytes(b"abc")

    fd = files.open_regular(tmp_path, "-a\n")

    assert os.read(fd, 10) == b"abc"
    assert not os.get_inheritable(fd)
    os.close(fd)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["missing", "link", "dangling link", "fifo", "socket", "folder"])
def test_nothing_but_a_regular_file_is_opened(tmp_path: Path, kind: str) -> None:
    """Links, FIFOs, sockets and folders are refused at once, without blocking or leaking a descriptor."""
    path = tmp_path / "x"
    (tmp_path / "real").write_bytes(b"secret")
    listener = socket.socket(socket.AF_UNIX)
    make = {
        "missing": lambda: None,
        "link": lambda: path.symlink_to(tmp_path / "real"),
        "dangling link": lambda: path.symlink_to(tmp_path / "nowhere"),
        "fifo": lambda: os.mkfifo(path),
        "socket": lambda: listener.bind(str(path)),
        "folder": path.mkdir,
    }
    make[kind]()
    before = len(names(Path("/proc/self/fd")))

    with pytest.raises(ChangedError):
        files.open_regular(tmp_path, "x")

    assert len(names(Path("/proc/self/fd"))) == before
    listener.close()


@pytest.mark.parametrize("kind", ["link", "missing", "file"])
def test_only_a_real_folder_is_entered(tmp_path: Path, kind: str) -> None:
    """A folder swapped for a link, removed, or made a file is a change, not an error of the machine."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a").write_bytes(b"secret")
    if kind == "link":
        (tmp_path / "folder").symlink_to(tmp_path / "real")
    elif kind == "file":
        (tmp_path / "folder").write_bytes(b"")

    with pytest.raises(ChangedError):
        files.open_regular(tmp_path / "folder", "a")


def copy(source: Path, target: Path, max_bytes: int) -> str:
    """Copy a file through a descriptor."""
    fd = os.open(source, os.O_RDONLY)
    try:
        return files.copy_hashed(fd, target, max_bytes)
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_a_copy_is_equal_and_hashed(tmp_path: Path, size: int) -> None:
    """Every size around the chunk's is copied whole; the hash is the content's."""
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a").write_bytes(data[:size])

    digest = copy(tmp_path / "a", tmp_path / "b", max_bytes=size)

    assert (tmp_path / "b").read_bytes() == data[:size]
    assert digest == hashlib.sha256(data[:size]).hexdigest() == files.hash_file(tmp_path / "b")
    fd = os.open(tmp_path / "b", os.O_RDONLY)
    assert files.hash_fd(fd) == digest
    os.close(fd)


def test_a_copy_stops_at_the_cap(tmp_path: Path) -> None:
    """One byte too many ends the copy, at the latest one chunk later."""
    (tmp_path / "a").write_bytes(b"x" * 5_000_000)

    with pytest.raises(TooLargeError):
        copy(tmp_path / "a", tmp_path / "b", max_bytes=1_000_000)
    assert (tmp_path / "b").stat().st_size <= 1_000_000


def test_a_copy_replaces_nothing(tmp_path: Path) -> None:
    """The target is new, or the copy is refused."""
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")

    with pytest.raises(FileExistsError):
        copy(tmp_path / "a", tmp_path / "b", max_bytes=10)
    assert (tmp_path / "b").read_bytes() == b"old"
