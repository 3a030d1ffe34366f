"""watchdog as an alarm clock, on a real folder."""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from support.fakes import FakeEngine
from support.trees import NearDecoder, Tree, hasten, wait_for
from watchdog.observers import Observer
from watchdog.observers.inotify_c import InotifyFD

from daemon.inbox import watcher as module
from daemon.inbox.watcher import Watcher
from daemon.service.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from watchdog.observers.api import BaseObserver

    from daemon.config import Config

# watchdog warns of a folder that it meets twice while it enters it; as an error that would end its reader
pytestmark = pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")


@pytest.fixture
def wake() -> threading.Event:
    """Make the flag."""
    return threading.Event()


@pytest.fixture
def watcher(tmp_path: Path, wake: threading.Event) -> Iterator[Watcher]:
    """Watch a folder that is there, from before the test to after it."""
    (tmp_path / "inbox").mkdir()
    made = Watcher(tmp_path / "inbox", wake)
    made.ensure()
    wake.clear()
    yield made
    made.stop()


@pytest.mark.parametrize("name", ["a.png", "-deep/er/a.png"])
def test_a_new_file_sets_the_flag(name: str, tmp_path: Path, watcher: Watcher, wake: threading.Event) -> None:
    """A file that appears anywhere below the folder wakes the intake."""
    path = tmp_path / "inbox" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert wake.wait(5)


def test_reading_does_not_set_the_flag(tmp_path: Path, watcher: Watcher, wake: threading.Event) -> None:
    """Our own scan, which opens and closes, does not wake us; the next write does."""
    path = tmp_path / "inbox" / "a.png"
    path.write_bytes(b"x")
    assert wake.wait(5)
    wait_for(lambda: _is_calm(wake), "the events of the write to pass")
    path.read_bytes()
    assert not wake.wait(0.3)
    path.write_bytes(b"y")
    assert wake.wait(5)


def _is_calm(wake: threading.Event) -> bool:
    wake.clear()
    return not wake.wait(0.2)


def test_a_folder_made_again_is_watched_again(tmp_path: Path, watcher: Watcher, wake: threading.Event) -> None:
    """A folder removed and made again kills watchdog's emitter; the next `ensure` watches again."""
    shutil.rmtree(tmp_path / "inbox")
    wait_for(lambda: not watcher.is_up, "the emitter to die")
    (tmp_path / "inbox").mkdir()
    watcher.ensure()
    assert watcher.is_up
    assert wake.is_set()  # what came meanwhile is looked for
    wake.clear()
    (tmp_path / "inbox" / "a.png").write_bytes(b"x")
    assert wake.wait(5)


