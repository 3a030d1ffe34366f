"""One turn of the inbox after the other, on a clock set by hand and a real spool."""

from __future__ import annotations

import itertools
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from support.desk import RESCAN_S, SETTLE_S, Desk
from support.trees import NearDecoder, decode_here, digest, save

from daemon.inbox.intake import DOUBT_FACTOR
from daemon.job import Job, State, printable
from daemon.sandbox.client import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.config import Config

STEP_S = 0.05


def _slowly(data: bytes, path: Path, pause_after: int | None) -> Iterator[float]:
    """Write a file in eight pieces; yields the seconds that pass after each."""
    size = max(1, -(-len(data) // 8))
    with path.open("wb", buffering=0) as file:
        for number, start in enumerate(range(0, len(data), size)):
            file.write(data[start : start + size])
            yield SETTLE_S * 1.5 if number == pause_after else STEP_S


def test_what_a_picture_lacks_is_warned_of_once(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning of the decoder is logged with the job's id, and stays in job.json for the record."""
    found = Found(warnings=("it is odd",))
    decoder = NearDecoder()
    monkeypatch.setattr(decoder, "inspect", lambda path, name, *_, **__: (decode_here(path, name), found))
    desk = Desk(make_config(inbox={"settle_s": SETTLE_S}), decoder)
    desk.picture("sea.jpg")
    desk.picture("wave.png", 1)
    desk.write("sea.yaml", content="sea.jpg", style="wave.png")

    with capture_logs() as records:
        (job,) = desk.settle()
        desk.turn(100)

    warned = [record for record in records if record["event"] == "job.warned"]
    assert [(record["job_id"], record["message"]) for record in warned] == [
        (job.id, "sea.jpg: it is odd"),
        (job.id, "wave.png: it is odd"),
    ]
    assert Job.from_json(job.to_json()) == job


# Complete and settled


@pytest.mark.parametrize("pause_after", [None, 4], ids=["steadily", "with a pause inside"])
@pytest.mark.parametrize(
    "order", list(itertools.permutations(("sea.jpg", "wave.png", "sea.yaml"))), ids="-".join
)
def test_a_slow_copy_is_accepted_once_and_whole(
    order: tuple[str, ...], pause_after: int | None, desk: Desk, tmp_path: Path
) -> None:
    """Whatever the order, with pauses longer than settle_s between the files, a pair is taken once, whole."""
    source = {
        name: save(tmp_path / name, seed).read_bytes() for seed, name in enumerate(order) if name[-1] == "g"
    }
    source["sea.yaml"] = b"content: sea.jpg\nstyle: wave.png\n" + b"# a remark\n" * 30
    for name in order:
        pause = pause_after if name != "sea.yaml" else None
        for passed_s in _slowly(source[name], desk.tree.inbox / name, pause):
            for _ in range(round(passed_s / STEP_S)):
                desk.turn(STEP_S)
        if name != order[-1]:
            assert desk.accepted == []
        for _ in range(round(SETTLE_S * 1.5 / STEP_S)):
            desk.turn(STEP_S)
    (job,) = desk.accepted
    assert job.failure is None
    assert {part.name: part.sha256 for part in job.parts} == {n: digest(d) for n, d in source.items()}
    desk.turn(100)
    assert desk.accepted == [job]
    assert desk.tree.left() == []


def test_nothing_is_accepted_before_settle_s(desk: Desk) -> None:
    """A complete drop is taken at settle_s after its last change, and not a moment earlier."""
    desk.tree.drop("sea")
    assert desk.turn() == []
    assert desk.turn(SETTLE_S - 0.01) == []
    assert desk.waiting["sea.yaml"] == "still being written"
    assert min(desk.report.dues) == pytest.approx(0.01)
    assert not desk.report.is_at_rest
    assert len(desk.turn(0.01)) == 1


@pytest.mark.parametrize("name", ["sea.jpg", "sea-style.png", "sea.yaml"])
def test_any_changing_file_keeps_the_drop_waiting(name: str, desk: Desk) -> None:
    """A change of any one file of a drop, also of its time only, makes the whole drop wait again."""
    desk.tree.drop("sea")
    desk.turn()
    os.utime(desk.tree.inbox / name, ns=(1, 1))
    desk.turn(SETTLE_S)
    assert desk.accepted == []
    desk.turn(SETTLE_S)
    assert len(desk.accepted) == 1


def test_drops_are_accepted_in_natural_order(desk: Desk) -> None:
    """p2 comes before p10, whatever the file system says."""
    for number in (10, 2, 1, 9):
        desk.tree.drop(f"p{number}")
    assert [job.stem for job in desk.settle()] == ["p1", "p2", "p9", "p10"]
    assert [job.sequence for job in desk.accepted] == [1, 2, 3, 4]


def test_subfolders_are_part_of_the_inbox(desk: Desk) -> None:
    """A drop in a subfolder is taken, and pictures of another folder are none of its own."""
    desk.tree.drop("sea", "2026/trip")
    desk.write("hill.yaml", content="sea.jpg", style="sea-style.png")
    (job,) = desk.settle()
    assert (job.folder, job.stem) == ("2026/trip", "sea")
    assert desk.waiting["hill.yaml"] == "waiting for sea.jpg, sea-style.png"


# Faults and doubts


def test_a_missing_picture_is_waited_for_without_limit(desk: Desk) -> None:
    """A sidecar whose picture is missing waits, visibly and at rest, until the picture comes."""
    sidecar = desk.tree.drop("sea")
    picture = sidecar.with_name("sea.jpg")
    data = picture.read_bytes()
    picture.unlink()
    desk.believe()
    desk.turn(10**6)
    assert desk.accepted == []
    assert desk.waiting["sea.yaml"] == "waiting for sea.jpg"
    assert desk.report.is_at_rest
    picture.write_bytes(data)
    assert len(desk.settle()) == 1


def test_a_young_faulty_sidecar_is_doubted(desk: Desk) -> None:
    """A fault is believed only after five times settle_s: an editor may save in two steps."""
    path = desk.write("sea.yaml", content="sea.jpg", style="wave.png", sise=3)
    desk.picture("sea.jpg", 1)
    desk.picture("wave.png", 2)
    desk.settle()
    desk.turn((DOUBT_FACTOR - 1) * SETTLE_S - 0.01)
    assert desk.accepted == []
    assert "not ready" in desk.waiting["sea.yaml"]
    path.write_text("content: sea.jpg\nstyle: wave.png\n")
    (job,) = desk.settle()
    assert job.failure is None


def test_an_old_faulty_sidecar_is_rejected_with_its_pictures(desk: Desk) -> None:
    """A believed fault is taken with all its files, and a note of it is left in `_rejected/`."""
    desk.tree.drop("sea", sise=3)
    (job,) = desk.believe()
    assert job.failure.reason == "bad_sidecar"
    assert {part.name for part in job.parts} == {"sea.yaml", "sea.jpg", "sea-style.png"}
    assert desk.tree.left() == []
    (note,) = (desk.tree.inbox / "_rejected").iterdir()
    assert "did you mean 'size'?" in note.read_text()


def test_text_named_jpg_is_doubted_and_then_rejected(desk: Desk) -> None:
    """A file that is no picture is taken for one still being copied, and in the end for what it is."""
    desk.tree.drop("sea")
    (desk.tree.inbox / "sea.jpg").write_text("this is no picture\n" * 50)
    assert desk.settle() == []
    assert desk.waiting["sea.yaml"].startswith("not ready: sea.jpg")
    (job,) = desk.turn(DOUBT_FACTOR * SETTLE_S)
    assert (job.failure.reason, job.failure.file) == ("not_a_picture", "sea.jpg")


def test_a_path_out_of_the_folder_is_refused(desk: Desk) -> None:
    """`content: ../../etc/passwd` is a fault of its own kind, and no file but the drop's is touched."""
    desk.tree.drop("sea", content="../../etc/passwd")
    (job,) = desk.believe()
    assert (job.failure.reason, job.failure.key) == ("path_outside", "content")
    assert desk.tree.left() == ["sea.jpg"]


@pytest.mark.parametrize("other", ["sea.png", "wave"])
def test_a_symbolic_link_is_not_followed(other: str, desk: Desk, tmp_path: Path) -> None:
    """A link in place of a picture makes the drop wait with that reason, wherever it points."""
    secret = save(tmp_path / "secret.png", 7)
    (desk.tree.inbox / "sea.png").symlink_to(secret if other == "sea.png" else "wave.png")
    desk.picture("wave.png")
    desk.write("sea.yaml", content="sea.png", style="wave.png")
    desk.believe()
    assert desk.accepted == []
    assert desk.waiting["sea.yaml"] == "sea.png is a symbolic link, which is not followed"


def test_what_is_no_regular_file_is_named_and_left(desk: Desk) -> None:
    """A FIFO, a socket and a directory called like pictures block nothing: a good drop beside them is taken."""
    inbox = desk.tree.inbox
    os.mkfifo(inbox / "fifo.png")
    (inbox / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(inbox / "socket.png"))
    desk.write("a.yaml", content="fifo.png", style="socket.png")
    desk.write("b.yaml", content="folder.png", style="socket.png")
    desk.tree.drop("good")
    assert [job.stem for job in desk.settle()] == ["good"]
    assert desk.waiting["a.yaml"] == "fifo.png is not a regular file"
    assert desk.waiting["b.yaml"] == "waiting for folder.png"


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden.yaml", "~a.yaml", "a.yaml~", "x.YAML.PART", "~$a.yaml", "a.yaml.crdownload", "Thumbs.db"),
        *("@eaDir/a.yaml", "__MACOSX/a.yaml", "lost+found/a.yaml", "_accepted/a.yaml", "_rejected/a.yaml"),
        *("DESKTOP.INI", "a.filepart", "mine.skip"),
    ],
)
def test_ignored_names_are_not_even_mentioned(name: str, make_desk: Callable[..., Desk]) -> None:
    """What the built-in list and the config name, in any case, is neither taken, nor reported, nor removed."""
    desk = make_desk(ignore=["*.SKIP"])
    path = desk.tree.inbox / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("sise: 3")
    desk.believe()
    assert (desk.accepted, desk.waiting) == ([], {})
    assert path.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"-rf.yaml",
        b"new\nline.yaml",
        "café.yaml".encode("latin-1"),
        "café.yaml".encode(),
        "cafe\u0301.yaml".encode(),
    ],
    ids=["dash", "newline", "latin-1", "nfc", "nfd"],
)
def test_strange_names_are_taken_and_retired(raw: bytes, desk: Desk) -> None:
    """Any name a file system allows is taken, and shown escaped."""
    stem = os.fsdecode(raw[:-5])
    desk.picture(f"{stem}.content.png", 1)
    desk.picture(f"{stem}.style.png", 2)
    desk.write(os.fsdecode(raw))
    desk.turn()
    assert printable(os.fsdecode(raw)) in desk.waiting
    assert all(path.isprintable() for path in desk.waiting)
    (job,) = desk.turn(SETTLE_S)
    assert job.stem == stem
    assert job.label.isascii()
    assert desk.tree.left() == []


