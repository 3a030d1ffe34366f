"""An inbox on rough ground: what cannot be read, opened, removed or believed holds up nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from support.desk import RESCAN_S, SETTLE_S, Desk, stems
from support.trees import save

from daemon import files
from daemon.errors import NotReady
from daemon.inbox.intake import DOUBT_FACTOR
from daemon.service import intake_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[..., Desk]

BUSY = os.strerror(errno.EBUSY)


def _refuse(patch: pytest.MonkeyPatch, call: str, name: str, number: int) -> None:
    """Have a call of the system fail for every path, or descriptor of a path, with one last name."""
    real = getattr(os, call)

    def refuse(target: Any, *args: Any, **options: Any) -> Any:
        path = _path_of(target)
        if os.path.basename(path) == name:  # noqa: PTH119 - a plain string, perhaps a bare name
            raise OSError(number, os.strerror(number), path)
        return real(target, *args, **options)

    patch.setattr(os, call, refuse)


def _path_of(target: Any) -> str:
    return str(Path(f"/proc/self/fd/{target}").readlink()) if isinstance(target, int) else os.fspath(target)


def _list_only(patch: pytest.MonkeyPatch, folder: str, names: list[str]) -> None:
    """Have the listing of a folder break off after some of its names."""
    real = os.scandir

    @contextlib.contextmanager
    def scandir(target: Any) -> Iterator[Iterator[os.DirEntry[str]]]:
        with real(target) as items:
            yield _broken(items, names) if Path(_path_of(target)).name == folder else items

    patch.setattr(os, "scandir", scandir)


def _broken(items: Iterator[os.DirEntry[str]], names: list[str]) -> Iterator[os.DirEntry[str]]:
    yield from [item for item in items if item.name in names]
    raise OSError(errno.EIO, os.strerror(errno.EIO))


# What cannot be read


def test_an_unreadable_subfolder_waits_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subfolder that cannot be listed waits with the system's reason, and the drop beside it is accepted."""
    desk.tree.drop("hidden", "trip")
    desk.tree.drop("sea")
    with monkeypatch.context() as patch:
        _refuse(patch, "scandir", "trip", errno.EACCES)
        assert stems(desk.settle()) == ["sea"]
        assert desk.waiting == {"trip": "cannot be read: Permission denied"}
    assert stems(desk.settle()) == ["hidden"]


