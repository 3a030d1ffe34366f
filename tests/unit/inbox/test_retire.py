"""Originals are removed when they are what was accepted, and never otherwise."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from support.trees import digest

from daemon import files
from daemon.errors import Failure, Reason
from daemon.inbox import retire
from daemon.job import Job, Part, Stamp
from daemon.sentinel import Sentinel

if TYPE_CHECKING:
    from pathlib import Path


def _part(path: Path, role: Any, **more: Any) -> Part:
    stamp = Stamp.of(path.lstat())
    return Part(role, path.name, f"{role}-0", *stamp, sha256=digest(path.read_bytes()), **more)


@pytest.fixture
def drop(tmp_path: Path) -> dict[str, Path]:
    """Write a drop's three files."""
    found = {}
    for role, name in (("content", "a.png"), ("style", "b.png"), ("sidecar", "a.yaml")):
        found[role] = tmp_path / name
        found[role].write_text(f"bytes of {name}")
    return found


def _job(drop: dict[str, Path]) -> Job:
    parts = tuple(_part(path, role) for role, path in drop.items())
    return Job("0" * 16, 1, "a", ".", parts, "default", None, "2026-01-01T00:00:00+00:00")


def _retire(tmp_path: Path, job: Job, *needed: str, keeps: bool = False) -> dict[str, str]:
    with files.opened_folder(tmp_path) as root:
        left, _ = retire.retire(root, job, needed, keeps=keeps)
    return left


def _note(inbox: Path, job: Job) -> None:
    sentinel = Sentinel(inbox, "inbox", inbox / ".met")
    sentinel.establish()
    retire.Retirer(sentinel).note_rejection(job)


def test_unchanged_originals_go(tmp_path: Path, drop: dict[str, Path]) -> None:
    """All files of an unchanged drop are removed."""
    assert _retire(tmp_path, _job(drop)) == {}
    assert list(tmp_path.iterdir()) == []


def test_the_sidecar_goes_first(tmp_path: Path, drop: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The trigger is removed first, so that a crash after it leaves no drop that is accepted again."""
    gone, real = [], os.rename

    def rename(name: str, *others: Any, **options: Any) -> None:
        gone.append(name)
        real(name, *others, **options)

    monkeypatch.setattr(os, "rename", rename)
    _retire(tmp_path, _job(drop))
    assert gone == ["a.yaml", "a.png", "b.png"]


@pytest.mark.parametrize("role", ["content", "style", "sidecar"])
def test_a_file_that_changed_is_left(role: str, tmp_path: Path, drop: dict[str, Path]) -> None:
    """A newer file of the same name belongs to a new drop, and stays."""
    job = _job(drop)
    drop[role].write_text("something newer")
    assert _retire(tmp_path, job) == {}
    assert list(tmp_path.iterdir()) == [drop[role]]


def test_other_bytes_behind_the_same_stamp_are_left(tmp_path: Path, drop: dict[str, Path]) -> None:
    """A file whose bytes changed while its inode, size and time did not is left: the hash decides."""
    job = _job(drop)
    before = drop["content"].stat()
    with drop["content"].open("r+b") as file:
        file.write(b"BYTES")
    os.utime(drop["content"], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Stamp.of(drop["content"].stat()) == job.parts[0].stamp
    assert _retire(tmp_path, job) == {}
    assert list(tmp_path.iterdir()) == [drop["content"]]


def test_a_link_in_its_place_is_left(tmp_path: Path, drop: dict[str, Path]) -> None:
    """A symbolic link that took an original's place is left, and so is what it points to."""
    job = _job(drop)
    aside = tmp_path / "aside.png"
    drop["content"].rename(aside)
    drop["content"].symlink_to(aside.name)
    assert _retire(tmp_path, job) == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "aside.png"]


def test_a_picture_that_is_needed_stays(tmp_path: Path, drop: dict[str, Path]) -> None:
    """A picture another sidecar names remains, with the reason; the job is not done with the inbox."""
    job = _job(drop)
    assert _retire(tmp_path, job, "b.png") == {"b.png": "accepted; another sidecar names it"}
    assert list(tmp_path.iterdir()) == [drop["style"]]
    assert _retire(tmp_path, job) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_library_picture_is_not_touched(tmp_path: Path, drop: dict[str, Path]) -> None:
    """A part that came from the styles library is passed over, also if the inbox has its very file."""
    parts = [_part(path, role, library=role == "style") for role, path in drop.items()]
    job = Job("0" * 16, 1, "a", ".", tuple(parts), "default", None, "2026-01-01T00:00:00+00:00")
    assert _retire(tmp_path, job) == {}
    assert list(tmp_path.iterdir()) == [drop["style"]]


