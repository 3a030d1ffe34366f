"""Runs the service with the signals of the process turned into its stop flag and its reload.

The interpreter writes each signal's number into a pipe, and a thread reads it there: a handler that sets an
Event can deadlock with the very wait it interrupts, and blocked signals would still end the process by way of
the threads that NumPy's libraries start before anything here runs.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from typing import TYPE_CHECKING, Final

from daemon import logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import Config
    from daemon.service.service import Service

log = logs.get(__name__)

_PIPE_BYTES: Final = 1 << 16


def run(service: Service, reload: Callable[[], Config] | None) -> int:
    """Run a service, SIGTERM and SIGINT turned into its stop, SIGHUP into a reload; returns the exit code.

    `reload` reads the changed config, or raises ConfigError; without it, SIGHUP ends the service.
    """
    numbers, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)
    listen = functools.partial(_await_signals, service, numbers, reload)
    threading.Thread(target=service.guarded, args=("signals", listen), name="signals", daemon=True).start()
    return service.run()


def _await_signals(service: Service, pipe: int, reload: Callable[[], Config] | None) -> None:
    stops: list[int] = []
    while not stops:
        numbers = os.read(pipe, _PIPE_BYTES)  # all that came: a storm of reloads is one
        stops = [number for number in numbers if number != signal.SIGHUP or reload is None]
        if not stops and reload is not None:
            service.reload(reload)
    log.info("service.stop_requested", reason=signal.Signals(stops[0]).name)
    service.ask_stop()
    while len(stops) == 1:
        stops += [number for number in os.read(pipe, _PIPE_BYTES) if number != signal.SIGHUP]
    os._exit(0)  # asked twice: stop this instant; the spool recovers at the next start
