"""What a morning report says, and that no disk and no other file is in its way."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from support.fakes import Disk, Killed

from daemon import safe_yaml
from daemon.errors import Reason
from daemon.outbox import summary
from daemon.outbox.publish import Outbox
from daemon.outbox.summary import End, History, Period, Run, Summary
from daemon.sentinel import Sentinel

if TYPE_CHECKING:
    from pathlib import Path

TODAY = "summary-2026-05-04.yaml"
TEXTS = ("plain", "ä" * 500, "'\"\\\n\x85\u2028: #", "- \udcff", "\U0001f3a8 " * 200)


def at(text: str) -> datetime:
    """Give a moment here."""
    return datetime.fromisoformat(text).astimezone()


def entry(started: str, ended: str, done: int = 0, failures: tuple[str, ...] = ()) -> dict[Period, Run]:
    """Make the entry of a run in which so much was painted, and so much failed."""
    period = Period(at(started), at(ended) + timedelta(seconds=1), at(ended), is_over=True)
    ends = [End(at(ended), hours_used=0.5)] * done
    ends += [End(at(ended), failure=summary.failed(text, "corrupt", text)) for text in failures]
    return {period: Run.of(period, [History(at(started), (end,)) for end in ends])}


def write(outbox: Outbox, runs: dict[Period, Run], waiting: list[tuple[str, str]] | None = None) -> None:
    """Write these entries."""
    with outbox.opened() as root:
        summary.write(root, runs, summary.looked(date(2026, 5, 4), waiting or [], 0))


def read(outbox: Outbox, name: str = TODAY) -> dict[str, Any]:
    """Read a report as anybody may."""
    data: dict[str, Any] = safe_yaml.parse((outbox.root / name).read_bytes())
    return data


def test_runs_of_one_day_stand_side_by_side(outbox: Outbox) -> None:
    """Each service changes its own entry only, the newest count stands, and the totals are of all."""
    mine = {done: entry("2026-05-04 01:00", "2026-05-04 02:00", done) for done in (1, 2)}
    for runs in (mine[1], entry("2026-05-04 01:30", "2026-05-04 03:00", 4), mine[2], mine[1]):
        write(outbox, runs)
    document = read(outbox)
    assert [run["done"] for run in document["runs"]] == [2, 4]
    assert (document["accepted"], document["done"], document["hours_used"]) == (6, 6, 3.0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"notes: of a person\n",
        b"\xff\xfe",
        b"- a\n",
        b"date: x\nruns: [{accepted: many}]\n",
        b"#" * 70_000,
    ],
)
def test_a_foreign_file_is_kept_under_another_name(outbox: Outbox, content: bytes) -> None:
    """What is none of our reports is neither read nor overwritten, and earlier ones are kept too."""
    (outbox.root / TODAY).write_bytes(content)
    (outbox.root / "summary-2026-05-04.old-1.yaml").write_bytes(b"older")
    write(outbox, entry("2026-05-04 01:00", "2026-05-04 02:00", 1))
    assert (outbox.root / "summary-2026-05-04.old-1.yaml").read_bytes() == b"older"
    assert (outbox.root / "summary-2026-05-04.old-2.yaml").read_bytes() == content
    assert read(outbox)["done"] == 1


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
def test_what_is_no_file_is_not_waited_for_nor_followed(outbox: Outbox, kind: str, tmp_path: Path) -> None:
    """A FIFO, a folder or a link at the report's place is moved aside."""
    path, secret = outbox.root / TODAY, tmp_path / "secret"
    secret.write_text("keep")
    {"fifo": os.mkfifo, "folder": os.mkdir, "link": lambda place: place.symlink_to(secret)}[kind](path)
    write(outbox, entry("2026-05-04 01:00", "2026-05-04 02:00", 1))
    assert read(outbox)["done"] == 1
    assert os.path.lexists(outbox.root / "summary-2026-05-04.old-1.yaml")
    assert secret.read_text() == "keep"


