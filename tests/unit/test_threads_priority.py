"""A thread that stands back."""

from __future__ import annotations

import os
import threading

from daemon.processes import yield_to_others


def test_one_thread_stands_back_and_no_other() -> None:
    """The calling thread asks for less of the processors than before; the rest of the process does not."""
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    found: list[int] = []

    def work() -> None:
        yield_to_others(19)
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [19]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
