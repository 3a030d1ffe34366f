"""Every line that leaves the process is one JSON object, whoever speaks."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from typing import Any

import pytest

SPEAKERS = r"""
import logging, sys, threading, warnings
import numpy as np
from daemon import logs
logs.configure(*sys.argv[1:])
log = logs.get("daemon.test")
log.info("inbox.noticed", path="\udcff\n\x1b[31m", size=3, ratio=0.5, raw=b"x", kinds={1},
         loss=float("nan"), top=float("inf"))
log.debug("job.progressed", picture=np.zeros(2), loss=np.float32(1.5))
logging.getLogger("absl").warning("two\nlines %s", "\udcff")
logging.getLogger("some.library").info("said", extra={"port": 80})
logging.getLogger("some.library").debug("muttered")
warnings.warn("beware")
def fail(secret):
    raise ValueError("\udcff\n")
try:
    fail("SECRET")
except ValueError:
    log.exception("job.failed", job_id="1")
thread = threading.Thread(target=fail, args=("SECRET",))
thread.start()
thread.join()
fail("SECRET")
"""


def speak(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program in which everybody logs, and which ends in an uncaught exception."""
    return subprocess.run(
        [sys.executable, "-c", SPEAKERS, *arguments],
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    """Give every line as JSON, NaN and Infinity not being JSON."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    done = speak("debug", "json")
    assert done.stderr == b""
    return [json.loads(line, parse_constant=refuse) for line in done.stdout.splitlines()]


def test_every_line_begins_with_time_level_and_event(lines: list[dict[str, Any]]) -> None:
    """The keys every reader looks for come first, the time in UTC."""
    assert len(lines) == 8
    for line in lines:
        assert list(line)[:3] == ["timestamp", "level", "event"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])


def test_events_carry_their_values_raw(lines: list[dict[str, Any]]) -> None:
    """Numbers stay numbers, names keep their bytes, what JSON has no word for is text."""
    line = lines[0]

    assert (line["level"], line["event"]) == ("info", "inbox.noticed")
    assert (line["path"], line["size"], line["ratio"]) == ("\udcff\n\x1b[31m", 3, 0.5)
    assert (line["loss"], line["top"], line["raw"], line["kinds"]) == ("nan", "inf", "b'x'", "{1}")


def test_libraries_speak_under_one_event(lines: list[dict[str, Any]]) -> None:
    """Free text comes as a message of a countable event, with the library's name; its debug is dropped."""
    foreign = [line for line in lines if line["event"] == "library.logged"]

    assert [(line["level"], line["logger"]) for line in foreign] == [
        ("warning", "absl"),
        ("info", "some.library"),
        ("warning", "py.warnings"),
    ]
    assert foreign[0]["message"] == "two\nlines \udcff"
    assert (foreign[1]["message"], foreign[1]["port"]) == ("said", 80)
    assert "UserWarning: beware" in foreign[2]["message"]


def test_uncaught_exceptions_are_one_line_each(lines: list[dict[str, Any]]) -> None:
    """A defect in a thread or in the main program is logged with its traceback, and its frames' names."""
    crashes = [line for line in lines if line["event"] == "service.crashed"]

    assert len(crashes) == 2
    for line in crashes:
        assert line["level"] == "critical"
        assert line["error"] == "ValueError: \udcff\n"
        assert line["exception"][0]["frames"][-1]["name"] == "fail"
    assert speak("info", "json").returncode == 1


@pytest.mark.parametrize("format_", ["json", "console"])
def test_no_record_shows_local_variables(format_: str) -> None:
    """Tracebacks hold no values of variables, which may be what users dropped."""
    done = speak("debug", format_)

    assert b"ValueError" in done.stdout
    assert b"secret" not in done.stdout
    assert b"'SECRET'" not in done.stdout


def test_the_level_filters() -> None:
    """At `error`, only errors are left, libraries' included."""
    levels = [json.loads(line)["level"] for line in speak("error", "json").stdout.splitlines()]

    assert levels == ["error", "critical", "critical"]


def test_auto_is_json_where_stdout_is_no_terminal() -> None:
    """A pipe gets JSON."""
    done = speak("info", "auto")

    assert json.loads(done.stdout.splitlines()[0])["event"] == "inbox.noticed"


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_the_console_format_has_no_escapes_in_a_pipe(encoding: str) -> None:
    """Colors are for terminals; and no name, whatever the encoding, costs a record."""
    done = speak("debug", "console", PYTHONIOENCODING=encoding)

    assert b"\x1b" not in done.stdout
    assert done.stdout.count(b"service.crashed") == 2
    assert rb"\udcff" in done.stdout
    assert done.stderr == b""


def test_a_terminal_gets_colors() -> None:
    """`auto` on a terminal is the console's format, in color."""
    ours, theirs = pty.openpty()
    program = (
        "from daemon import logs; logs.configure('info', 'auto')\n"
        "logs.get('daemon').info('service.started', pid=1)"
    )
    subprocess.run([sys.executable, "-c", program], stdout=theirs, check=True, timeout=60)
    os.close(theirs)
    output = os.read(ours, 4096)
    os.close(ours)

    assert b"\x1b[" in output
    assert b"service.started" in output
    assert not output.startswith(b"{")


def test_a_log_that_cannot_be_written_is_reported_once() -> None:
    """On a full disk the first record's loss is one line on stderr; the program goes on."""
    code = (
        "from daemon import logs; logs.configure('info', 'auto')\n"
        "for _ in range(3): logs.get('x').info('inbox.noticed')\n"
        "logs.close()"
    )
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (0, "styletransferd: the log cannot be written\n")
