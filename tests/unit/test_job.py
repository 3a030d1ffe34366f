"""The words of the domain: names that are safe to show, ids that stay, jobs that survive being written down."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from daemon.errors import Failure, Fault, Reason
from daemon.job import Face, Job, Part, Stamp, job_id, natural_key, printable, slug
from daemon.presets import PRESETS
from daemon.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

PART = Part("content", "a.jpg", "content.jpg", 1, 2, 3, 4, "ab" * 32)
SIDECAR = Part("sidecar", "a.yaml", "sidecar.yaml", 1, 3, 3, 4, "cd" * 32)


def make_job(**facts: object) -> Job:
    """Make a job, some of its facts given."""
    job = Job(
        id="0123456789abcdef",
        sequence=7,
        stem="sunset",
        folder=".",
        parts=(SIDECAR, PART),
        preset="paper",
        settings=Settings(priority=3),
        accepted_at="2026-01-02T03:04:05Z",
        versions={"daemon": "1"},
    )
    return replace(job, **facts)


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("sunset", "sunset"),
        ("My photo (2)", "My-photo-2"),
        ("Größe", "Groe"),
        ("cafe\u0301", "cafe"),
        ("日本", "picture"),
        ("", "picture"),
        ("..", "picture"),
        ("-rf", "rf"),
        ("a/../b", "a-b"),
        ("a\nb\0c", "a-b-c"),
        ("\udcff\udcfe", "picture"),
        ("x" * 300, "x" * 80),
        ("x" * 79 + "-y", "x" * 79),
    ],
)
def test_a_slug_is_a_safe_ascii_name(stem: str, expected: str) -> None:
    """Letters, digits, underscores and single hyphens, at most eighty, never empty."""
    assert slug(stem) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("größe 日本.jpg", "größe 日本.jpg"),
        ("a\nb\t\x1b[31m", r"a\nb\t\x1b[31m"),
        ("\udcff.jpg", r"\udcff.jpg"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\u2028", r"\u2028"),
    ],
)
def test_names_are_shown_without_anything_unprintable(name: str, expected: str) -> None:
    """Line breaks, escapes, bytes that are no UTF-8 and changes of direction are escaped, letters are not."""
    assert printable(name) == expected


def test_numbers_in_names_sort_by_value() -> None:
    """p2 comes before p10, whatever the case, and digits before letters."""
    names = ["p10", "P2", "p1", "10", "9", "p", "p2a", "", "p²"]

    assert sorted(names, key=natural_key) == ["", "9", "10", "p", "p1", "P2", "p2a", "p10", "p²"]


def test_the_same_untouched_drop_has_the_same_id() -> None:
    """An id is sixteen hexadecimal digits, a function of the parts alone."""
    first = job_id((SIDECAR, PART))

    assert first == job_id((replace(SIDECAR), replace(PART)))
    assert len(first) == 16
    assert int(first, 16) >= 0


@pytest.mark.parametrize(
    "change",
    [{"name": "b.jpg"}, {"dev": 9}, {"ino": 9}, {"size": 9}, {"mtime_ns": 9}, {"sha256": "ef" * 32}],
    ids=lambda change: next(iter(change)),
)
def test_a_drop_that_differs_in_anything_has_another_id(change: dict[str, object]) -> None:
    """Name, device, inode, size, time and content all count."""
    assert job_id((SIDECAR, replace(PART, **change))) != job_id((SIDECAR, PART))


def test_a_later_generation_has_another_id() -> None:
    """The same stamps met again after the first job's retirement make a new job; generation 0 is the first."""
    ids = {job_id((SIDECAR, PART), generation) for generation in range(5)}

    assert len(ids) == 5
    assert job_id((SIDECAR, PART), 0) == job_id((SIDECAR, PART))


def test_ids_of_names_that_are_no_utf8_exist() -> None:
    """A name with surrogates has an id like any other."""
    assert job_id((replace(PART, name="\udcff"),)) != job_id((replace(PART, name="\udcfe"),))


