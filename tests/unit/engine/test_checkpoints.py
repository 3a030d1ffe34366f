"""A job's checkpoints on disk: read back equal or not at all, two kept, never written too often."""

from __future__ import annotations

import contextlib
import hashlib
import io
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import Clock, Disk, Killed

from daemon import files
from daemon.engine.checkpoints import UNREADABLE, Checkpoint, Checkpoints, Found, kept, key
from daemon.job import CHECKPOINT_SUFFIX, State
from daemon.spool import StoredJob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Open = Callable[..., Checkpoints]

KEY = key("a job")


def state_of(pictures: int, **changes: Any) -> Checkpoint:
    """Make the state after so many pictures, with numbers that only an exact copy keeps."""
    random = np.random.default_rng(pictures)
    image, moved, best, mean, square = random.standard_normal((5, 1, 5, 7, 3)).astype(np.float32)
    rows = np.zeros((pictures, 6))
    rows[:, 0] = range(pictures)
    rows[:, 2:] = random.standard_normal((pictures, 4)) / 3
    rows[-1, 3] = 1e-310
    made = Checkpoint(
        scale=1,
        iteration=pictures - 1,
        image=image,
        moved=moved,
        state=(np.float32([0.2]).reshape(()), np.float32([pictures]).reshape(()), mean, square),
        best_image=best,
        best_row=2,
        scale_row=1,
        target_s=0.1 + 0.2,
        steps_back=1,
        first=random.standard_normal(3) / 3,
        rows=rows,
    )
    return replace(made, **changes)


def assert_equal(found: Checkpoint | None, expected: Checkpoint) -> None:
    """Every field is equal to the bit, with its type and shape."""
    assert found is not None
    for name in (field.name for field in fields(Checkpoint)):
        one, other = getattr(found, name), getattr(expected, name)
        assert type(one) is type(other), name
        ones, others = (one, other) if isinstance(one, tuple) else ([one], [other])
        assert len(ones) == len(others), name
        for left, right in zip(ones, others, strict=True):
            left_array, right_array = np.asarray(left), np.asarray(right)
            assert (left_array.dtype, left_array.shape) == (right_array.dtype, right_array.shape), name
            assert left_array.tobytes() == right_array.tobytes(), name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Name the folder of checkpoints, which is not there yet, of a job that is."""
    (tmp_path / "job").mkdir()
    return tmp_path / "job" / "ckpt"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the checkpoints."""
    made = Clock()
    monkeypatch.setattr("daemon.engine.checkpoints.time", made)
    return made


@pytest.fixture
def opened(folder: Path) -> Open:
    """Open the folder as a new process would, and keep the states after so many pictures."""

    def make(*pictures: int, key_: str = KEY) -> Checkpoints:
        return open_(folder, *pictures, key_=key_)

    return make


def open_(folder: Path, *pictures: int, key_: str = KEY) -> Checkpoints:
    """Open a folder, which a checkpoint is due for every 30 s, and keep the states after so many pictures."""
    folder.parent.mkdir(exist_ok=True)
    made = Checkpoints(folder, key_, 30)
    for count in pictures:
        made.save(state_of(count))
    return made


def test_what_was_kept_is_read_back_to_the_bit(opened: Open) -> None:
    """Every array and number comes back from disk exactly, in another process's eyes as well."""
    opened(7)
    assert_equal(opened().newest().checkpoint, state_of(7))


def test_a_job_that_never_kept_anything_has_nothing(opened: Open, folder: Path) -> None:
    """Where there is no folder there is no checkpoint, and looking makes none."""
    assert opened().newest().checkpoint is None
    assert not folder.exists()


def test_names_count_the_pictures_so_that_progress_needs_no_opening(opened: Open, folder: Path) -> None:
    """The name counts the rows: newer files sort last, and the spool reads progress from it."""
    opened(9, 101)
    assert [path.name for path in kept(folder)] == ["0000009.ckpt", "0000101.ckpt"]
    assert StoredJob(State.RUNNING, "0" * 16, folder.parent).progress == 101


def test_the_newest_two_are_kept(opened: Open, folder: Path) -> None:
    """After four there are two files and nothing else, of which the newest is read."""
    checkpoints = opened(3, 6, 9, 12)
    assert sorted(path.name for path in folder.iterdir()) == ["0000009.ckpt", "0000012.ckpt"]
    assert_equal(checkpoints.newest().checkpoint, state_of(12))


# What is not whole


