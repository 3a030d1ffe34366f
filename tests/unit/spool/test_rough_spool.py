"""A spool whose files a crash or a full disk left torn: what can be read is used, the rest is passed over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support.desk import accept as accept_drop
from support.desk import pair
from support.trees import claim_next
from typer.testing import CliRunner

from daemon import files
from daemon.cli.main import app
from daemon.errors import DaemonError, Failure, Reason
from daemon.job import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.spool import Spool, StoredJob

    Accept = Callable[[str], StoredJob]

STARTED = b'{"event": "started"}\n'


@pytest.fixture
def accept(spool: Spool, tmp_path: Path) -> Accept:
    """Accept a drop of some stem."""
    return lambda stem: accept_drop(spool, pair(tmp_path / "inbox", stem))


# Records of attempts


@pytest.mark.parametrize(
    "rubbish",
    [
        *(b'{"event": "sta', b'{"event": "\xff\xfe"}\n', b"\x00\x00\x00\x00\n", b"\n"),
        *(b"[1]\n", b'"started"\n', b"3\n", b"null\n", b'{"at": "noon"}\n'),
    ],
    ids=["torn", "not UTF-8", "zeros", "empty", "list", "text", "number", "null", "no event"],
)
def test_rubbish_among_the_attempts_is_read_over(rubbish: bytes, accept: Accept) -> None:
    """A line that is no record of an attempt, wherever it stands, takes none of the others with it."""
    entry = accept("sea")
    crashed = b'{"event": "crashed"}\n'
    path = entry.folder / "attempts.jsonl"
    middle = rubbish if rubbish.endswith(b"\n") else rubbish + b"\n"
    path.write_bytes(STARTED + crashed + middle + STARTED + rubbish)
    assert [record["event"] for record in entry.attempts] == ["started", "crashed", "started"]
    assert entry.attempts_used == 2


def test_a_record_after_a_torn_one_is_kept(spool: Spool, accept: Accept) -> None:
    """A claim after a crash in the middle of a record is on record itself, and the torn line stays alone."""
    entry = accept("sea")
    path = entry.folder / "attempts.jsonl"
    path.write_bytes(STARTED + b'{"event": "cra')
    claim = claim_next(spool)
    assert [record["event"] for record in claim.entry.attempts] == ["started", "started"]
    lines = (claim.entry.folder / "attempts.jsonl").read_bytes().splitlines()
    assert lines[1] == b'{"event": "cra'
    assert json.loads(lines[2])["event"] == "started"


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b"new\n"), (b"old\n", b"old\nnew\n"), (b"ol", b"ol\nnew\n"), (b"\xff", b"\xff\nnew\n")],
)
def test_append_line_begins_a_line(before: bytes, after: bytes, tmp_path: Path) -> None:
    """A line is appended as a line of its own, whatever the file ends with, and no empty one before it."""
    path = tmp_path / "lines"
    path.write_bytes(before)
    files.append_line(path, "new")
    assert path.read_bytes() == after


# Jobs whose record cannot be read


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff"])
def test_retry_refuses_a_job_that_cannot_be_read(
    text: bytes, spool: Spool, accept: Accept, tmp_path: Path
) -> None:
    """`retry` of a job without a readable job.json says so and leaves it in failed/, with its failure."""
    failed = spool.fail(accept("sea"), Failure(Reason.CORRUPT, "torn"))
    (failed.folder / "job.json").write_bytes(text)
    (tmp_path / "config.yaml").write_text("folders: {spool: spool}\n")
    before = sorted(path.name for path in failed.folder.iterdir())
    done = CliRunner().invoke(app, ["retry", failed.id[:6], "--config", str(tmp_path / "config.yaml")])
    assert isinstance(done.exception, DaemonError)
    assert "its record cannot be read" in str(done.exception)
    (entry,) = spool.all_entries()
    assert (entry.state, entry.attempts) == (State.FAILED, failed.attempts)
    assert sorted(path.name for path in entry.folder.iterdir()) == before


@pytest.mark.parametrize("state", [State.QUEUED, State.HELD])
def test_a_cancel_leaves_a_job_that_cannot_be_read(state: State, spool: Spool, accept: Accept) -> None:
    """A cancelled job without a readable job.json stays where it is, and the next cancelled one is taken."""
    torn, good = accept("torn"), accept("good")
    if state is State.HELD:
        torn, good = spool.hold(torn), spool.hold(good)
    for entry in (torn, good):
        spool.ask_cancel(entry)
    (torn.folder / "job.json").write_bytes(b"{")
    assert [entry.id for entry in spool.take_cancelled()] == [good.id]
    assert torn.folder.is_dir()


def test_find_takes_every_name_a_job_goes_by(spool: Spool, accept: Accept) -> None:
    """An id, its beginning, and the name of the entry, short or long, failed or not, find the one job."""
    wanted, other = accept("sea-side"), accept("sea")
    for state in (State.QUEUED, State.FAILED):
        if state is State.FAILED:
            wanted = spool.fail(wanted, Failure(Reason.DIVERGED, "it ran away"))
        long = f"{wanted.label}{wanted.id[8:]}"
        for name in (wanted.label, f"{wanted.label}.failed", long, f"{long}.failed"):
            assert [(entry.id, entry.state) for entry in spool.find(name)] == [(wanted.id, state)]
        for prefix in (wanted.id, wanted.id[:8]):
            assert [entry.id for entry in spool.find(prefix)] == [wanted.id]
    assert spool.find(f"sea-{wanted.id[:8]}") == []
    assert [entry.id for entry in spool.find(f"{other.label}.failed")] == [other.id]
