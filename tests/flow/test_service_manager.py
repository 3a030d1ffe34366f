"""The service under a service manager: what it says over a real notify socket, and what SIGHUP changes."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from support.fakes import FakeEngine
from support.running import END_S, Running, Runs
from support.trees import NearDecoder, Tree, named, wait_for

from daemon import clock, logs
from daemon import config as config_module
from daemon.inbox.intake import Inbox
from daemon.job import State
from daemon.outbox import summary
from daemon.service import intake_thread, service
from daemon.service import signals as signals_module
from daemon.service.service import Service
from daemon.service.systemd import notify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Live

    from daemon.job import Job, Step
    from daemon.lifeline import Lifeline

Facts = dict[str, str]  # of one datagram
LONG = {"iterations": 5000, "frames": {"every": 0}}


class Manager:
    """Listens as systemd does, and remembers what it heard and when."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.1)
        self._is_over = threading.Event()
        self.heard: list[tuple[float, Facts]] = []
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not self._is_over.is_set():
            try:
                text = self._socket.recv(1 << 16).decode()
            except TimeoutError:
                continue
            facts = dict(line.split("=", 1) for line in text.split("\n"))
            self.heard.append((time.monotonic(), facts))

    def words(self, *keys: str) -> list[str]:
        """Give what was said of some keys, in its order, as KEY=VALUE."""
        return [f"{key}={facts[key]}" for _, facts in self.heard for key in keys if key in facts]

    def until(self, word: str, count: int = 1, deadline_s: float = 60) -> None:
        """Wait until something was said so often."""
        key = word.partition("=")[0]
        wait_for(lambda: self.words(key).count(word) >= count, f"{word} {count} times", deadline_s)

    def until_fed(self, count: int = 2) -> None:
        """Wait for so many more heartbeats."""
        self.until("WATCHDOG=1", len(self.words("WATCHDOG")) + count)

    def close(self) -> None:
        """Hang up."""
        self._is_over.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """Listen, and have services of this test know of it."""
    made = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    yield made
    made.close()


# In a process of its own


def _rewrite(live: Live, **sections: dict[str, Any]) -> None:
    """Change keys of the config file."""
    raw = json.loads(live.config_file.read_text())
    for section, keys in sections.items():
        raw[section] = {**raw.get(section, {}), **keys}
    live.config_file.write_text(json.dumps(raw))


def _reload(live: Live, event: str = "service.reloaded") -> dict[str, Any]:
    """Send SIGHUP and give the record that answers it."""
    count = len(live.records(event))
    live.send(signal.SIGHUP)
    return live.until(event, count=count + 1)[-1]


