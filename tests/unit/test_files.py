"""Files appear whole or not at all, and only regular ones are read."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
import threading
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import pytest

from daemon import files
from daemon.errors import NotReady
from daemon.files import ChangedError

if TYPE_CHECKING:
    from collections.abc import Callable


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
    synced: list[PurePath] = []
    monkeypatch.setattr(files, "fsync_folder", lambda folder, **_: synced.append(folder))
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


def copy(source: Path, target: Path, beat: Callable[[], object] = lambda: None) -> str:
    """Copy a file through a descriptor."""
    fd = os.open(source, os.O_RDONLY)
    try:
        return files.copy_hashed(fd, target, beat)
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_a_copy_is_equal_and_hashed(tmp_path: Path, size: int) -> None:
    """Every size around the chunk's is copied whole; the hash is the content's."""
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a").write_bytes(data[:size])

    digest = copy(tmp_path / "a", tmp_path / "b")

    assert (tmp_path / "b").read_bytes() == data[:size]
    assert digest == hashlib.sha256(data[:size]).hexdigest()
    fd = os.open(tmp_path / "b", os.O_RDONLY)
    assert files.hash_fd(fd) == digest
    os.close(fd)


def test_a_file_that_grows_for_ever_is_not_followed(tmp_path: Path) -> None:
    """What is written to a file while it is copied is left out, so that the copy comes to its end."""
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)

    def grow() -> None:
        with (tmp_path / "a").open("ab") as file:
            file.write(b"y" * 3_000_000)

    copy(tmp_path / "a", tmp_path / "b", grow)

    assert (tmp_path / "b").read_bytes() == b"x" * 3_000_000


def test_a_copy_replaces_nothing(tmp_path: Path) -> None:
    """The target is new, or the copy is refused."""
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")

    with pytest.raises(FileExistsError):
        copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"old"


def test_a_copy_shows_that_it_is_alive(tmp_path: Path) -> None:
    """Every piece of a long copy is a heartbeat, so that it does not look like a deadlock."""
    (tmp_path / "a").write_bytes(b"x" * 3_500_000)
    beats: list[int] = []
    copy(tmp_path / "a", tmp_path / "b", lambda: beats.append(1))
    assert len(beats) == 4


def test_a_source_that_cannot_be_read_is_no_disk_that_cannot_be_written(tmp_path: Path) -> None:
    """The reader's error is the source's own kind; the writer's is an ordinary one."""
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(files.SourceError, match="directory"):
        copy(tmp_path, tmp_path / "b")  # to read a folder is an error
    with pytest.raises(OSError, match="No such file"):
        copy(tmp_path / "a", tmp_path / "nowhere/b")


# What lies in the way


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "kind", ["a link", "a dangling link", "a hard link", "a FIFO", "a folder", "a half file"]
)
@pytest.mark.parametrize("is_durable", [True, False])
def test_replace_writes_through_nothing_that_lies_in_the_way(
    tmp_path: Path, kind: str, *, is_durable: bool
) -> None:
    """A link planted under the hidden name is removed, not followed; a FIFO blocks nobody."""
    victim, path = tmp_path / "victim", tmp_path / "shared" / "summary.yaml"
    victim.write_bytes(b"kept")
    path.parent.mkdir()
    hidden = path.with_name(".summary.yaml.new")
    make = {
        "a link": lambda: hidden.symlink_to(victim),
        "a dangling link": lambda: hidden.symlink_to(tmp_path / "new"),
        "a hard link": lambda: hidden.hardlink_to(victim),
        "a FIFO": lambda: os.mkfifo(hidden),
        "a folder": lambda: (hidden / "sub").mkdir(parents=True),
        "a half file": lambda: hidden.write_bytes(b"hal"),
    }
    make[kind]()

    files.replace(path, b"whole", is_durable=is_durable)

    assert path.read_bytes() == b"whole"
    assert names(path.parent) == {"summary.yaml"}
    assert victim.read_bytes() == b"kept"
    assert names(tmp_path) == {"victim", "shared"}


@pytest.mark.parametrize("where", ["at the end", "in the middle", "at the beginning"])
def test_no_link_on_the_whole_path_is_followed(tmp_path: Path, where: str) -> None:
    """A link anywhere between the root and the folder is a change, and no descriptor is left open."""
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b/c/x").write_bytes(b"secret")
    link = {"at the end": "a/b/link", "in the middle": "a/link/c", "at the beginning": "link/b/c"}[where]
    real = {"at the end": "a/b/c", "in the middle": "a/b", "at the beginning": "a"}[where]
    place = tmp_path / link.split("link", maxsplit=1)[0] / "link"
    place.symlink_to(tmp_path / real, target_is_directory=True)
    before = len(names(Path("/proc/self/fd")))

    with pytest.raises(ChangedError), files.opened_folder(tmp_path / link):
        pass
    with pytest.raises(ChangedError):
        files.open_regular(tmp_path / link, "x")
    with files.opened_folder(tmp_path / "a/b/c") as fd:
        assert os.listdir(f"/proc/self/fd/{fd}") == ["x"]

    assert len(names(Path("/proc/self/fd"))) == before


