"""sd_notify: READY, STATUS, STOPPING over the socket that systemd names, and the limit of its watchdog."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

DEFAULT_LIMIT_S: Final = 150.0


def notify(**facts: str) -> None:
    """Send facts such as `READY="1"` or `STATUS="painting sunset"` to the service manager, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    path = "\0" + address[1:] if address.startswith("@") else address
    message = "\n".join(f"{key}={value.replace(chr(10), ' ')}" for key, value in facts.items())
    with (
        contextlib.suppress(OSError),  # a service manager that is gone is no reason to stop painting
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
    ):
        sender.connect(path)
        sender.sendall(message.encode("utf-8", "backslashreplace"))


def limit_s() -> float:
    """Give the seconds without a heartbeat after which the watchdog is no longer fed: half of its period."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    has_period = microseconds.isdecimal() and int(microseconds) > 0
    return int(microseconds) / 2e6 if has_period and is_ours else DEFAULT_LIMIT_S