def npz(**arrays: Any) -> bytes:
    """Pack arrays, pickled ones too."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def changed(data: bytes, **arrays: Any) -> bytes:
    """Replace some arrays of a whole file."""
    with np.load(io.BytesIO(data)) as before:
        return npz(**{**before, **arrays})


def without(data: bytes, name: str) -> bytes:
    """Leave one array out."""
    with np.load(io.BytesIO(data)) as arrays:
        return npz(**{key_: value for key_, value in arrays.items() if key_ != name})


def with_head(data: bytes, text: bytes) -> bytes:
    """Say something else of the arrays."""
    return changed(data, head=np.frombuffer(text, np.uint8))


def with_digest(data: bytes) -> bytes:
    """Write it as versions before this one did: the SHA-256 of the rest, then the rest."""
    return hashlib.sha256(data).digest() + data


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _data: b"",
    "torn in the middle": lambda data: data[: len(data) // 2],
    "its last byte missing": lambda data: data[:-1],
    "zeros at the end": lambda data: data[:-600] + bytes(600),
    "zeros in the middle": lambda data: data[:2000] + bytes(40) + data[2040:],
    "garbage": lambda data: bytes(range(256)) * (len(data) // 256),
    "one array": lambda _data: _npy(np.arange(3)),
    "a pickle": lambda _data: b"\x80\x04]\x94.",
    "of the format before": with_digest,
    "with objects": lambda data: changed(data, image=np.array([{"run": "me"}], dtype=object)),
    "without the picture": lambda data: without(data, "image"),
    "without the state": lambda data: without(data, "state_2"),
    "without its head": lambda data: without(data, "head"),
    "its head no JSON": lambda data: with_head(data, b"{"),
    "its head a list": lambda data: with_head(data, b"[1]"),
    "its head of other fields": lambda data: with_head(data, b'{"key": "%s", "parts": 4}' % KEY.encode()),
}


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_one_is_passed_over(fault: str, opened: Open, folder: Path) -> None:
    """Whatever became of the newest file, the one before it is taken; where both broke, none is."""
    opened(5, 8)
    older, newer = kept(folder)
    newer.write_bytes(BROKEN[fault](newer.read_bytes()))
    assert_equal(opened().newest().checkpoint, state_of(5))
    older.write_bytes(BROKEN[fault](older.read_bytes()))
    assert opened().newest() == Found(None, UNREADABLE)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_flipped_bit_is_found_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whichever bit of a file flips, what is loaded is equal to the bit, or nothing is."""
    folder = tmp_path_factory.mktemp("job")
    checkpoints = open_(folder, 7)
    (path,) = kept(folder)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    found = checkpoints.newest()
    if found.checkpoint is None:
        assert found.trouble == UNREADABLE
    else:
        assert_equal(found.checkpoint, state_of(7))


def test_a_folder_in_its_place_is_passed_over(opened: Open, folder: Path) -> None:
    """What cannot be read at all is passed over like what is broken."""
    opened(5)
    (folder / f"0000008{CHECKPOINT_SUFFIX}").mkdir()
    assert_equal(opened().newest().checkpoint, state_of(5))


def test_one_of_another_key_is_passed_over(opened: Open) -> None:
    """A checkpoint made with other settings, versions or another device is not resumed from."""
    opened(5)
    opened(8, key_=key("a newer version"))
    assert_equal(opened().newest().checkpoint, state_of(5))
    assert_equal(opened(key_=key("a newer version")).newest().checkpoint, state_of(8))
    assert opened(key_=key("something else")).newest().checkpoint is None


def test_a_key_tells_any_difference(opened: Open) -> None:
    """The key is the same for equal facts in any order of their names, and another for any other fact."""
    facts = {"size": 32, "layers": {"a": 1.0, "b": 2.0}}
    assert key(facts, [1.0], "cpu") == key({"layers": {"b": 2.0, "a": 1.0}, "size": 32}, [1.0], "cpu")
    others = [key(facts, [1.5], "cpu"), key(facts, [1.0], "gpu"), key({**facts, "size": 33}, [1.0], "cpu")]
    assert len({key(facts, [1.0], "cpu"), *others}) == 4


@pytest.mark.parametrize(("most", "expected"), [(8, 8), (7, 5), (5, 5), (4, None)])
def test_none_that_is_of_no_use_is_taken(most: int, expected: int | None, opened: Open) -> None:
    """A checkpoint that whoever asks cannot use is passed over for an older one."""
    found = opened(5, 8).newest(lambda iterations: len(iterations) <= most).checkpoint
    assert (None if found is None else len(found.rows)) == expected


def test_new_checkpoints_replace_those_that_were_skipped(opened: Open, folder: Path) -> None:
    """Where a job begins again below older checkpoints of no use, its own are kept and those are removed.

    Else the two old ones, newer by name, would have every new one removed as the oldest.
    """
    opened(50, 60, key_=key("an older version"))
    opened(5)
    assert_equal(opened().newest().checkpoint, state_of(5))
    opened(9)
    assert [path.name for path in kept(folder)] == ["0000005.ckpt", "0000009.ckpt"]
    assert StoredJob(State.RUNNING, "0" * 16, folder.parent).progress == 9


