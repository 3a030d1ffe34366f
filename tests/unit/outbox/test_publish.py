"""Outbox entries appear whole, once, and in the place of what they replace."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import pytest
from support.trees import digest

from daemon import files
from daemon.job import Job, Part
from daemon.lifeline import Lifeline

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.outbox.publish import Outbox

ID = "3f9c21ab00000001"


def _job(id_: str = ID, stem: str = "sunset", names: tuple[str, ...] = ("sunset.yaml",)) -> Job:
    parts = tuple(Part("sidecar", name, f"sidecar-{i}.yaml", 1, 2, 3, 4, "0") for i, name in enumerate(names))
    return Job(id_, 1, stem, ".", parts, "default", None, "2026-01-01T00:00:00+00:00")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Make what is to be published."""
    folder = tmp_path / "out"
    (folder / "frames").mkdir(parents=True)
    (folder / "result.png").write_bytes(b"picture")
    (folder / "frames" / "0000.png").write_bytes(b"frame")
    (folder / ".result.yaml.new").write_bytes(b"left over")
    return folder


def _names(outbox: Outbox) -> list[str]:
    names = {path.name for path in outbox.root.iterdir()}
    return sorted(names - {".styletransferd-outbox"})


def test_an_entry_holds_everything_and_a_manifest(outbox: Outbox, out: Path) -> None:
    """The entry has the files of `out/` but hidden ones, and a manifest with their hashes and sizes."""
    entry = outbox.publish(_job(), out, Lifeline())
    assert entry.name == "sunset-3f9c21ab"
    manifest = json.loads((entry / "manifest.json").read_bytes())
    assert manifest == {
        "id": ID,
        "files": {
            "frames/0000.png": {"sha256": digest(b"frame"), "size": 5},
            "result.png": {"sha256": digest(b"picture"), "size": 7},
        },
    }
    assert sorted(path.name for path in entry.rglob("*")) == [
        "0000.png",
        "frames",
        "manifest.json",
        "result.png",
    ]
    assert _names(outbox) == [entry.name]


def test_publishing_twice_is_publishing_once(outbox: Outbox, out: Path) -> None:
    """A second try gives the same entry, untouched."""
    entry = outbox.publish(_job(), out, Lifeline())
    before = entry.stat()
    assert outbox.publish(_job(), out, Lifeline()) == entry
    assert entry.stat().st_ino == before.st_ino
    assert outbox.is_published(_job())


def test_another_jobs_entry_is_not_taken_for_ours(outbox: Outbox, out: Path) -> None:
    """Two jobs whose ids begin alike get two entries, and each is found again."""
    twin = _job("3f9c21ab00000002")
    first = outbox.publish(_job(), out, Lifeline())
    assert not outbox.is_published(twin)
    second = outbox.publish(twin, out, Lifeline())
    assert (first.name, second.name) == ("sunset-3f9c21ab", "sunset-3f9c21ab00000002")
    assert outbox.publish(twin, out, Lifeline()) == second


@pytest.mark.parametrize("text", ["", "[]", '{"id": 3}', "{"])
def test_an_entry_with_a_broken_manifest_is_not_published(text: str, outbox: Outbox, out: Path) -> None:
    """A manifest that cannot be read proves nothing; the result then gets the long name."""
    foreign = outbox.root / "sunset-3f9c21ab"
    foreign.mkdir()
    (foreign / "manifest.json").write_text(text)
    assert not outbox.is_published(_job())
    assert outbox.publish(_job(), out, Lifeline()).name == f"sunset-{ID}"


