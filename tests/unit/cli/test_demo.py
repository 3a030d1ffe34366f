"""`demo` in this process, with a service that runs a script: what it prints, and where its log goes."""

from __future__ import annotations

import json
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from daemon import files, logs
from daemon.cli.progress import Bar
from daemon.service import signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.service.service import Service

    Demo = Callable[..., Any]


@pytest.fixture
def own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what `logs.configure` changes in this process."""
    before = structlog.get_config()
    for target, name in (
        *((logging.getLogger(), name) for name in ("handlers", "level")),
        (logging.getLogger("daemon"), "level"),
        *((module, "excepthook") for module in (sys, threading)),
    ):
        monkeypatch.setattr(target, name, getattr(target, name))
    yield
    logging.captureWarnings(capture=False)
    structlog.configure(**before)


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_logging: None, command: Any) -> Demo:
    """Run the command with a service that publishes the given entries."""

    def run(*options: str, entries: tuple[str, ...] = (), code: int = 0, defect: bool = False) -> Any:
        def service(made: Service, _reload: object) -> int:
            config = made.config
            logs.get("daemon.test").info("service.started")
            if defect:
                raise ZeroDivisionError
            for name in entries:
                (config.folders.outbox / name).mkdir()
                (config.folders.outbox / name / "result.png").write_bytes(b"")
            return code

        monkeypatch.setattr(signals, "run", service)
        return command("demo", "--dir", str(tmp_path), *options)

    return run


def test_the_log_goes_to_a_file(demo: Demo, tmp_path: Path) -> None:
    """Without --verbose, stdout has only the path of the picture."""
    picture = tmp_path / "outbox" / "coffee-1" / "result.png"
    assert demo(entries=("coffee-1",)) == (0, f"The painted picture:\n{picture}\n", "")
    assert "service.started" in (tmp_path / "styletransferd.log").read_text("utf-8")


def test_verbose_shows_the_log(demo: Demo, tmp_path: Path) -> None:
    """With --verbose the log is on stdout, before the path."""
    done = demo("--verbose", entries=("coffee-1",))
    printed = done.out.splitlines()
    assert done.code == 0
    assert "service.started" in printed[0]
    assert printed[-1] == str(tmp_path / "outbox" / "coffee-1" / "result.png")
    assert not (tmp_path / "styletransferd.log").exists()


def test_a_demo_without_a_picture_names_its_log(demo: Demo, tmp_path: Path) -> None:
    """A service that was stopped, whose job failed, or that has a defect is one line on stderr and exit 1."""
    log = tmp_path / "styletransferd.log"
    for how in ({}, {"code": 1}, {"defect": True}):
        assert demo(**how) == (1, "", f"styletransferd: no picture was painted; the log is {log}\n")
    assert "ZeroDivisionError" in log.read_text("utf-8")


def test_a_failed_job_beside_the_picture_keeps_its_exit_code(demo: Demo) -> None:
    """An older demo's job that fails is not hidden by the picture of this one."""
    assert demo(entries=("coffee-1",), code=1).code == 1


def test_the_bar_follows_the_running_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_logging: None, command: Any
) -> None:
    """Iteration, iterations and loss come from the state that the service writes; none is no error."""
    shown: list[tuple[int, int, float | None]] = []
    has_shown = threading.Event()

    def show(_bar: Bar, *state: Any) -> None:
        shown.append(state)
        has_shown.set()

    def service(made: Service, _reload: object) -> int:
        made.spool.root.mkdir()
        status = made.spool.root / "status.json"
        for job in (None, {"iteration": 3, "iterations": 20, "loss": 0.5}):
            files.replace(status, json.dumps({"job": job}).encode())
        assert has_shown.wait(30)
        return 0

    monkeypatch.setattr(Bar, "show", show)
    monkeypatch.setattr(signals, "run", service)
    assert command("demo", "--dir", str(tmp_path)).code == 1
    assert shown[0] == (3, 20, 0.5)