def test_looking_removes_nothing(opened: Open, folder: Path) -> None:
    """What is passed over stays until there is something newer: perhaps it could only not be read now."""
    opened(5, 8)
    assert opened(key_=key("something else")).newest().checkpoint is None
    assert len(kept(folder)) == 2


# A disk that does not take it


def count_operations(folder: Path) -> int:
    """Count the durable operations of a third save, into the folder of a job of its own."""
    checkpoints = open_(folder, 5, 8)
    with Disk(folder.parent).attached() as disk:
        checkpoints.save(state_of(11))
    return disk.count


def test_a_save_that_fails_leaves_the_ones_before(opened: Open, tmp_path: Path) -> None:
    """Whichever operation the full disk fails, the error says so; the newest is the one before, or the new one.

    No half a file stays behind to take the room that is left.
    """
    total = count_operations(tmp_path / "count" / "ckpt")
    outcomes = set()
    for number in range(total):
        place = tmp_path / str(number) / "ckpt"
        checkpoints = open_(place, 5, 8)
        with Disk(place.parent, number).attached() as disk, pytest.raises(OSError, match="ENOSPC"):
            checkpoints.save(state_of(11))
        assert disk.has_struck
        found = open_(place).newest().checkpoint
        assert_equal(found, state_of(len(found.rows)))
        outcomes.add(len(found.rows))
        checkpoints.save(state_of(14))  # and the next one makes good for it
        names = sorted(path.name for path in place.iterdir())
        assert names[-1] == "0000014.ckpt"
        assert len(names) == 2, names
    assert outcomes == {8, 11}
    assert total >= 5


def test_a_full_disk_is_not_filled_with_halves(opened: Open, folder: Path) -> None:
    """A write that ran out of room takes its half file away, try after try."""
    opened(5)
    for pictures in (8, 11):
        disk = Disk(folder.parent, 1, length=1000, is_full=True)
        with disk.attached(), pytest.raises(OSError, match="ENOSPC"):
            opened().save(state_of(pictures))
        assert [path.name for path in folder.iterdir()] == ["0000005.ckpt"]


@pytest.mark.parametrize(
    "moment",
    ["torn", *(pytest.param(moment, marks=pytest.mark.nightly) for moment in ("before", "after"))],
)
def test_a_kill_in_a_save_leaves_one_to_resume_from(moment: str, tmp_path: Path) -> None:
    """Killed at whichever operation, the next process finds the one before or the new one, and tidies up."""
    for number in range(count_operations(tmp_path / "count" / "ckpt")):
        place = tmp_path / str(number) / "ckpt"
        checkpoints = open_(place, 5, 8)
        with Disk(place.parent, number, moment=moment, is_kill=True).attached(), pytest.raises(Killed):
            checkpoints.save(state_of(11))
        after = open_(place)
        found = after.newest().checkpoint
        assert len(found.rows) in {8, 11}
        after.save(state_of(14))
        assert len(list(place.iterdir())) == 2


# When one is due


def test_one_is_due_after_the_interval(opened: Open, clock: Clock) -> None:
    """From the start and from each save on, the next is due after the interval, not before."""
    checkpoints = opened()
    due = []
    for second in range(100):
        clock.now_s = 1000.0 + second
        if checkpoints.is_due():
            checkpoints.save(state_of(3))
            due.append(second)
    assert due == [30, 60, 90]


def test_writing_slowly_is_done_less_often(opened: Open, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a save takes a second the next is due in 200 s, so that checkpoints cost half a percent at most."""
    replaced = files.replaced

    @contextlib.contextmanager
    def slow(path: Path) -> Iterator[BinaryIO]:
        with replaced(path) as file:
            yield file
        clock.now_s += 1.0

    monkeypatch.setattr(files, "replaced", slow)
    checkpoints = opened()
    clock.now_s = 1030.0
    checkpoints.save(state_of(3))
    clock.now_s = 1031.0 + 199.9
    assert not checkpoints.is_due()
    clock.now_s = 1031.0 + 200
    assert checkpoints.is_due()


def test_a_disk_that_fails_is_asked_again_after_the_interval(opened: Open, clock: Clock, folder: Path) -> None:
    """After a failed save the next is due an interval later, not at the next step."""
    checkpoints = opened()
    clock.now_s = 1030.0
    with Disk(folder.parent, 0).attached(), pytest.raises(OSError, match="ENOSPC"):
        checkpoints.save(state_of(3))
    clock.now_s = 1059.9
    assert not checkpoints.is_due()
    clock.now_s = 1060.0
    assert checkpoints.is_due()


def test_a_job_that_moved_is_not_made_again(folder: Path) -> None:
    """A late checkpoint of a job that lies elsewhere by now fails, and leaves nothing in its old place."""
    folder.parent.rmdir()
    with pytest.raises(FileNotFoundError):
        Checkpoints(folder, KEY, 30).save(state_of(5))
    assert not folder.parent.exists()