def test_the_manifest_is_written_last(outbox: Outbox, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written into an entry after its manifest, and the rename comes after all."""
    acts: list[str] = []
    for name in ("write", "copy_hashed", "move"):
        real = getattr(files, name)

        def call(*args: Path, real=real, name=name, **options: int) -> object:  # noqa: ANN001
            acts.append(args[0].name if name == "write" else name)
            return real(*args, **options)

        monkeypatch.setattr(files, name, call)
    outbox.publish(_job(), out, Lifeline())
    assert acts == ["copy_hashed", "copy_hashed", "manifest.json", "move"]


def test_a_source_that_cannot_be_read_is_an_error_to_wait_for(
    outbox: Outbox, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector under the spool is named, and does not end the service as a defect would, at every start."""

    def fail(*_args: object, **_options: object) -> str:
        raise files.SourceError("Input/output error")

    monkeypatch.setattr(files, "copy_hashed", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        outbox.publish(_job(), out, Lifeline())
    assert caught.value.errno == errno.EIO
    assert str(caught.value.filename).startswith(str(out))
    assert not outbox.is_published(_job())


def test_a_failure_brings_the_drop_back(outbox: Outbox, tmp_path: Path) -> None:
    """A .failed entry holds error.yaml and the dropped files under their own names, to be dropped again."""
    (tmp_path / "sidecar-0.yaml").write_text("sise: 3")
    entry = outbox.publish_failure(
        _job(), b"reason: bad_sidecar", tmp_path, tmp_path / "last_good.png", Lifeline()
    )
    assert entry.name == "sunset-3f9c21ab.failed"
    assert (entry / "drop" / "sunset.yaml").read_text() == "sise: 3"
    assert (entry / "error.yaml").read_bytes() == b"reason: bad_sidecar"
    assert set(json.loads((entry / "manifest.json").read_bytes())["files"]) == {
        "error.yaml",
        "drop/sunset.yaml",
    }


@pytest.mark.parametrize("name", ["-rf", ".hidden", "new\nline", "\udcff", "what?.yaml", "c:\\x"])
def test_a_dangerous_name_is_not_brought_back(name: str, outbox: Outbox, tmp_path: Path) -> None:
    """A name that a shell or share trips over is replaced in `drop/` by the plain one of the spool."""
    (tmp_path / "sidecar-0.yaml").write_text("sise: 3")
    entry = outbox.publish_failure(_job(names=(name,)), b"", tmp_path, tmp_path / "last_good.png", Lifeline())
    assert [path.name for path in (entry / "drop").iterdir()] == ["sidecar-0.yaml"]


@pytest.mark.parametrize("names", [("-x", "sidecar-0.yaml"), ("sidecar-1.yaml", "-x"), ("a.yaml", "A.YAML")])
def test_two_names_that_meet_do_not_collide(names: tuple[str, str], outbox: Outbox, tmp_path: Path) -> None:
    """A drop with a file that is called like another's plain name, or but for case alike, loses neither."""
    (tmp_path / "sidecar-0.yaml").write_text("first")
    (tmp_path / "sidecar-1.yaml").write_text("second")
    entry = outbox.publish_failure(_job(names=names), b"", tmp_path, tmp_path / "last_good.png", Lifeline())
    found = {path.name.casefold(): path.read_text() for path in (entry / "drop").iterdir()}
    assert sorted(found.values()) == ["first", "second"]


def test_a_file_in_two_parts_comes_back_once(outbox: Outbox, tmp_path: Path) -> None:
    """A picture that was content and style of a failed drop is there once."""
    (tmp_path / "sidecar-0.yaml").write_text("same")
    (tmp_path / "sidecar-1.yaml").write_text("same")
    entry = outbox.publish_failure(
        _job(names=("a.png", "a.png")), b"", tmp_path, tmp_path / "last_good.png", Lifeline()
    )
    assert [path.name for path in (entry / "drop").iterdir()] == ["a.png"]


def test_a_result_replaces_an_earlier_failure(outbox: Outbox, out: Path, tmp_path: Path) -> None:
    """Once a retried job is painted, its .failed entry is gone; another's stays."""
    outbox.publish_failure(_job(), b"", tmp_path, tmp_path / "last_good.png", Lifeline())
    outbox.publish_failure(_job("1" * 16, "other"), b"", tmp_path, tmp_path / "last_good.png", Lifeline())
    outbox.publish(_job(), out, Lifeline())
    assert _names(outbox) == ["other-11111111.failed", "sunset-3f9c21ab"]


def test_a_second_failure_replaces_the_first(outbox: Outbox, tmp_path: Path) -> None:
    """A job that fails again has one entry, with the newer reason."""
    outbox.publish_failure(_job(), b"first", tmp_path, tmp_path / "last_good.png", Lifeline())
    entry = outbox.publish_failure(_job(), b"second", tmp_path, tmp_path / "last_good.png", Lifeline())
    assert (entry / "error.yaml").read_bytes() == b"second"
    assert _names(outbox) == [entry.name]


def test_an_ending_takes_the_progress_away(outbox: Outbox, out: Path, tmp_path: Path) -> None:
    """`_running/` is gone once the result or the failure is there."""
    for publish in (
        lambda: outbox.publish(_job(), out, Lifeline()),
        lambda: outbox.publish_failure(_job(), b"", tmp_path, tmp_path / "last_good.png", Lifeline()),
    ):
        outbox.live(_job()).mkdir(parents=True)
        (outbox.live(_job()) / "latest.png").touch()
        publish()
        assert not (outbox.root / "_running").exists()


def test_progress_that_cannot_be_removed_keeps_no_result_back(
    outbox: Outbox, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the share does not let the progress go, the result is shown all the same."""
    outbox.live(_job()).mkdir(parents=True)

    def refuse(path: Path, **_: object) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(os, "rmdir", refuse)
    outbox.publish(_job(), out, Lifeline())
    assert _names(outbox) == ["_running", "sunset-3f9c21ab"]


def test_cleaning_removes_only_what_is_our_own_and_half(outbox: Outbox, out: Path) -> None:
    """Drafts and progress of our jobs go at a start; entries and what is somebody else's stay."""
    outbox.publish(_job(), out, Lifeline())
    ours = (f".tmp-{ID}", f".tmp-old-{ID}", "_running/sunset-3f9c21ab")
    others = (".tmp-0000000000000001", "_running/other-00000000", ".Trash-0", "people")
    for name in (*ours, *others):
        (outbox.root / name).mkdir(parents=True)
    outbox.clean([_job().id])
    assert not [name for name in ours if (outbox.root / name).exists()]
    assert [name for name in others if (outbox.root / name).exists()] == list(others)
    assert (outbox.root / "sunset-3f9c21ab" / "manifest.json").exists()
    assert (outbox.root / ".styletransferd-outbox").exists()
