"""The file of a morning report: what it says, and that no disk and no other file is in its way."""

from __future__ import annotations

import os
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from support.fakes import Disk, Killed

from daemon import safe_yaml
from daemon.errors import Failure, Reason
from daemon.outbox import summary
from daemon.outbox.summary import Run

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.outbox.publish import Outbox

TODAY = "summary-2026-05-04.yaml"
TEXTS = ("plain", "ä" * 500, "'\"\\\n\x85\u2028: #", "- \udcff", "\U0001f3a8 " * 200)


def entry(started: str, done: int = 0, failures: tuple[str, ...] = ()) -> Run:
    """Make the entry of a run that painted so much, and failed at so much."""
    named = tuple(summary.failure(text, Failure(Reason.CORRUPT, text)) for text in failures)
    counts = {"accepted": done, "done": done, "failed": len(failures), "hours_used": done / 2}
    return Run(started_at=started, ended_at=None, reasons={}, failures=named, **counts)


def write(outbox: Outbox, *runs: Run, waiting: tuple[str, ...] = ()) -> None:
    """Write these entries, and what waits."""
    with outbox.opened() as root:
        report = summary.read(root, date(2026, 5, 4)).with_waiting([(text, text) for text in waiting], 0)
        for run in runs:
            report = report.with_run(run)
        summary.write(root, report)


def read(outbox: Outbox) -> dict[str, Any]:
    """Read the report as anybody may."""
    data: dict[str, Any] = safe_yaml.parse((outbox.root / TODAY).read_bytes())
    return data


def test_runs_of_one_day_stand_side_by_side(outbox: Outbox) -> None:
    """Each service changes its own entry only, the newest count stands, and the totals are of all."""
    for run in (entry("01:00", 1), entry("01:30", 4), entry("01:00", 2)):
        write(outbox, run)
    document = read(outbox)
    assert [run["done"] for run in document["runs"]] == [2, 4]
    assert (document["accepted"], document["done"], document["hours_used"]) == (6, 6, 3.0)


@pytest.mark.parametrize("content", [b"", b"notes: of a person\n", b"\xff\xfe", b"#" * 70_000])
def test_a_foreign_file_is_kept_under_another_name(outbox: Outbox, content: bytes) -> None:
    """A file that is no report of ours is neither read nor lost."""
    (outbox.root / TODAY).write_bytes(content)
    write(outbox, entry("01:00", 1))
    assert (outbox.root / "summary-2026-05-04.old").read_bytes() == content
    assert read(outbox)["done"] == 1


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
def test_what_is_no_file_is_not_waited_for_nor_followed(outbox: Outbox, kind: str, tmp_path: Path) -> None:
    """A FIFO, a folder or a link at the report's place is moved aside."""
    path, secret = outbox.root / TODAY, tmp_path / "secret"
    secret.write_text("keep")
    {"fifo": os.mkfifo, "folder": os.mkdir, "link": lambda place: place.symlink_to(secret)}[kind](path)
    write(outbox, entry("01:00", 1))
    assert read(outbox)["done"] == 1
    assert secret.read_text() == "keep"


@pytest.mark.parametrize("is_kill", [False, True], ids=["error", "kill"])
@pytest.mark.parametrize("moment", ["before", "torn", "after"])
def test_wherever_the_disk_fails_no_entry_is_lost(moment: str, outbox: Outbox, *, is_kill: bool) -> None:
    """An error or a kill at any operation leaves the old entries, and the next try writes the new one."""
    write(outbox, entry("01:00", 2))
    for number in range(100):
        with Disk(outbox.root, number, is_kill=is_kill, moment=moment).attached() as disk:
            try:
                write(outbox, entry("02:00", number))
            except (OSError, Killed):
                assert disk.has_struck
        assert read(outbox)["runs"][0]["done"] == 2
        write(outbox, entry("02:00", number))
        assert [run["done"] for run in read(outbox)["runs"]] == [2, number]
        if not disk.has_struck:
            break
    assert number > 2


def test_odd_texts_are_written_so_that_they_are_read_back(outbox: Outbox) -> None:
    """Names of any bytes and long messages are escaped and cut, and the report is still one."""
    write(outbox, entry("01:00", 0, TEXTS), waiting=TEXTS)
    document = read(outbox)
    names = [failure["name"] for failure in document["runs"][0]["failures"]]
    assert (names[0], names[3], max(map(len, names))) == ("plain", "- \\udcff", 300)
    assert [item["path"] for item in document["waiting"]] == names


@pytest.mark.parametrize(
    ("text", "runs", "least"), [("\U0001f3a8" * 300, 2, 5), ("wave", 2, 100), ("m" * 90, 100, 1)]
)
def test_a_report_of_thousands_can_be_read_back(outbox: Outbox, text: str, runs: int, least: int) -> None:
    """However much fails and waits, in however many runs, all is counted, and as many are named as fit."""
    write(
        outbox,
        *(entry(str(number), 0, (text,) * (1000 // runs)) for number in range(runs)),
        waiting=(text,) * 500,
    )
    document = read(outbox)
    assert [path.name for path in outbox.root.glob("summary*")] == [TODAY]
    assert (document["failed"], document["waiting_count"], len(document["runs"])) == (1000, 500, runs)
    for run in document["runs"]:
        assert len(run["failures"]) + run["failures_not_shown"] == 1000 // runs
        assert len(run["failures"]) >= least