@pytest.mark.parametrize("listed", [[], ["a-style.png"]], ids=["at all", "to its end"])
@pytest.mark.parametrize("folder", ["trip", "trip/day"])
def test_nothing_leaves_a_folder_that_cannot_be_listed(
    folder: str, listed: list[str], desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a folder or its parent cannot be listed, a picture that a sidecar in it may name stays."""
    desk.tree.drop("a", folder)
    text = yaml.safe_dump({"content": "b.jpg", "style": "a-style.png"})
    (desk.tree.inbox / folder / "b.yaml").write_text(text)
    assert stems(desk.settle()) == ["a"]
    left = [f"{folder}/a-style.png", f"{folder}/b.yaml"]
    assert desk.tree.left() == left
    with monkeypatch.context() as patch:
        _list_only(patch, "trip", listed)
        desk.turn(RESCAN_S)
        assert desk.waiting["trip"] == "cannot be read: Input/output error"
    assert desk.tree.left() == left


def test_no_bare_pair_is_taken_from_a_folder_listed_halfway(
    make_desk: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing that breaks off may have kept the sidecar back: the pair it showed waits."""
    desk = make_desk(sidecar="optional")
    (desk.tree.inbox / "trip").mkdir()
    desk.pair("trip/a")
    (desk.tree.inbox / "trip" / "a.yaml").write_text("size: 77\n")
    with monkeypatch.context() as patch:
        _list_only(patch, "trip", ["a.content.jpg", "a.style.jpg"])
        assert stems(desk.settle()) == []
    assert stems(desk.settle()) == ["a"]


def test_an_unreadable_inbox_is_raised(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inbox that cannot be listed is no empty inbox: the turn raises."""
    _refuse(monkeypatch, "scandir", desk.tree.inbox.name, errno.EACCES)
    with pytest.raises(NotReady, match="Permission denied"):
        desk.turn()


@pytest.mark.parametrize("name", ["a.jpg", "a-style.png"])
@pytest.mark.parametrize(("call", "number"), [("open", errno.EBUSY), ("read", errno.EIO)])
def test_a_picture_that_cannot_be_read_holds_up_no_other_drop(
    call: str, number: int, name: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A locked or unreadable picture waits with the reason; others go on; it is taken once it can be."""
    for stem in ("a", "b", "c"):
        desk.tree.drop(stem)
    with monkeypatch.context() as patch:
        _refuse(patch, call, name, number)
        assert stems(desk.settle()) == ["b", "c"]
        assert desk.waiting["a.yaml"].startswith(f"not ready: {name}")
        assert os.strerror(number) in desk.waiting["a.yaml"]
        assert stems(desk.turn(DOUBT_FACTOR * SETTLE_S)) == []
    assert stems(desk.turn(RESCAN_S)) == ["a"]
    assert desk.tree.left() == []


def test_a_sidecar_that_cannot_be_opened_holds_up_no_other_drop(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A locked sidecar waits with the reason, no picture is removed meanwhile, and later it is taken."""
    desk.tree.drop("a")
    desk.tree.drop("b")
    before = desk.tree.left()
    with monkeypatch.context() as patch:
        _refuse(patch, "open", "a.yaml", errno.EBUSY)
        assert stems(desk.settle()) == ["b"]
        assert desk.waiting["a.yaml"] == f"cannot be read: {BUSY}"
        assert desk.tree.left() == [name for name in before if name != "b.yaml"]
    assert stems(desk.turn()) == ["a"]
    assert desk.tree.left() == []


# Links and other strange things


def test_an_inbox_behind_a_link_works(make_desk: Make, tmp_path: Path) -> None:
    """An inbox that is a symbolic link to a folder is taken from and cleared like the folder itself."""
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to("share")
    desk = make_desk({"inbox": "link"})
    desk.tree.drop("sea")
    desk.tree.drop("hill", "trip")
    assert stems(desk.settle()) == ["sea", "hill"]
    assert desk.tree.left() == []
    assert list((tmp_path / "share" / "trip").iterdir()) == []


def test_an_inbox_whose_link_changes_is_cleared_where_it_was_scanned(make_desk: Make, tmp_path: Path) -> None:
    """What is accepted from the old folder is removed there, and not copied again at every look."""
    for name in ("share", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("share")
    desk = make_desk({"inbox": "link"})
    desk.tree.drop("sea")
    (tmp_path / "other" / ".styletransferd-inbox").touch()
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("other")
    assert stems(desk.settle() + desk.turn()) == ["sea"]
    assert [path.name for path in (tmp_path / "share").iterdir()] == [".styletransferd-inbox"]


def test_a_link_in_the_styles_library_counts_as_missing(make_desk: Make, tmp_path: Path) -> None:
    """A style that is a symbolic link in folders.styles is waited for, as one that is not there."""
    (tmp_path / "styles").mkdir()
    style = tmp_path / "styles" / "wave.png"
    style.symlink_to(save(tmp_path / "elsewhere.png", 5))
    desk = make_desk({"styles": "styles"})
    save(desk.tree.inbox / "sea.png", 1)
    (desk.tree.inbox / "sea.yaml").write_text("content: sea.png\nstyle: wave.png\n")
    assert stems(desk.settle()) == []
    assert desk.waiting["sea.yaml"] == "waiting for wave.png"
    style.unlink()
    save(style, 5)
    assert stems(desk.turn()) == ["sea"]


@pytest.mark.parametrize("kind", ["link", "fifo"])
@pytest.mark.parametrize("role", ["content", "style"])
def test_a_bare_pair_of_a_strange_file_is_no_job(role: str, kind: str, make_desk: Make, tmp_path: Path) -> None:
    """With `sidecar: optional`, a pair whose half is a link or FIFO is no job, and the next pair is one."""
    desk = make_desk(sidecar="optional")
    desk.pair("a")
    desk.pair("b")
    half = desk.tree.inbox / f"a.{role}.jpg"
    half.unlink()
    if kind == "link":
        half.symlink_to(save(tmp_path / "elsewhere.jpg", 5))
    else:
        os.mkfifo(half)
    assert stems(desk.settle()) == ["b"]
    assert stems(desk.turn(DOUBT_FACTOR * SETTLE_S)) == []
    reason = "a symbolic link, which is not followed" if kind == "link" else "not a regular file"
    assert desk.waiting[half.name] == reason


def test_no_bare_pair_is_taken_beside_an_unsettled_sidecar(make_desk: Make) -> None:
    """A sidecar still being written may speak for any pair of its folder; once it is read, it has its say."""
    desk = make_desk(sidecar="optional")
    desk.pair("a")
    desk.pair("b")
    desk.turn()
    text = yaml.safe_dump({"content": "a.content.jpg", "style": "a.style.jpg"})
    (desk.tree.inbox / "mine.yaml").write_text(text)
    assert stems(desk.turn(SETTLE_S)) == []
    assert sorted(stems(desk.turn(SETTLE_S))) == ["b", "mine"]


# Doubts


def test_a_young_bad_drop_is_copied_once(desk: Desk) -> None:
    """While nothing changes, a picture that does not decode is copied once, and once more to be believed."""
    desk.tree.drop("sea")
    (desk.tree.inbox / "sea.jpg").write_text("this is no picture\n" * 50)
    desk.settle()
    for _ in range(70):
        assert stems(desk.turn(0.1)) == []
    assert desk.spool.offered == ["sea"]
    assert desk.waiting["sea.yaml"].startswith("not ready: sea.jpg")
    assert stems(desk.turn(DOUBT_FACTOR * SETTLE_S)) == ["sea"]
    assert desk.spool.offered == ["sea", "sea"]


def test_a_doubted_drop_is_tried_again_when_a_file_changes(desk: Desk) -> None:
    """A bad picture that is replaced is looked at as soon as it is settled, long before the doubt ends."""
    desk.tree.drop("sea")
    picture = desk.tree.inbox / "sea.jpg"
    good = picture.read_bytes()
    picture.write_bytes(good[: len(good) // 2])
    desk.settle()
    picture.write_bytes(good)
    assert stems(desk.settle()) == ["sea"]
    assert desk.spool.offered == ["sea", "sea"]


# Turns that end early


def test_a_stop_ends_a_turn_early(desk: Desk) -> None:
    """Asked to stop, a turn accepts no more, is not at rest, and leaves the rest in order to the next one."""
    for number in (10, 1, 3, 2):
        desk.tree.drop(f"p{number}")
    desk.turn()
    desk.spool.stop_after = 2
    assert stems(desk.turn(SETTLE_S)) == ["p1", "p2"]
    assert (desk.report.is_at_rest, desk.report.dues) == (False, [0.0])
    desk.stop.clear()
    desk.spool.stop_after = 4
    assert stems(desk.turn()) == ["p3", "p10"]
    assert desk.tree.left() == []


def test_a_turn_ends_when_its_time_is_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that took its two seconds retires what it accepted and leaves the rest to the next one."""
    for number in range(1, 5):
        desk.tree.drop(f"p{number}")
    desk.turn()
    # a minute on the clock for every drop that was offered
    clock = SimpleNamespace(monotonic=lambda: 60.0 * len(desk.spool.offered), time=time.time)
    monkeypatch.setattr(intake_thread, "time", clock)
    assert stems(desk.turn(SETTLE_S)) == ["p1"]
    assert not desk.report.is_at_rest
    assert "p1.yaml" not in desk.tree.left()
    assert [stems(desk.turn()) for _ in range(3)] == [["p2"], ["p3"], ["p4"]]


# Originals that stay


def test_an_original_that_cannot_be_removed_is_hashed_once_a_rescan(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two rescans a stuck original is not read again, and it says all the time why it is there."""
    hashed, real = [], files.hash_fd

    def hash_fd(fd: int) -> str:
        hashed.append(fd)
        return real(fd)

    desk.tree.drop("sea")
    with monkeypatch.context() as patch:
        patch.setattr(files, "hash_fd", hash_fd)
        _refuse(patch, "rename", "sea.jpg", errno.EBUSY)
        assert stems(desk.settle()) == ["sea"]
        assert len(hashed) == 3
        for _ in range(RESCAN_S - 1):
            desk.turn(1)
            assert desk.waiting == {"sea.jpg": f"accepted but present: {BUSY}"}
        assert len(hashed) == 3
        desk.turn(1)
        assert len(hashed) == 4
    desk.turn(RESCAN_S)
    assert desk.tree.left() == []


def test_a_retirement_that_cannot_be_recorded_is_recorded_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the spool refuses the record that a job is retired, each turn tries again to write it."""
    refused: list[str] = []

    def refuse(id_: str, **_options: Any) -> None:
        refused.append(id_)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    desk.tree.drop("sea")
    desk.turn()
    with monkeypatch.context() as patch:
        patch.setattr(desk.spool, "set_retired", refuse)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                desk.turn(SETTLE_S)
    (entry,) = desk.spool.all_entries()
    assert refused == [entry.id, entry.id]
    assert not entry.is_retired
    desk.turn()
    assert entry.is_retired
    assert desk.spool.offered == ["sea"]