def test_the_service_manager_gets_every_change_of_state(
    manager: Manager, make_quick: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    """READY once the model is loaded, WATCHDOG while idle and painting, RELOADING and READY, STOPPING last."""
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    quick = make_quick()
    (quick.base / "loading").touch()
    quick.start().until("service.started")
    assert manager.words("READY") == []
    (quick.base / "loading").unlink()
    quick.until_ready()
    manager.until("READY=1")
    manager.until_fed()

    quick.tree.drop("long", **LONG)
    quick.until("job.progressed", job="long", count=3)
    manager.until_fed()

    before = time.monotonic_ns() // 1000
    _reload(quick)
    manager.until("READY=1", count=2)
    reloading = [facts for _, facts in manager.heard if "RELOADING" in facts]
    assert [facts["RELOADING"] for facts in reloading] == ["1"]
    assert before < int(reloading[0]["MONOTONIC_USEC"]) < time.monotonic_ns() // 1000
    manager.until_fed()

    quick.send(signal.SIGTERM)
    assert quick.wait() == 0
    manager.until("STOPPING=1")
    said = manager.words("READY", "RELOADING", "STOPPING")
    assert said == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
    assert quick.records("service.stalled") == []
    assert quick.tree.spool.count(State.QUEUED) == 1


def test_sighup_applies_what_can_change_and_names_what_cannot(make_quick: Callable[..., Live]) -> None:
    """Settling, ignored names, house defaults and the log's level change at once; folders and device do not."""
    quick = make_quick(inbox={"settle_s": 0.3, "rescan_s": 0.5, "ignore": ["*.yaml"]}).start().until_ready()
    quick.tree.drop("sea")
    _rewrite(quick, inbox={"ignore": ["*.bak"]}, defaults={"seed": 7}, log={"level": "info"})
    _rewrite(quick, folders={"outbox": "elsewhere"}, engine={"device": "gpu", "max_attempts": 5})
    assert quick.records("inbox.noticed") == []

    record = _reload(quick)

    assert set(record["changed"]) == {"inbox.ignore", "defaults", "log.level", "engine.max_attempts"}
    ignored = {record["key"] for record in quick.records("service.key_ignored")}
    assert ignored == {"folders.outbox", "engine.device"}
    result = quick.completed("sea") / "result.yaml"
    assert "seed: 7" in result.read_text()
    records = quick.records()
    assert {one["level"] for one in records[: records.index(record)]} >= {"debug", "info"}
    after = records.index(quick.records("inbox.noticed")[0])  # the scan before it may have been logging
    assert "debug" not in {one["level"] for one in records[after:]}
    assert not (quick.base / "elsewhere").exists()

    quick.config_file.write_text("inbox: {settle: 1}\nlog: {level: loud}\n")
    refused = _reload(quick, "service.reload_refused")
    assert len(refused["faults"]) == 2
    assert any("did you mean 'settle_s'" in fault for fault in refused["faults"])
    quick.tree.drop("lake")
    assert "seed: 7" in (quick.completed("lake") / "result.yaml").read_text()
    quick.tree.check(is_quiet=True)


# In this process, so that a loop can be held up


@pytest.fixture
def tree(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Make a tree where operators are heard quickly too."""
    monkeypatch.setattr(intake_thread, "_OPERATORS_S", 0.02)
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # which is for a whole process
    return tree


def _assert_silent(manager: Manager, for_s: float) -> None:
    """Assert that no heartbeat comes for a while."""
    count = len(manager.words("WATCHDOG"))
    assert not threading.Event().wait(for_s)
    assert len(manager.words("WATCHDOG")) == count


@pytest.mark.parametrize("loop", ["intake", "worker"])
def test_the_watchdog_is_silent_while_a_loop_hangs(
    loop: str, tree: Tree, run: Runs, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the scan or the engine deadlocked nothing is fed, one record says so, and feeding resumes after."""
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    held, free, real = threading.Event(), threading.Event(), Inbox.look

    def hold(inbox: Inbox, now: float) -> Any:
        if held.is_set():
            free.wait()
        return real(inbox, now)

    def step(_step: Step) -> None:
        if held.is_set():
            free.wait()

    with capture_logs() as records:
        running = run(tree.config, FakeEngine(on_step=step))
        try:
            running.until_ready()
            manager.until_fed()
            if loop == "intake":
                monkeypatch.setattr(Inbox, "look", hold)
            held.set()
            if loop == "worker":
                tree.drop("sea")
            stalled = wait_for(lambda: named(records, "service.stalled"), "the stall", END_S)
            _assert_silent(manager, 1.5)
        finally:
            held.clear()
            free.set()
        manager.until_fed()
        running.stop()
    assert [record["loops"] for record in stalled] == [[loop]]
    assert len(named(records, "service.stalled")) == 1


def test_a_share_that_hangs_under_the_report_delays_nothing_else(
    tree: Tree, run: Runs, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile the watchdog is fed and a cancel ends its attempt; a stop waits a while for the report."""
    hung, free = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        hung.set()
        free.wait()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(summary, "read", hang)
    monkeypatch.setattr(service, "_REPORT_S", 0.1)
    with capture_logs() as records:
        running = run(tree.config, FakeEngine("hang"))
        try:
            tree.drop("sea")
            wait_for(hung.is_set, "the report to hang", END_S)
            manager.until_fed()
            (entry,) = wait_for(lambda: tree.spool.entries(State.RUNNING), "the attempt", END_S)
            tree.spool.ask_cancel(entry)
            wait_for(lambda: tree.spool.entries(State.FAILED), "the cancel to take effect", END_S)
            manager.until_fed()
            assert running.stop() == 0
        finally:
            free.set()
            for thread in threading.enumerate():
                if thread.name == "upkeep":
                    thread.join()
    failed, *_ = named(records, "service.report_failed")
    assert (failed["what"], failed["error"]) == ("summary", "the outbox does not answer")
    assert json.loads((tree.config.folders.spool / "status.json").read_bytes())["state"] == "stopped"


def test_status_names_the_loop_that_hangs(tree: Tree, run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """status.json is still written while the intake hangs, and says which loop does."""
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    free, real = threading.Event(), Inbox.look
    run(tree.config).until_ready()
    monkeypatch.setattr(Inbox, "look", lambda inbox, now: free.wait() and real(inbox, now))
    try:
        status = tree.config.folders.spool / "status.json"
        wait_for(lambda: json.loads(status.read_bytes())["stalled"] == ["intake"], "the status", END_S)
    finally:
        free.set()


def _hold_publication(service: Service) -> tuple[threading.Event, threading.Event]:
    """Give an event that is set once a result is about to be shown, and one that lets it be."""
    begun, free, real = threading.Event(), threading.Event(), service.outbox.publish

    def publish(job: Job, out: Path, life: Lifeline) -> Path:
        begun.set()
        free.wait()
        return real(job, out, life)

    service.outbox.publish = publish  # type: ignore[method-assign]
    return begun, free


def test_status_says_stopping_while_what_is_painted_is_brought_to_its_end(
    tree: Tree, run: Runs, manager: Manager
) -> None:
    """Until the last job is published status.json is kept and the watchdog fed; the last state is `stopped`."""
    running = run(tree.config).until_ready()
    begun, free = _hold_publication(running.service)
    status = tree.config.folders.spool / "status.json"
    tree.drop("sea")
    try:
        assert begun.wait(END_S)
        running.service.ask_stop()
        wait_for(lambda: json.loads(status.read_bytes())["state"] == "stopping", "the status", END_S)
        before = status.stat().st_mtime_ns
        wait_for(lambda: status.stat().st_mtime_ns > before, "the next status", END_S)
        manager.until_fed()
    finally:
        free.set()
    running.stop()
    last = json.loads(status.read_bytes())
    assert (last["state"], last["stalled"], last["run"]["completed"]) == ("stopped", [], 1)


def test_an_engine_that_takes_its_time_to_end_leaves_no_loop_to_be_missed(tree: Tree, run: Runs) -> None:
    """Heartbeats while the engine is stopped do not make the watchdog wait for more from the worker."""
    ended = threading.Event()

    class Slow(FakeEngine):
        def stop(self) -> None:
            running.service.lives["worker"].beat()
            super().stop()
            ended.set()

    running = run(tree.config, Slow()).until_ready()
    begun, free = _hold_publication(running.service)
    tree.drop("sea")
    try:
        assert begun.wait(END_S)
        running.service.ask_stop()
        assert ended.wait(END_S)
        lives = running.service.lives
        wait_for(lambda: _expected(lives) == ["publisher"], "the other threads' ends", END_S)
    finally:
        free.set()


def _expected(lives: dict[str, Lifeline]) -> list[str]:
    """The threads of which heartbeats are expected."""
    return [name for name, life in lives.items() if life.silence_s > 0]


def test_a_spool_that_refuses_does_not_silence_the_watchdog(
    tree: Tree, run: Runs, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trouble with the disk is waited out, not ended by the service manager: feeding goes on."""
    running = run(tree.config).until_ready()

    def refuse(_life: object) -> None:
        raise OSError(30, os.strerror(30), "asked")

    monkeypatch.setattr(running.service.settler, "end_cancelled", refuse)
    wait_for(lambda: "operators" in running.service.situation.paused, "the pause", END_S)
    manager.until_fed()
    assert running.service.situation.paused["operators"] == "Read-only file system: asked"


@pytest.mark.parametrize("moment", ["starting", "stopping"])
def test_a_reload_outside_of_the_run_says_nothing_of_ready(
    moment: str, tree: Tree, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGHUP while the model loads, or at the end, must not call the service ready."""
    service = Service(tree.config, engine=FakeEngine(), decoder=NearDecoder())
    service.situation.state = moment
    with capture_logs() as records:
        service.reload(lambda: tree.config)
    assert [record["event"] for record in records] == ["service.reloaded"]
    notify(STATUS="the last word")
    manager.until("STATUS=the last word")
    assert manager.words("READY", "RELOADING") == []


# What a reload reaches


def _adopt(running: Running, **sections: dict[str, Any]) -> None:
    """Lay keys over a service's config, as a changed file would."""
    config = running.service.config
    updates = {
        name: getattr(config, name).model_copy(update=keys) if name != "defaults" else keys
        for name, keys in sections.items()
    }
    running.service.reload(lambda: config.model_copy(update=updates))


def _until_waiting(running: Running, why: str) -> None:
    wait_for(lambda: running.service.situation.report.waiting.get("sea.yaml") == why, why, END_S)


def test_the_inbox_rules_apply_after_a_reload(tree: Tree, run: Runs) -> None:
    """A longer settle_s makes a drop wait, a shorter one lets it in, and keep_originals keeps the next one."""
    running = run(tree.config).until_ready()
    _adopt(running, inbox={"settle_s": 3600.0})
    tree.drop("sea")

    _until_waiting(running, "still being written")
    _adopt(running, inbox={"settle_s": 0.05, "keep_originals": True})
    wait_for(lambda: tree.spool.count(State.DONE) == 1, "the drop's end", END_S)
    wait_for(lambda: tree.left() == [], "the inbox to be cleared", END_S)
    kept = sorted(path.name for path in (tree.inbox / "_accepted").iterdir())
    assert kept == ["sea-style.png", "sea.jpg", "sea.yaml"]


def test_sidecars_are_read_again_when_the_defaults_change(tree: Tree, run: Runs) -> None:
    """A sidecar that was read, and waits for its picture, is accepted with the defaults of that moment."""
    running = run(tree.config).until_ready()
    sidecar = tree.drop("sea")
    picture = sidecar.with_name("sea.jpg")
    aside = picture.rename(tree.config.folders.spool / "aside")

    _until_waiting(running, "waiting for sea.jpg")
    _adopt(running, defaults={"seed": 11})
    aside.rename(picture)
    wait_for(lambda: tree.spool.count(State.DONE) == 1, "the drop's end", END_S)
    (entry,) = tree.spool.entries(State.DONE)
    assert entry.job.settings.seed == 11


def test_the_retention_applies_after_a_reload(tree: Tree, run: Runs) -> None:
    """A retention of no days forgets an ended job at once, not at the next full hour."""
    running = run(tree.config).until_ready()
    tree.drop("sea")
    wait_for(lambda: tree.spool.count(State.DONE) == 1, "the drop's end", END_S)
    wait_for(lambda: tree.spool.entries(State.DONE)[0].is_retired, "the originals to be retired", END_S)
    retention = running.service.config.outbox.retention_days.model_copy(update={"done": 0.0})
    _adopt(running, outbox={"retention_days": retention})
    wait_for(lambda: tree.spool.count(State.DONE) == 0, "the job to be forgotten", END_S)
    assert len(tree.results()) == 1


def test_the_window_applies_after_a_reload(tree: Tree, run: Runs) -> None:
    """A window that excludes this moment holds the next job back; none lets it run."""
    running = run(tree.config).until_ready()
    opens = (clock.local().hour + 2) % 24
    _adopt(running, schedule={"window": f"{opens:02d}:00-{opens:02d}:01"})
    wait_for(lambda: running.service.situation.opens_at, "the window to be closed", END_S)
    tree.drop("sea")
    wait_for(lambda: tree.spool.count(State.QUEUED) == 1, "the drop to be accepted", END_S)
    _adopt(running, schedule={"window": None})
    wait_for(lambda: tree.spool.count(State.DONE) == 1, "the drop's end", END_S)


def test_the_observer_can_be_switched_by_a_reload(tree: Tree, run: Runs) -> None:
    """`observer: auto` begins to watch, and `off` ends it, without a restart."""
    running = run(tree.config).until_ready()
    assert running.service.situation.is_watcher_up is None
    _adopt(running, inbox={"observer": "auto"})
    wait_for(lambda: running.service.situation.is_watcher_up, "the watcher", END_S)
    _adopt(running, inbox={"observer": "off"})
    wait_for(lambda: running.service.situation.is_watcher_up is None, "its end", END_S)


def test_the_attempts_apply_after_a_reload(tree: Tree, run: Runs) -> None:
    """A lower max_attempts bounds the very next crash."""
    running = run(tree.config, FakeEngine(*["crash"] * 9)).until_ready()
    _adopt(running, engine={"max_attempts": 1})
    tree.drop("sea")
    wait_for(lambda: tree.spool.count(State.FAILED) == 1, "the failure", END_S)
    (entry,) = tree.spool.entries(State.FAILED)
    assert entry.attempts_used == 1


def test_what_needs_a_restart_is_named_and_left(tree: Tree) -> None:
    """Folders, the engine and the largest picture stay, and are named; the rest is adopted."""
    running = tree.config
    read = config_module.build(
        {
            "folders": {"outbox": "elsewhere", "inbox": str(running.folders.inbox)},
            "engine": {"device": "cpu", "job_timeout_s": 9, "max_attempts": 8},
            "inbox": {"max_megapixels": 10, "max_file_mb": 1},
        },
        tree.inbox.parent,
        environment={},
    )
    merged, ignored = config_module.reloaded(running, read)
    assert ignored == ["folders.outbox", "inbox.max_megapixels", "engine.device", "engine.job_timeout_s"]
    assert merged.folders == running.folders
    assert merged.engine == running.engine.model_copy(update={"max_attempts": 8})
    assert (merged.inbox.max_megapixels, merged.inbox.max_file_mb) == (running.inbox.max_megapixels, 1)
    assert set(config_module.differences(running, merged)) == {
        *("inbox.settle_s", "inbox.rescan_s", "inbox.observer", "inbox.max_file_mb"),
        *("engine.max_attempts", "log.format"),
    }


@pytest.fixture
def signals() -> Iterator[None]:
    """Put back how this process takes signals."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_a_defect_in_a_reload_ends_the_service(tree: Tree) -> None:
    """A thread for signals that died would leave a service that no signal stops: better none at all."""
    made = Service(tree.config, engine=FakeEngine(), decoder=NearDecoder())

    def reload() -> Any:
        raise ZeroDivisionError

    def send() -> None:
        wait_for(lambda: made.situation.state == "running", "the service to be ready", END_S)
        os.kill(os.getpid(), signal.SIGHUP)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(ZeroDivisionError):
        signals_module.run(made, reload)
    sender.join()