def test_what_cannot_be_removed_is_reported(
    tmp_path: Path, drop: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An original that cannot be set aside remains, with the system's reason; the others go."""

    def rename(path: Any, *others: Any, **options: Any) -> None:
        if str(path) == "b.png":
            raise PermissionError(13, "Permission denied", str(path))
        real(path, *others, **options)

    real = os.rename
    monkeypatch.setattr(os, "rename", rename)
    assert _retire(tmp_path, _job(drop)) == {"b.png": "accepted but present: Permission denied"}
    assert list(tmp_path.iterdir()) == [drop["style"]]


def test_a_file_too_large_to_keep_stays(tmp_path: Path, drop: dict[str, Path]) -> None:
    """A file over the cap, which the spool did not copy, is the only one and is not removed."""
    job = _job(drop)
    large = Part(**{**vars(job.parts[0]), "sha256": ""})
    job = Job(**{**vars(job), "parts": (large, *job.parts[1:])})
    assert list(_retire(tmp_path, job)) == ["a.png"]
    assert list(tmp_path.iterdir()) == [drop["content"]]


def test_kept_originals_move_to_accepted(tmp_path: Path, drop: dict[str, Path]) -> None:
    """With `keep_originals` every file lies in `_accepted/` under its own name, and no longer in the inbox."""
    bytes_ = {path.name: path.read_bytes() for path in drop.values()}
    assert _retire(tmp_path, _job(drop), keeps=True) == {}
    assert {path.name: path.read_bytes() for path in (tmp_path / "_accepted").iterdir()} == bytes_
    assert [path.name for path in tmp_path.iterdir()] == ["_accepted"]


def test_a_kept_name_that_is_taken_gets_another(tmp_path: Path, drop: dict[str, Path]) -> None:
    """What is kept already is not replaced: the second of a name carries the job's id, the third a number."""
    kept = tmp_path / "_accepted"
    kept.mkdir()
    (kept / "a.png").write_text("older")
    (kept / "a-00000000.png").write_text("old")
    _retire(tmp_path, _job(drop), keeps=True)
    assert (kept / "a.png").read_text() == "older"
    assert (kept / "a-00000000.png").read_text() == "old"
    assert (kept / "a-00000000-2.png").read_text() == "bytes of a.png"


def test_retiring_twice_is_retiring_once(tmp_path: Path, drop: dict[str, Path]) -> None:
    """A second try finds nothing, touches nothing, and says that nothing remains."""
    job = _job(drop)
    assert _retire(tmp_path, job, keeps=True) == {}
    before = sorted((tmp_path / "_accepted").iterdir())
    assert _retire(tmp_path, job, keeps=True) == {}
    assert sorted((tmp_path / "_accepted").iterdir()) == before


def test_a_disk_that_does_not_remove_shows_the_file_again(
    tmp_path: Path, drop: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was set aside and cannot be removed has its own name again, and the reason is reported."""
    real = os.unlink

    def unlink(path: Any, **options: Any) -> None:
        if str(path).endswith("style-0") and not (tmp_path / "b.png").exists():
            raise OSError(5, "Input/output error", path)
        real(path, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    assert _retire(tmp_path, _job(drop)) == {"b.png": "accepted but present: Input/output error"}
    assert [path.name for path in tmp_path.iterdir()] == ["b.png"]


FAILURE = Failure(Reason.BAD_SIDECAR, "1 fault: no such key", hint="did you mean 'size'?")


def test_a_rejection_leaves_a_note(tmp_path: Path, drop: dict[str, Path]) -> None:
    """The note lies in `_rejected/` under the entry's name and says what was wrong and what to do."""
    job = Job(**{**vars(_job(drop)), "failure": FAILURE})
    _note(tmp_path, job)
    (note,) = (tmp_path / "_rejected").iterdir()
    assert note.name == "a-00000000.txt"
    assert "bad_sidecar" in note.read_text()
    assert "did you mean 'size'?" in note.read_text()
    assert "docs/failures.md#bad_sidecar" in note.read_text()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["the folder", "the note", "the hidden name", "a FIFO"])
def test_a_note_is_not_written_through_a_link(kind: str, tmp_path: Path, drop: dict[str, Path]) -> None:
    """Whoever plants a link where the note is to be has nothing outside of the inbox written."""
    inbox, outside = tmp_path / "inbox", tmp_path / "outside"
    inbox.mkdir()
    outside.mkdir()
    (outside / "a-00000000.txt").write_text("kept")
    if kind == "the folder":
        (inbox / "_rejected").symlink_to(outside)
    else:
        (inbox / "_rejected").mkdir()
        name = "a-00000000.txt" if kind == "the note" else ".a-00000000.txt.new"
        if kind == "a FIFO":
            os.mkfifo(inbox / "_rejected" / name)
        else:
            (inbox / "_rejected" / name).symlink_to(outside / "a-00000000.txt")
    _note(inbox, Job(**{**vars(_job(drop)), "failure": FAILURE}))
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("a-00000000.txt", "kept")]
    if kind != "the folder":
        assert "bad_sidecar" in (inbox / "_rejected" / "a-00000000.txt").read_text()


def test_a_share_that_refuses_the_note_is_let_be(tmp_path: Path, drop: dict[str, Path]) -> None:
    """A file in the place of `_rejected/` costs the note, nothing else."""
    (tmp_path / "_rejected").write_text("in the way")
    _note(tmp_path, Job(**{**vars(_job(drop)), "failure": FAILURE}))
    assert (tmp_path / "_rejected").read_text() == "in the way"
