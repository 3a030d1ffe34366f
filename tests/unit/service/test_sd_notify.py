"""Facts are sent over systemd's socket, and its watchdog's period is read; without them nothing happens."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from daemon.service.systemd import DEFAULT_LIMIT_S, limit_s, notify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """Listen as a service manager does, on a socket in the file system or an abstract one."""
    is_abstract = request.param == "abstract"
    address = f"@styletransferd-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(10)
        listener.bind("\0" + address[1:] if is_abstract else address)
        yield listener


def test_facts_arrive_as_lines_of_one_datagram(manager: socket.socket) -> None:
    """READY and STATUS come together, in their order."""
    notify(READY="1", STATUS="watching the inbox")

    assert manager.recv(4096) == b"READY=1\nSTATUS=watching the inbox"


def test_odd_names_do_not_break_the_message(manager: socket.socket) -> None:
    """A line break cannot add a fact of its own, and bytes that are no UTF-8 are escaped."""
    notify(STATUS="painting \udcff\nMAINPID=1 ä")

    assert manager.recv(4096) == "STATUS=painting \\udcff MAINPID=1 ä".encode()


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_socket_nobody_listens(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by hand, the service is silent."""
    if value is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", value)

    notify(READY="1")


@pytest.mark.parametrize("address", ["/nonexistent/notify", "@styletransferd-nobody", "/" + "x" * 200])
def test_a_manager_that_is_gone_is_no_reason_to_stop(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing socket, or an address that cannot be one, is survived."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)

    notify(READY="1")


def test_a_manager_that_hung_up_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket file without a listener is survived."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

    notify(READY="1")


# The watchdog


@pytest.mark.parametrize(
    ("microseconds", "expected_s"),
    [
        ("300000000", 150.0),
        ("2000000", 1.0),
        ("1", 5e-7),
        ("0", DEFAULT_LIMIT_S),
        ("", DEFAULT_LIMIT_S),
        ("-5", DEFAULT_LIMIT_S),
        ("2e6", DEFAULT_LIMIT_S),
        ("much", DEFAULT_LIMIT_S),
        (None, DEFAULT_LIMIT_S),
    ],
)
def test_the_limit_is_half_of_the_watchdogs_period(
    microseconds: str | None, expected_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of WATCHDOG_USEC, in seconds; without one, or with one that says nothing, the default."""
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    if microseconds is not None:
        monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    assert limit_s() == expected_s


@pytest.mark.parametrize(
    ("whose", "expected_s"), [("ours", 1.0), ("another's", DEFAULT_LIMIT_S), ("no one's", DEFAULT_LIMIT_S)]
)
def test_another_processs_watchdog_is_not_ours(
    whose: str, expected_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WATCHDOG_PID names whose watchdog it is; an inherited one of another process is passed over."""
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    pids = {"ours": str(os.getpid()), "another's": str(os.getpid() + 1), "no one's": ""}
    monkeypatch.setenv("WATCHDOG_PID", pids[whose])
    assert limit_s() == expected_s