def test_inotifys_limits_are_not_fatal(
    tmp_path: Path, wake: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no watch can be had, one warning says that the rescan remains, and a later `ensure` may succeed."""

    def refuse(self: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    with monkeypatch.context() as patch, capture_logs() as records:
        patch.setattr(Observer, "start", refuse)
        watcher = Watcher(tmp_path, wake)
        watcher.ensure()
        assert not watcher.is_up
    assert [record["event"] for record in records] == ["inbox.watch_failed"]
    watcher.ensure()
    assert watcher.is_up
    watcher.stop()
    assert not watcher.is_up


@pytest.mark.parametrize("place", ["the instance", "the watch", "the thread"])
def test_a_refused_resource_is_logged_once_and_leaves_nothing_behind(
    place: str, tmp_path: Path, wake: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is tried in vain: one warning for one reason, and no thread or descriptor more."""
    errors: dict[str, Exception] = {
        "the instance": OSError(24, "inotify instance limit reached"),
        "the watch": OSError(28, "inotify watch limit reached"),
        "the thread": RuntimeError("can't start new thread"),
    }

    def refuse(*_: object) -> None:
        raise errors[place]

    watcher = Watcher(tmp_path, wake)
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch, capture_logs() as records:
        if place == "the instance":
            patch.setattr(InotifyFD, "_create_inotify_fd", refuse)
        elif place == "the watch":
            patch.setattr(InotifyFD, "_get_or_create_watch", refuse)
        else:
            patch.setattr(Observer, "start", refuse)
        for _ in range(20):
            watcher.ensure()
            assert not watcher.is_up
    assert [record["event"] for record in records] == ["inbox.watch_failed"]
    assert records[0]["error"] == str(errors[place])
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before
    with capture_logs() as records:
        watcher.ensure()
    assert [(record["event"], record["is_restart"]) for record in records] == [("inbox.watched", False)]
    watcher.stop()


def test_another_reason_is_logged_and_so_is_the_same_after_a_success(
    tmp_path: Path, wake: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning is left out only where the one before it said the same."""
    errors = iter([28, 28, 24, 24, 0, 24])

    def start(observer: BaseObserver) -> None:
        number = next(errors)
        if number:
            raise OSError(number, os.strerror(number))
        real(observer)

    real = Observer.start
    monkeypatch.setattr(Observer, "start", start)
    watcher = Watcher(tmp_path, wake)
    with capture_logs() as records:
        for _ in range(5):
            watcher.ensure()
        watcher.stop()
        watcher.ensure()
    events = [record["event"].removeprefix("inbox.") for record in records]
    assert events == ["watch_failed", "watch_failed", "watched", "watch_failed"]


@pytest.mark.parametrize("part", ["observer", "emitter", "reader"])
def test_a_thread_that_died_is_noticed_and_replaced(
    part: str, tmp_path: Path, watcher: Watcher, wake: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of watchdog's three threads ends, the watcher is not up; `ensure` makes a new one that is."""
    observer = watcher._observer
    (emitter,) = observer.emitters
    reader = emitter._inotify_fd  # type: ignore[attr-defined]
    if part == "observer":
        observer.stop()
    elif part == "emitter":
        emitter.stop()
    else:
        reader._stopped_event.set()
        (tmp_path / "inbox" / "event.png").write_bytes(b"x")
    thread = {"observer": observer, "emitter": emitter, "reader": reader}[part]
    thread.join(5)
    assert not thread.is_alive()
    assert not watcher.is_up
    with capture_logs() as records:
        watcher.ensure()
    assert [(record["event"], record["is_restart"]) for record in records] == [("inbox.watched", True)]
    assert watcher.is_up
    assert wake.is_set()
    wait_for(lambda: _is_calm(wake), "the events to pass")
    (tmp_path / "inbox" / "a.png").write_bytes(b"x")
    assert wake.wait(5)
    assert not any(old.is_alive() for old in (observer, emitter, reader))


def test_many_folders_made_while_it_stops_end_no_thread_loudly(
    tmp_path: Path, wake: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To stop while watchdog enters new folders raises nothing in any of its threads, and leaves none."""
    raised: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    before = threading.active_count()
    for number in range(30):
        inbox = tmp_path / str(number)
        inbox.mkdir()
        watcher = Watcher(inbox, wake)
        watcher.ensure()
        for name in range(number % 5):
            (inbox / f"{name}/b/c").mkdir(parents=True)
        watcher.stop()
    assert raised == []
    assert threading.active_count() == before


def test_a_service_notices_drops_in_an_inbox_made_again(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An inbox removed and made again, sentinel and all, pauses the service, is watched again, and works."""
    hasten(monkeypatch)
    tree = Tree(make_config(inbox={"settle_s": 0.05, "rescan_s": 0.2}))
    tree.inbox.mkdir()
    service = Service(tree.config, engine=FakeEngine(), decoder=NearDecoder())
    thread = threading.Thread(target=service.run)
    with capture_logs() as records:
        thread.start()
        try:
            wait_for(lambda: service.situation.state == "running", "the start", 20)
            shutil.rmtree(tree.inbox)
            wait_for(lambda: "inbox" in service.situation.paused, "the pause", 20)
            tree.inbox.mkdir()
            (tree.inbox / ".styletransferd-inbox").touch()
            tree.drop("sea")
            wait_for(lambda: len(tree.results()) == 1, "the picture", 20)
            wait_for(lambda: service.situation.is_watcher_up, "the watcher", 20)
        finally:
            service.ask_stop()
            thread.join(20)
    events = [(record["event"], record.get("is_restart")) for record in records]
    assert events.count(("inbox.watched", False)) == 1
    assert events.count(("inbox.watched", True)) >= 1
    assert len([event for event, _ in events if event == "inbox.watch_failed"]) <= 2
    assert "service.crashed" not in {event for event, _ in events}
    tree.check(is_quiet=True)


def test_the_alarm_does_nothing_but_wake() -> None:
    """The handler has one method, and no exception can come from it: it would end the observer's thread."""
    assert [name for name in vars(module._Alarm) if name.startswith("on_")] == ["on_any_event"]
