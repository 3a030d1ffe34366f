"""systemd's words: READY, STATUS, STOPPING over the socket that systemd names; silence without one."""

from __future__ import annotations

import os
import socket


def notify(**facts: str) -> bool:
    """Tell the service manager facts such as `READY="1"` or `STATUS="painting sunset"`.

    Returns:
        Whether a service manager was listening.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    path = "\0" + address[1:] if address.startswith("@") else address
    message = "\n".join(f"{key}={value.replace(chr(10), ' ')}" for key, value in facts.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(path)
            sender.sendall(message.encode("utf-8", "backslashreplace"))
    except OSError:
        return False  # a service manager that is gone is no reason to stop painting
    return True