@pytest.mark.parametrize("is_kill", [False, True], ids=["error", "kill"])
@pytest.mark.parametrize("moment", ["before", "torn", "after"])
def test_wherever_the_disk_fails_no_entry_is_lost(moment: str, tmp_path: Path, *, is_kill: bool) -> None:
    """An error or a kill at any operation leaves each entry in some report, and the next try writes all."""
    for number in range(100):
        sentinel = Sentinel(tmp_path / str(number), "outbox", tmp_path / f"met-{number}")
        sentinel.establish()
        outbox = Outbox(sentinel.folder, sentinel)
        write(outbox, entry("2026-05-03 22:00", "2026-05-03 23:00", 2))
        write(outbox, entry("2026-05-03 23:00", "2026-05-03 23:30", 1))
        (outbox.root / TODAY).write_text("notes: of a person")
        night = entry("2026-05-03 23:00", "2026-05-04 06:00", 3)
        with Disk(outbox.root, number, is_kill=is_kill, moment=moment).attached() as disk:
            try:
                write(outbox, night)
            except (OSError, Killed):
                assert disk.has_struck
        reports = [path.read_text() for path in outbox.root.glob("summary-*.yaml")]
        assert "notes: of a person" in reports
        for started in ("03T22:00", "03T23:00"):
            assert any(f"- started_at: '2026-05-{started}" in text for text in reports)
        write(outbox, night)
        assert [run["done"] for run in read(outbox, "summary-2026-05-03.yaml")["runs"]] == [2]
        assert [run["done"] for run in read(outbox)["runs"]] == [3]
        if not disk.has_struck:
            break
    assert number > 5


def test_odd_texts_are_written_so_that_they_are_read_back(outbox: Outbox) -> None:
    """Names of any bytes and long messages are escaped and cut, and the report is still one."""
    runs = entry("2026-05-04 01:00", "2026-05-04 02:00", 0, TEXTS)
    write(outbox, runs, [(text, text) for text in TEXTS])
    document = read(outbox)
    names = [failure["name"] for failure in document["runs"][0]["failures"]]
    assert (names[0], names[3], max(map(len, names))) == ("plain", "- \\udcff", 300)
    assert [item["path"] for item in document["waiting"]] == names


@pytest.mark.parametrize("text", ["\U0001f3a8" * 300, "wave"])
def test_a_report_of_thousands_can_be_read_back(outbox: Outbox, text: str) -> None:
    """However much fails and waits, every job is counted, and as many are named as fit, the newest first."""
    for started in ("00", "01"):
        runs = entry(f"2026-05-04 {started}:00", "2026-05-04 02:00", 0, (text,) * 500)
        write(outbox, runs, [(text, text)] * 5000)
    document = read(outbox)
    assert sorted(path.name for path in outbox.root.glob("summary*")) == [TODAY]
    assert (document["failed"], document["waiting_count"]) == (1000, 5000)
    older, newer = document["runs"]
    assert all(len(run["failures"]) + run["failures_not_shown"] == 500 for run in (older, newer))
    assert 10 <= len(newer["failures"]) <= summary.MOST_FAILURES
    assert len(older["failures"]) <= len(newer["failures"])


def test_a_report_of_a_hundred_runs_can_be_read_back() -> None:
    """A service that is started again every quarter of an hour, with failures each time, has a whole report."""
    reasons = dict.fromkeys(list(Reason)[:3], 1)
    failures = (summary.failed("p" * 89, "corrupt", "m" * 400),) * 3
    run = Run(started_at="2026-05-03T22:00:01.000+02:00", failed=3, reasons=reasons, failures=failures)
    look = summary.looked(date(2026, 5, 4), [("p" * 400, "r" * 400)] * 300, 7)
    report = Summary.model_validate(safe_yaml.parse(look.of([run] * 100).to_yaml()))
    assert (report.failed, len(report.runs)) == (300, 100)


@pytest.mark.parametrize(
    ("started", "lasted", "days"),
    [
        ("2026-05-03 09:00", "2026-05-03 10:00", ["03"]),
        ("2026-05-03 09:00", "2026-05-05 10:00", ["03", "04", "05"]),
        ("2026-05-03 22:00", "2026-05-03 23:59", ["03"]),
        ("2026-05-03 22:00", "2026-05-04 06:00", ["04"]),
        ("2026-05-03 12:00", "2026-05-05 00:00", ["04"]),
        ("2026-05-03 12:00", "2026-05-05 00:01", ["04", "05"]),
    ],
)
def test_a_run_is_reported_by_nights_and_days(started: str, lasted: str, days: list[str]) -> None:
    """A night belongs to its morning; a longer run is cut at midnights, without a gap."""
    parts = [*Period(at(started), datetime.max.replace(tzinfo=UTC), at(lasted), is_over=False).days()]
    assert [part.day.isoformat()[-2:] for part in parts] == days
    assert [part.before for part in parts[:-1]] == [part.started for part in parts[1:]]
    assert [part.is_over for part in parts] == [True] * (len(parts) - 1) + [False]