def test_a_composed_name_finds_its_decomposed_file(desk: Desk) -> None:
    """A sidecar written on one system finds the picture that another system stored in the other form."""
    desk.picture("cafe\u0301.png", 1)
    desk.picture("Wave.PNG", 2)
    desk.write("a.yaml", content="café.png", style="wave.png")
    (job,) = desk.settle()
    assert [part.name for part in job.parts[1:]] == ["cafe\u0301.png", "Wave.PNG"]
    assert desk.tree.left() == []


# Pairs, shared pictures, the library


def test_bare_pairs_need_the_option(make_desk: Callable[..., Desk]) -> None:
    """NAME.content.* with NAME.style.* alone is a job where `sidecar: optional` says so, and nowhere else."""
    for option, count in (("required", 0), ("optional", 1)):
        desk = make_desk(sidecar=option)
        desk.picture("sea.content.png", 1)
        desk.picture("sea.style.png", 2)
        assert len(desk.settle()) == count
    assert desk.tree.left() == []
    assert desk.accepted[0].stem == "sea"


def test_a_sidecar_speaks_for_its_pair(make_desk: Callable[..., Desk]) -> None:
    """With `sidecar: optional`, a pair that has a sidecar is one job, with the sidecar's settings."""
    desk = make_desk(sidecar="optional")
    desk.picture("sea.content.png", 1)
    desk.picture("sea.style.png", 2)
    desk.write("sea.yaml", size=77)
    (job,) = desk.settle()
    assert job.settings.size == 77


