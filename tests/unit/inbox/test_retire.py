"""Originals are removed when they are what was accepted, and never otherwise."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from trees import digest

from daemon.inbox import retire
from daemon.job import Job, Part, Stamp

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
    return retire.retire(tmp_path, job, lambda name: name in needed, keeps=keeps)


def test_unchanged_originals_go(tmp_path: Path, drop: dict[str, Path]) -> None:
    """All files of an unchanged drop are removed."""
    assert _retire(tmp_path, _job(drop)) == {}
    assert list(tmp_path.iterdir()) == []


def test_the_sidecar_goes_first(tmp_path: Path, drop: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The trigger is the first to go, so that a cut between two removals leaves no drop that asks anew."""
    gone, real = [], os.rename

    def rename(name: str, *others: Any, **options: Any) -> None:
        gone.append(name)
        real(name, *others, **options)

    monkeypatch.setattr(os, "rename", rename)
    _retire(tmp_path, _job(drop))
    assert gone == ["a.yaml", "a.png", "b.png"]


@pytest.mark.parametrize("role", ["content", "style", "sidecar"])
def test_a_file_that_changed_is_left(role: str, tmp_path: Path, drop: dict[str, Path]) -> None:
    """A file written anew under its name is a new drop's, and stays."""
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


def test_what_cannot_be_removed_is_told(
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
