"""systemd is told over its socket; without one nothing happens."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from daemon.service.systemd import notify

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
    assert notify(READY="1", STATUS="watching the inbox")

    assert manager.recv(4096) == b"READY=1\nSTATUS=watching the inbox"


def test_odd_names_do_not_break_the_message(manager: socket.socket) -> None:
    """A line break cannot add a fact of its own, and bytes that are no UTF-8 are escaped."""
    assert notify(STATUS="painting \udcff\nMAINPID=1 ä")

    assert manager.recv(4096) == "STATUS=painting \\udcff MAINPID=1 ä".encode()


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_socket_nobody_listens(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by hand, the service is silent."""
    if value is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", value)

    assert not notify(READY="1")


@pytest.mark.parametrize("address", ["/nonexistent/notify", "@styletransferd-nobody", "/" + "x" * 200])
def test_a_manager_that_is_gone_is_no_reason_to_stop(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing socket, or an address that cannot be one, is survived."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)

    assert not notify(READY="1")


def test_a_manager_that_hung_up_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket file without a listener is survived."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

    assert not notify(READY="1")
