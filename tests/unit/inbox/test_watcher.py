"""watchdog as an alarm clock, on a real folder."""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from trees import wait_for
from watchdog.observers import Observer

from daemon.inbox import watcher as module
from daemon.inbox.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# watchdog's own thread stumbles when it is stopped while it enters a new folder
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


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


def test_a_folder_made_anew_is_watched_anew(tmp_path: Path, watcher: Watcher, wake: threading.Event) -> None:
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


def test_the_alarm_does_nothing_but_wake() -> None:
    """The handler has one method, and no exception can come from it: it would end the observer's thread."""
    assert [name for name in vars(module._Alarm) if name.startswith("on_")] == ["on_any_event"]
