"""An inbox on rough ground: what cannot be read, opened, removed or believed holds up nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from support.trees import Tree, decode_here, save

from daemon import files
from daemon.errors import NotReady
from daemon.inbox import intake as intake_module
from daemon.inbox.intake import DOUBT_FACTOR, Intake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.config import Config
    from daemon.inbox.intake import Report
    from daemon.job import Drop, Job

SETTLE_S = 2.0
RESCAN_S = 30.0
BUSY = os.strerror(errno.EBUSY)


class Bench:
    """An intake on a real spool, with a clock set by hand, that counts what is handed to the sink."""

    def __init__(self, config: Config) -> None:
        self.tree = Tree(config)
        self.tree.inbox.mkdir(exist_ok=True)
        self.spool = self.tree.spool
        self.spool.prepare()
        self.now = 1000.0
        self.offered: list[str] = []
        self.stop_after = 10**6  # offered drops
        self.report: Report | None = None
        self.intake = Intake(
            config, self._take, [], self._retire, is_stopping=lambda: len(self.offered) >= self.stop_after
        )

    def _take(self, drop: Drop, *, believes_faults: bool) -> Job:
        self.offered.append(drop.stem)
        entry = self.spool.accept(
            drop, max_bytes=10**6, inspect=decode_here, believes_faults=believes_faults, versions={}
        )
        assert entry.job
        return entry.job

    def _retire(self, id_: str, *, was_removed: bool) -> None:
        self.spool.set_retired(id_, was_removed=was_removed)

    def turn(self, after_s: float = 0.0) -> list[str]:
        """Let time pass, turn once, and return the stems of what was accepted."""
        self.now += after_s
        self.report = self.intake.turn(self.now)
        return [job.stem for job in self.report.accepted]

    def settle(self) -> list[str]:
        """See what is there, and see it again once it is quiet."""
        return self.turn() + self.turn(SETTLE_S)

    @property
    def waiting(self) -> dict[str, str]:
        """What waits, and why."""
        assert self.report
        return {item.path: item.reason for item in self.report.waiting}

    def pair(self, stem: str) -> None:
        """Write a pair that needs no sidecar."""
        for seed, role in enumerate(("content", "style")):
            save(self.tree.inbox / f"{stem}.{role}.jpg", seed)


@pytest.fixture
def make_bench(make_config: Callable[..., Config]) -> Callable[..., Bench]:
    """Make a bench; keywords are of the config's `inbox` section."""

    def make(folders: dict[str, str] | None = None, **options: Any) -> Bench:
        inbox = {"settle_s": SETTLE_S, "rescan_s": RESCAN_S, **options}
        return Bench(make_config(inbox=inbox, folders=folders or {}))

    return make


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """Make a bench with the defaults."""
    return make_bench()


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


def test_an_unreadable_subfolder_waits_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subfolder that cannot be listed waits with the system's reason, and the drop beside it is accepted."""
    bench.tree.drop("hidden", "trip")
    bench.tree.drop("sea")
    with monkeypatch.context() as patch:
        _refuse(patch, "scandir", "trip", errno.EACCES)
        assert bench.settle() == ["sea"]
        assert bench.waiting == {"trip": "cannot be read: Permission denied"}
    assert bench.settle() == ["hidden"]