def test_a_shared_picture_stays_until_the_last_sidecar_that_names_it(desk: Desk) -> None:
    """A style that another waiting sidecar names stays; it goes with the last one."""
    desk.picture("wave.png", 1)
    desk.picture("a.png", 2)
    desk.write("a.yaml", content="a.png", style="wave.png")
    desk.write("b.yaml", content="b.png", style="wave.png")
    assert [job.stem for job in desk.settle()] == ["a"]
    assert desk.tree.left() == ["b.yaml", "wave.png"]
    desk.picture("b.png", 3)
    assert [job.stem for job in desk.settle()] == ["b"]
    assert desk.tree.left() == []


def test_an_unread_sidecar_may_name_any_picture(desk: Desk) -> None:
    """While a new sidecar is still being written, no picture of its folder is removed."""
    desk.tree.drop("a")
    desk.turn()
    (desk.tree.inbox / "b.yaml").write_text("content: a.jpg\n")
    desk.turn(SETTLE_S)
    assert desk.tree.left() == ["a-style.png", "a.jpg", "b.yaml"]
    desk.turn(SETTLE_S)
    assert desk.tree.left() == ["a.jpg", "b.yaml"]


def test_the_styles_library_is_read_and_never_consumed(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    """A style from folders.styles is copied into the job and stays where it is."""
    (tmp_path / "styles").mkdir()
    style = save(tmp_path / "styles" / "wave.png", 5)
    desk = Desk(make_config(folders={"styles": "styles"}, inbox={"settle_s": SETTLE_S}))
    desk.picture("sea.png", 1)
    desk.write("sea.yaml", content="sea.png", style="wave.png")
    (job,) = desk.settle()
    (part,) = job.parts_of("style")
    assert part.library
    assert (desk.spool.folder(State.QUEUED) / job.id / "in" / part.stored).read_bytes() == style.read_bytes()
    assert style.exists()
    assert desk.tree.left() == []


# After the acceptance


def test_a_new_file_of_an_old_name_is_a_new_drop(desk: Desk) -> None:
    """The same bytes dropped again are a new job: the user asked again."""
    desk.tree.drop("sea")
    (first,) = desk.settle()
    desk.tree.drop("sea")
    (second,) = desk.settle()
    assert first.id != second.id


def test_an_untouched_drop_looks_the_same_in_a_reused_inode(desk: Desk) -> None:
    """A later drop with the very stamps of a retired one is a job of its own."""
    sidecar = desk.tree.drop("sea")
    for path in sidecar.parent.glob("sea*"):
        os.link(path, desk.tree.config.folders.spool / path.name)
    (first,) = desk.settle()
    for path in desk.tree.config.folders.spool.glob("sea*"):
        path.rename(sidecar.with_name(path.name))
    (second,) = desk.settle()
    assert [part.stamp for part in first.parts] == [part.stamp for part in second.parts]
    assert first.id != second.id


def test_a_drop_that_cannot_be_removed_is_accepted_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Originals that cannot be set aside say so and are never accepted again, also after a restart."""
    desk.tree.drop("sea")

    def rename(path: Any, *others: Any, **options: Any) -> None:
        if options.get("src_dir_fd") is not None:
            raise PermissionError(13, "Permission denied", str(path))
        real(path, *others, **options)

    real = os.rename
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        assert len(desk.settle()) == 1
        reasons = {"sea.yaml": "accepted but present: Permission denied"}
        assert reasons.items() <= desk.waiting.items()
        desk.turn(100)
        desk.start()
        desk.believe()
        assert reasons.items() <= desk.waiting.items()
        assert len(desk.accepted) == 1
        assert desk.report.is_at_rest
    desk.turn(RESCAN_S)
    assert (desk.waiting, desk.tree.left()) == ({}, [])
    desk.tree.drop("sea")
    assert len(desk.settle()) == 1


def test_originals_can_be_kept(make_desk: Callable[..., Desk]) -> None:
    """With keep_originals what was accepted moves to `_accepted/`, the second of a name beside the first."""
    desk = make_desk(keep_originals=True)
    for _ in range(2):
        desk.tree.drop("sea", "trip")
        assert len(desk.settle()) == 1
    kept = sorted(path.name for path in (desk.tree.inbox / "_accepted" / "trip").iterdir())
    second = desk.accepted[1].id[:8]
    names = ["sea-style.png", "sea.jpg", "sea.yaml", f"sea-{second}.jpg", f"sea-{second}.yaml"]
    assert kept == sorted([*names, f"sea-style-{second}.png"])
    assert desk.tree.left() == []
