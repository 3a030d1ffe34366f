"""What the service is doing, as status.json and the service manager say it."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from support.fakes import INFO

from daemon import files, lifeline
from daemon.errors import PauseKind
from daemon.inbox.intake import Report
from daemon.lifeline import Lifeline
from daemon.service import status
from daemon.service.backoff import Pause
from daemon.service.status import Counts, Situation, Status
from daemon.spool import Spool
from daemon.worker.attempt import Attempts, Progress
from daemon.worker.outcomes import Ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import Config


class Desk:
    """A status with its parts in reach."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spool = Spool(config.folders.spool)
        self.spool.prepare()
        self.situation = Situation(config, state="running")
        self.attempts = Attempts()
        self.now = 0.0
        self.lives = {name: Lifeline() for name in ("worker", "intake", "publisher")}
        monkeypatch.setattr(lifeline, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.sent: list[str] = []
        self.fed = 0
        monkeypatch.setattr(status, "notify", self._notify)
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
        self.status = Status(self.spool, self.situation, self.attempts, self.lives)

    def _notify(self, STATUS: str | None = None, WATCHDOG: str | None = None) -> None:  # noqa: N803 - systemd's
        self.sent += [STATUS] if STATUS else []
        self.fed += WATCHDOG == "1"

    def read(self) -> dict[str, Any]:
        """Write status.json, and read it back."""
        self.status.write()
        document: dict[str, Any] = json.loads((self.spool.root / "status.json").read_bytes())
        return document


@pytest.fixture
def desk(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Make one."""
    return Desk(make_config(), monkeypatch)


def _progress(name: str) -> Progress:
    return Progress(name, f"{name}-1", 1, 3, 10, 64, 0.5, 1.0, 0.1, 0.7, "2026-01-01T00:00:00.000+00:00")


def _running(attempts: Attempts, progress: Progress | None, name: str) -> Any:
    """Count something as a running attempt."""
    job = SimpleNamespace(job=SimpleNamespace(id=name))
    attempt: Any = SimpleNamespace(claim=job, progress=progress)
    return attempts.running(attempt)


def test_every_key_is_there_from_the_start(desk: Desk) -> None:
    """Nothing is left out because it is not known yet."""
    desk.situation.state = "starting"
    document = desk.read()
    assert document.keys() == {
        *("state", "paused", "stalled", "opens_at", "pid", "version", "updated_at", "uptime_s", "engine"),
        *("engines", "job", "jobs", "queued", "queue", "waiting", "waiting_count", "run"),
    }
    assert (document["engine"], document["engines"], document["job"], document["jobs"]) == (None, [], None, [])
    assert document["run"] == Counts()._asdict()
    assert desk.sent == []  # systemd gets the state of a running service only


def test_all_running_jobs_are_listed_and_the_first_one_is_the_job(desk: Desk) -> None:
    """`jobs` has each attempt from its first step on, `job` the first of them."""
    desk.situation.info = INFO
    with (
        _running(desk.attempts, None, "not begun"),
        _running(desk.attempts, _progress("a"), "a"),
        _running(desk.attempts, _progress("b"), "b"),
    ):
        document = desk.read()
    assert [job["job_id"] for job in document["jobs"]] == ["a", "b"]
    assert document["job"] == document["jobs"][0] == asdict(_progress("a"))
    assert document["engines"] == [document["engine"]]
    assert document["engine"]["device"] == "fake"
    assert desk.sent == ["painting a-1: 3/10, 0 queued"]
    assert desk.read()["jobs"] == []


def test_the_queue_says_when_each_job_will_be_painted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the running job and those before it; not while no job is started, nor where a time is not known."""
    lefts: dict[str, float | None] = {"b": 20.04, "c": 30.0, "d": None, "e": 1.0}
    monkeypatch.setattr(status, "Pace", lambda job, _rates: SimpleNamespace(eta_s=lambda: lefts[job.id]))
    jobs = [SimpleNamespace(id=id_, failure="x" if id_ == "f" else None) for id_ in "bfcde"]
    queue = [SimpleNamespace(id=job.id, label=f"{job.id}-1", job=job) for job in jobs]
    monkeypatch.setattr(desk.spool, "entries", lambda _state: queue)
    with _running(desk.attempts, _progress("a"), "a"):
        shown = [item["eta_s"] for item in desk.read()["queue"]]
        desk.situation.opens_at = "2026-03-02T22:00:00.000+01:00"
        assert {item["eta_s"] for item in desk.read()["queue"]} == {None}
    assert shown == [20.7, 20.7, 50.7, None, None]


def test_the_status_says_what_waits_and_why(desk: Desk) -> None:
    """Pauses make it `paused`, a closed window is named, and a thousand waiting files are only counted."""
    waiting = {f"{number}.yaml": "waiting for x.png" for number in range(1000)}
    desk.situation.report = Report(waiting=waiting)
    document = desk.read()
    assert document["state"] == "running"
    assert (len(document["waiting"]), document["waiting_count"]) == (200, 1000)
    assert document["waiting"][0] == {"path": "0.yaml", "reason": "waiting for x.png"}
    desk.situation.opens_at = "2026-03-02T22:00:00.000+01:00"
    desk.read()
    assert desk.sent[-1] == "0 queued, starting at 2026-03-02T22:00:00.000+01:00"
    desk.situation.backoff.pauses["outbox"] = Pause("outbox unavailable", PauseKind.UNAVAILABLE)
    document = desk.read()
    assert (document["state"], document["paused"]) == ("paused", {"outbox": "outbox unavailable"})
    assert len(desk.sent) == 2  # the reason of a pause stays to be read
    desk.situation.state = "stopping"
    assert desk.read()["state"] == "stopping"


def test_the_silent_threads_are_named_in_order(desk: Desk) -> None:
    """Past the limit, not at it; a thread of which nothing is expected is not silent."""
    desk.lives["worker"].beat()
    desk.lives["intake"].beat()
    desk.now = desk.status.limit_s
    assert desk.status.stalled == []
    desk.now += 0.001
    assert desk.read()["stalled"] == ["intake", "worker"]
    desk.lives["worker"].beat()
    assert desk.status.stalled == ["intake"]


def test_a_silent_thread_is_logged_once_and_stops_the_watchdog(desk: Desk) -> None:
    """No WATCHDOG while one is silent past the limit, one record for each silence, `stalled` in the status."""
    intake = desk.lives["intake"]
    intake.beat()
    with capture_logs() as records:
        for desk.now in (0, 150, 151, 152, 400):
            desk.status.turn()
        assert desk.fed == 2
        assert desk.read()["stalled"] == ["intake"]
        intake.beat()
        desk.status.turn()
        desk.now = 600
        desk.status.turn()
    assert desk.fed == 3
    stalled = [(record["event"], record["loops"], record["limit_s"]) for record in records]
    assert stalled == [("service.stalled", ["intake"], 150.0)] * 2


def test_a_spool_that_refuses_the_status_raises_after_the_watchdog_was_fed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service pauses; but the heartbeat was sent before."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        desk.status.turn()
    assert desk.fed == 1


def test_endings_are_counted(desk: Desk) -> None:
    """The status lists accepted, completed and failed jobs; a crash is for the metrics alone."""
    desk.situation.accepted += 1
    for ending in (Ending.COMPLETED, Ending.CRASHED, Ending.CRASHED, Ending.FAILED):
        desk.attempts.note(ending)
    assert desk.status.counts == Counts(accepted=1, completed=1, failed=1)
    assert desk.read()["run"] == {"accepted": 1, "completed": 1, "failed": 1}
    assert desk.attempts.endings == {"completed": 1, "crashed": 2, "failed": 1}