@pytest.mark.parametrize("listed", [[], ["a-style.png"]], ids=["at all", "to its end"])
@pytest.mark.parametrize("folder", ["trip", "trip/day"])
def test_nothing_leaves_a_folder_that_cannot_be_listed(
    folder: str, listed: list[str], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a folder or its parent cannot be listed, a picture that a sidecar in it may name stays."""
    bench.tree.drop("a", folder)
    text = yaml.safe_dump({"content": "b.jpg", "style": "a-style.png"})
    (bench.tree.inbox / folder / "b.yaml").write_text(text)
    assert bench.settle() == ["a"]
    left = [f"{folder}/a-style.png", f"{folder}/b.yaml"]
    assert bench.tree.left() == left
    with monkeypatch.context() as patch:
        _list_only(patch, "trip", listed)
        bench.turn(RESCAN_S)
        assert bench.waiting["trip"] == "cannot be read: Input/output error"
    assert bench.tree.left() == left


def test_no_bare_pair_is_taken_from_a_folder_listed_halfway(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing that breaks off may have kept the sidecar back: the pair it showed waits."""
    bench = make_bench(sidecar="optional")
    (bench.tree.inbox / "trip").mkdir()
    bench.pair("trip/a")
    (bench.tree.inbox / "trip" / "a.yaml").write_text("size: 77\n")
    with monkeypatch.context() as patch:
        _list_only(patch, "trip", ["a.content.jpg", "a.style.jpg"])
        assert bench.settle() == []
    assert bench.settle() == ["a"]


def test_an_unreadable_inbox_is_raised(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inbox that cannot be listed is no empty inbox: the turn raises."""
    _refuse(monkeypatch, "scandir", bench.tree.inbox.name, errno.EACCES)
    with pytest.raises(NotReady, match="Permission denied"):
        bench.turn()


@pytest.mark.parametrize("name", ["a.jpg", "a-style.png"])
@pytest.mark.parametrize(("call", "number"), [("open", errno.EBUSY), ("read", errno.EIO)])
def test_a_picture_that_cannot_be_read_holds_up_no_other_drop(
    call: str, number: int, name: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A locked or unreadable picture waits with the reason; others go on; it is taken once it can be."""
    for stem in ("a", "b", "c"):
        bench.tree.drop(stem)
    with monkeypatch.context() as patch:
        _refuse(patch, call, name, number)
        assert bench.settle() == ["b", "c"]
        assert bench.waiting["a.yaml"].startswith(f"not ready: {name}")
        assert os.strerror(number) in bench.waiting["a.yaml"]
        assert bench.turn(DOUBT_FACTOR * SETTLE_S) == []
    assert bench.turn(RESCAN_S) == ["a"]
    assert bench.tree.left() == []


def test_a_sidecar_that_cannot_be_opened_holds_up_no_other_drop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A locked sidecar waits with the reason, no picture is removed meanwhile, and later it is taken."""
    bench.tree.drop("a")
    bench.tree.drop("b")
    before = bench.tree.left()
    with monkeypatch.context() as patch:
        _refuse(patch, "open", "a.yaml", errno.EBUSY)
        assert bench.settle() == ["b"]
        assert bench.waiting["a.yaml"] == f"cannot be read: {BUSY}"
        assert bench.tree.left() == [name for name in before if name != "b.yaml"]
    assert bench.turn() == ["a"]
    assert bench.tree.left() == []


# Links and other strange things


def test_an_inbox_behind_a_link_works(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    """An inbox that is a symbolic link to a folder is taken from and cleared like the folder itself."""
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to("share")
    bench = make_bench({"inbox": "link"})
    bench.tree.drop("sea")
    bench.tree.drop("hill", "trip")
    assert bench.settle() == ["sea", "hill"]
    assert bench.tree.left() == []
    assert list((tmp_path / "share" / "trip").iterdir()) == []


def test_a_link_in_the_styles_library_counts_as_missing(
    make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    """A style that is a symbolic link in folders.styles is waited for, as one that is not there."""
    (tmp_path / "styles").mkdir()
    style = tmp_path / "styles" / "wave.png"
    style.symlink_to(save(tmp_path / "elsewhere.png", 5))
    bench = make_bench({"styles": "styles"})
    save(bench.tree.inbox / "sea.png", 1)
    (bench.tree.inbox / "sea.yaml").write_text("content: sea.png\nstyle: wave.png\n")
    assert bench.settle() == []
    assert bench.waiting["sea.yaml"] == "waiting for wave.png"
    style.unlink()
    save(style, 5)
    assert bench.turn() == ["sea"]


@pytest.mark.parametrize("kind", ["link", "fifo"])
@pytest.mark.parametrize("role", ["content", "style"])
def test_a_bare_pair_of_a_strange_file_is_no_job(
    role: str, kind: str, make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    """With `sidecar: optional`, a pair whose half is a link or FIFO is no job, and the next pair is one."""
    bench = make_bench(sidecar="optional")
    bench.pair("a")
    bench.pair("b")
    half = bench.tree.inbox / f"a.{role}.jpg"
    half.unlink()
    if kind == "link":
        half.symlink_to(save(tmp_path / "elsewhere.jpg", 5))
    else:
        os.mkfifo(half)
    assert bench.settle() == ["b"]
    assert bench.turn(DOUBT_FACTOR * SETTLE_S) == []
    reason = "a symbolic link, which is not followed" if kind == "link" else "not a regular file"
    assert bench.waiting[half.name] == reason


def test_no_bare_pair_is_taken_beside_an_unsettled_sidecar(make_bench: Callable[..., Bench]) -> None:
    """A sidecar still being written may speak for any pair of its folder; once it is read, it has its say."""
    bench = make_bench(sidecar="optional")
    bench.pair("a")
    bench.pair("b")
    bench.turn()
    text = yaml.safe_dump({"content": "a.content.jpg", "style": "a.style.jpg"})
    (bench.tree.inbox / "mine.yaml").write_text(text)
    assert bench.turn(SETTLE_S) == []
    assert sorted(bench.turn(SETTLE_S)) == ["b", "mine"]


# Doubts


def test_a_young_bad_drop_is_copied_once(bench: Bench) -> None:
    """While nothing changes, a picture that does not decode is copied once, and once more to be believed."""
    bench.tree.drop("sea")
    (bench.tree.inbox / "sea.jpg").write_text("this is no picture\n" * 50)
    bench.settle()
    for _ in range(70):
        assert bench.turn(0.1) == []
    assert bench.offered == ["sea"]
    assert bench.waiting["sea.yaml"].startswith("not ready: sea.jpg")
    assert bench.turn(DOUBT_FACTOR * SETTLE_S) == ["sea"]
    assert bench.offered == ["sea", "sea"]


def test_a_doubted_drop_is_tried_again_when_a_file_changes(bench: Bench) -> None:
    """A bad picture that is replaced is looked at as soon as it is settled, long before the doubt ends."""
    bench.tree.drop("sea")
    picture = bench.tree.inbox / "sea.jpg"
    good = picture.read_bytes()
    picture.write_bytes(good[: len(good) // 2])
    bench.settle()
    picture.write_bytes(good)
    assert bench.settle() == ["sea"]
    assert bench.offered == ["sea", "sea"]


# Turns that end early


def test_a_stop_ends_a_turn_early(bench: Bench) -> None:
    """Asked to stop, a turn accepts no more, is not at rest, and leaves the rest in order to the next one."""
    for number in (10, 1, 3, 2):
        bench.tree.drop(f"p{number}")
    bench.turn()
    bench.stop_after = 2
    assert bench.turn(SETTLE_S) == ["p1", "p2"]
    assert bench.report
    assert (bench.report.is_at_rest, bench.report.due_s) == (False, 0.0)
    bench.stop_after = 4
    assert bench.turn() == ["p3", "p10"]
    assert bench.tree.left() == []


def test_a_turn_ends_when_its_time_is_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that took its two seconds retires what it accepted and leaves the rest to the next one."""
    for number in range(1, 5):
        bench.tree.drop(f"p{number}")
    bench.turn()
    # a minute on the clock for every drop that was offered
    clock = SimpleNamespace(monotonic=lambda: 60.0 * len(bench.offered))
    monkeypatch.setattr(intake_module, "time", clock)
    assert bench.turn(SETTLE_S) == ["p1"]
    assert bench.report
    assert not bench.report.is_at_rest
    assert "p1.yaml" not in bench.tree.left()
    assert [bench.turn(), bench.turn(), bench.turn()] == [["p2"], ["p3"], ["p4"]]


# Originals that stay


def test_an_original_that_cannot_be_removed_is_hashed_once_a_rescan(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two rescans a stuck original is not read again, and it says all the time why it is there."""
    hashed, real = [], files.hash_fd

    def hash_fd(fd: int) -> str:
        hashed.append(fd)
        return real(fd)

    bench.tree.drop("sea")
    with monkeypatch.context() as patch:
        patch.setattr(files, "hash_fd", hash_fd)
        _refuse(patch, "rename", "sea.jpg", errno.EBUSY)
        assert bench.settle() == ["sea"]
        assert len(hashed) == 3
        for _ in range(29):
            bench.turn(1)
            assert bench.waiting == {"sea.jpg": f"accepted but present: {BUSY}"}
        assert len(hashed) == 3
        bench.turn(1)
        assert len(hashed) == 4
    bench.turn(RESCAN_S)
    assert bench.tree.left() == []


def test_a_retirement_that_cannot_be_recorded_is_told_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the spool does not take the note that a job is retired, the next turn hands it in again."""
    told: list[str] = []

    def refuse(id_: str, **_options: Any) -> None:
        told.append(id_)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    bench.tree.drop("sea")
    bench.turn()
    with monkeypatch.context() as patch:
        patch.setattr(bench.spool, "set_retired", refuse)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                bench.turn(SETTLE_S)
    (entry,) = bench.spool.all_entries()
    assert told == [entry.id, entry.id]
    assert not entry.is_retired
    bench.turn()
    assert entry.is_retired
    assert bench.offered == ["sea"]