@pytest.mark.parametrize(
    "job",
    [
        make_job(),
        make_job(settings=None, failure=Failure(Reason.BAD_SIDECAR, "m", faults=(Fault("f", "k", "x", "y"),))),
        make_job(stem="\udcff\n", folder="a\udcfe/b\nc", parts=(replace(PART, name="-\udcff\n'\".jpg"),)),
        make_job(settings=Settings(init="\udcff.png"), parts=(replace(PART, weight=0.1, library=True),)),
        make_job(parts=(SIDECAR, replace(PART, faces=(Face(0.25, 0.1, 0.3, 0.4),), detector="d"))),
        make_job(settings=Settings.model_validate({"scales": [{"size": 64, "iterations": 2}]})),
        make_job(settings=Settings.model_validate({"early_stop": {"iterations": 3}, "strength": 0.1})),
    ],
    ids=["plain", "failed", "odd names", "odd start", "faces", "scales", "early stop"],
)
def test_a_job_survives_being_written_down(job: Job) -> None:
    """job.json is ASCII and reads back as the very same job, names of any bytes included."""
    text = job.to_json()

    assert text.isascii()
    assert Job.from_json(text) == job


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_job_of_an_older_version_is_painted_as_it_was_accepted(preset: str) -> None:
    """Nobody looked for faces in it; losses, last step and white below transparency are those of its time."""
    unchanged = {"match_weight": 0, "chroma_limit": False, "protect": "none"}
    unchanged |= {"background": "#ffffff", "alpha": "flatten"}
    accepted = {**PRESETS[preset], **unchanged}
    job = make_job(preset=preset, settings=Settings.model_validate(accepted))
    data = json.loads(job.to_json())
    for key in (*unchanged, "style_scale", "preserve_color"):
        del data["settings"][key]
    data["settings"]["output"] = {"format": "png"}
    for part in data["parts"]:
        del part["faces"], part["detector"], part["warnings"], part["scale"]

    found = Job.from_json(json.dumps(data).encode())

    assert (found, found.faces) == (job, None)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"\xff", b"[]", b"null", b"3", b'"x"', b"{}"),
        b'{"settings": 1, "failure": null, "parts": []}',
        b'{"settings": null, "failure": 1, "parts": []}',
        b'{"settings": null, "failure": null, "parts": 1}',
        b'{"settings": null, "failure": null, "parts": [1]}',
        make_job().to_json()[:-10],
        make_job().to_json().replace(b'"sequence"', b'"sequins"'),
        make_job().to_json().replace(b'"size": 512', b'"size": 1'),
        make_job().to_json().replace(b'"role"', b'"rule"'),
        make_job().to_json().replace(b"2026-01-02T", b"2026-21-02T"),
        make_job().to_json().replace(b"03:04:05Z", b"03:04:05"),
    ],
    ids=lambda text: text[:40],
)
def test_anything_else_is_no_job(text: bytes) -> None:
    """A damaged job.json raises one of three errors, so that the job can be set aside as corrupt."""
    with pytest.raises((ValueError, KeyError, TypeError)):
        Job.from_json(text)


def test_a_jobs_label_is_its_slug_and_the_start_of_its_id() -> None:
    """Outbox entries are readable and unique."""
    assert make_job(stem="My sunset!").label == "My-sunset-01234567"


def test_a_job_knows_its_parts_and_priority() -> None:
    """Parts are found by role; a job without settings has the priority nobody asked for."""
    assert make_job().parts_of("content") == (PART,)
    assert make_job().parts_of("style") == ()
    assert make_job().priority == 3
    assert make_job(settings=None).priority == 0


def test_a_jobs_iterations_are_those_of_its_scales() -> None:
    """The content's shape decides over the coarse sizes; a job that cannot be painted has none to do."""
    photo, panorama = (replace(PART, height_px=height, width_px=600) for height in (450, 60))

    assert make_job(parts=(SIDECAR, photo)).total_iterations == 56 + 28 + 18
    assert make_job(parts=(SIDECAR, panorama)).total_iterations == 18
    assert make_job(settings=None, parts=()).total_iterations == 0


def test_a_stamp_is_what_stat_says(tmp_path: Path) -> None:
    """Device, inode, size and time; a part gives back the stamp of its original."""
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 123_456_789))
    status = path.stat()

    assert Stamp.of(status) == (status.st_dev, status.st_ino, 3, 123_456_789)
    assert PART.stamp == Stamp(1, 2, 3, 4)


def test_job_json_is_plain_json() -> None:
    """Other programs can read it."""
    data = json.loads(make_job().to_json())

    assert data["parts"][1]["name"] == "a.jpg"
    assert data["settings"]["priority"] == 3
    assert data["failure"] is None