def test_an_open_folder_stays_the_same_whatever_becomes_of_its_path(tmp_path: Path) -> None:
    """What is done by way of a descriptor happens in the folder that was opened, moved or not."""
    (tmp_path / "a").mkdir()
    (tmp_path / "other").mkdir()
    with files.opened_folder(tmp_path / "a") as fd:
        (tmp_path / "a").rename(tmp_path / "moved")
        (tmp_path / "a").symlink_to(tmp_path / "other")
        files.replace(PurePath("x"), b"there", at=fd, is_durable=False)
        files.replace(PurePath("x"), b"here", at=fd)
        files.make_folder(PurePath("new/deep"), at=fd)
        files.write(PurePath("new/deep/y"), b"y", at=fd)
        files.move(PurePath("new"), PurePath("kept"), at=fd)
        files.make_folder(PurePath("old/deep"), at=fd)
        files.remove_tree(PurePath("old"), at=fd)

    assert (tmp_path / "moved/x").read_bytes() == b"here"
    assert names(tmp_path / "moved") == {"x", "kept"}
    assert (tmp_path / "moved/kept/deep/y").read_bytes() == b"y"
    assert names(tmp_path / "other") == set()


def test_missing_folders_are_made_only_where_asked_and_never_through_a_link(tmp_path: Path) -> None:
    """`makes` makes each missing part; without it a missing one is a change; behind a link nothing is made."""
    with pytest.raises(ChangedError), files.opened_folder(tmp_path / "a/b"):
        pass
    with files.opened_folder(tmp_path / "a/b", makes=True):
        assert (tmp_path / "a/b").is_dir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(ChangedError), files.opened_folder(tmp_path / "link/c", makes=True):
        pass
    assert names(tmp_path / "a") == {"b"}


@pytest.mark.parametrize("kind", ["file", "link", "folder", "fifo"])
@pytest.mark.parametrize("is_linkable", [True, False], ids=["hard links", "no hard links"])
def test_what_was_hidden_is_shown_under_the_first_free_name(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, *, is_linkable: bool
) -> None:
    """Anything gets the first name that nobody has, and replaces nothing, with or without hard links."""
    hidden = tmp_path / ".hidden"
    make = {
        "file": lambda: hidden.write_bytes(b"x"),
        "link": lambda: hidden.symlink_to("nowhere"),
        "folder": hidden.mkdir,
        "fifo": lambda: os.mkfifo(hidden),
    }
    make[kind]()
    inode = hidden.lstat().st_ino
    (tmp_path / "one").write_bytes(b"taken")
    (tmp_path / "two").mkdir()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not is_linkable:
        monkeypatch.setattr(os, "link", refuse)
    with files.opened_folder(tmp_path) as fd:
        files.show(fd, ".hidden", fd, iter(["one", "two", "three", "four"]))

    assert (tmp_path / "three").lstat().st_ino == inode
    assert names(tmp_path) == {"one", "two", "three"}
    assert (tmp_path / "one").read_bytes() == b"taken"


def test_what_was_shown_when_a_crash_came_is_not_shown_twice(tmp_path: Path) -> None:
    """A name that is the hidden file's own already is the one it keeps."""
    (tmp_path / ".hidden").write_bytes(b"x")
    (tmp_path / "one").hardlink_to(tmp_path / ".hidden")
    with files.opened_folder(tmp_path) as fd:
        files.show(fd, ".hidden", fd, ["one", "two"])
    assert names(tmp_path) == {"one"}


def test_what_cannot_be_shown_stays_hidden_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that refuses both the link and the rename loses nothing; the error goes up."""
    (tmp_path / ".hidden").write_bytes(b"x")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    with files.opened_folder(tmp_path) as fd, pytest.raises(OSError, match="read-only"):
        files.show(fd, ".hidden", fd, ["one"])
    assert (tmp_path / ".hidden").read_bytes() == b"x"


# Room


def test_room_is_asked_of_the_file_system(tmp_path: Path) -> None:
    """Bytes and inodes are what an ordinary user may still take."""
    found, asked = files.room(tmp_path), os.statvfs(tmp_path)
    assert abs(found.size - asked.f_bavail * asked.f_frsize) < 1 << 30
    assert found.entries is None or abs(found.entries - asked.f_favail) < 100_000


@pytest.mark.parametrize(
    ("size", "entries", "is_enough"),
    [(1000, 5, True), (1001, 5, False), (1000, 6, False), (0, 0, True)],
)
def test_room_is_required_to_the_byte_with_something_to_spare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, entries: int, *, is_enough: bool
) -> None:
    """A little is always left free; one byte or one file more than the rest is too much."""
    monkeypatch.setattr(files, "room", lambda _folder: files.Room(files.SPARE_BYTES + 1000, 5))
    if is_enough:
        files.require_room(tmp_path, size, entries)
    else:
        with pytest.raises(NotReady, match="MB free" if size > 1000 else "5 inodes free, 6 needed"):
            files.require_room(tmp_path, size, entries)


def test_a_file_system_that_does_not_count_files_has_room_for_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where 0 of 0 inodes are free, as Btrfs says, that is no lack of them."""
    real = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _folder: os.statvfs_result((*real[:5], 0, 0, 0, *real[8:])))
    assert files.room(tmp_path).entries is None
    files.require_room(tmp_path, 0, 10**9)


@pytest.mark.parametrize(
    ("error", "is_of_the_file"),
    [
        (OSError(errno.ENAMETOOLONG, "x"), True),
        (OSError(errno.EINVAL, "x"), True),
        (OSError(errno.ENOSPC, "x"), False),
        (OSError(errno.EROFS, "x"), False),
        (OSError("x"), False),
        (NotReady("x"), False),
    ],
)
def test_errors_of_the_file_are_not_those_of_the_disk(error: Exception, *, is_of_the_file: bool) -> None:
    """A name or size that is refused stays refused; a full, broken or absent disk may come back."""
    assert files.is_of_the_file(error) is is_of_the_file
