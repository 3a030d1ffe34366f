"""`demo` in this process, with a service that runs a script: what it prints, and where its log goes."""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from daemon import logs
from daemon.cli import main
from daemon.service import signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.config import Config

    Demo = Callable[..., int]


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
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_logging: None) -> Demo:
    """Run the command with a service that publishes the given entries; returns the exit code."""

    def run(*options: str, entries: tuple[str, ...] = (), code: int = 0, defect: bool = False) -> int:
        def service(config: Config, **_options: Any) -> int:
            logs.get("daemon.test").info("service.started")
            if defect:
                raise ZeroDivisionError
            for name in entries:
                (config.folders.outbox / name).mkdir()
                (config.folders.outbox / name / "result.png").write_bytes(b"")
            return code

        monkeypatch.setattr(signals, "run", service)
        monkeypatch.setattr(sys, "argv", ["styletransferd", "demo", "--dir", str(tmp_path), *options])
        with pytest.raises(SystemExit) as ended:
            main.main()
        return int(ended.value.code or 0)

    return run


def test_the_log_goes_to_a_file(demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --verbose, stdout has only the path of the picture."""
    assert demo(entries=("coffee-1",)) == 0
    printed = capsys.readouterr()
    picture = tmp_path / "outbox" / "coffee-1" / "result.png"
    assert (printed.out, printed.err) == (f"The painted picture:\n{picture}\n", "")
    assert "service.started" in (tmp_path / "styletransferd.log").read_text("utf-8")


def test_verbose_shows_the_log(demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --verbose the log is on stdout, before the path."""
    assert demo("--verbose", entries=("coffee-1",)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "service.started" in printed[0]
    assert printed[-1] == str(tmp_path / "outbox" / "coffee-1" / "result.png")
    assert not (tmp_path / "styletransferd.log").exists()


def test_a_demo_without_a_picture_names_its_log(
    demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service that was stopped, whose job failed, or that has a defect is one line on stderr and exit 1."""
    log = tmp_path / "styletransferd.log"
    for how in ({}, {"code": 1}, {"defect": True}):
        assert demo(**how) == 1
        printed = capsys.readouterr()
        assert (printed.out, printed.err) == ("", f"styletransferd: no picture was painted; the log is {log}\n")
    assert "ZeroDivisionError" in log.read_text("utf-8")


def test_a_failed_job_beside_the_picture_keeps_its_exit_code(demo: Demo) -> None:
    """An older demo's job that fails is not hidden by the picture of this one."""
    assert demo(entries=("coffee-1",), code=1) == 1
