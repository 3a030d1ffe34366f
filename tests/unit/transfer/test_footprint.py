"""The memory of this process, and what a GPU has left, by a driver that is imitated: this machine has none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf

from daemon.engine.limits import resident_mb
from daemon.errors import EngineError, Reason
from daemon.transfer.backend import footprint

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable

CALLS = (
    *("cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"),
    *("cuCtxPushCurrent_v2", "cuMemGetInfo_v2", "cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2"),
)


class Driver:
    """Has GPU 1 with 6000 MB free of 8000; one of its calls may fail."""

    def __init__(self, failing: str) -> None:
        self.calls: list[str] = []
        self._failing = failing

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == "cuDeviceGet":
                assert arguments[1] == 1
            if name == "cuMemGetInfo_v2":
                for argument, found_mb in zip(arguments, (6000, 8000), strict=True):
                    argument._obj.value = found_mb << 20
            return int(name == self._failing)

        return call


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[int | None, list[str]]]:
    """Ask a driver of which one call fails; returns the answer and the calls."""
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda _name: {"peak": 500 << 20})

    def asked(failing: str = "") -> tuple[int | None, list[str]]:
        driver = Driver(failing)
        monkeypatch.setattr(footprint.ctypes, "CDLL", lambda _name: driver)
        return footprint.available_gpu_mb(1), driver.calls

    return asked


def test_what_is_free_and_what_is_held_may_be_used(ask: Callable[..., tuple[int | None, list[str]]]) -> None:
    """The answer is the driver's free memory and TensorFlow's own; the context is given back."""
    assert ask() == (6500, list(CALLS))


@pytest.mark.parametrize("failing", list(CALLS[:5]))
def test_a_driver_that_does_not_answer_leaves_it_unknown(
    ask: Callable[..., tuple[int | None, list[str]]], failing: str
) -> None:
    """Whichever call fails, nothing is known, and what was taken is given back."""
    found, calls = ask(failing)
    assert found is None
    assert ("cuDevicePrimaryCtxRelease_v2" in calls) is (failing in CALLS[3:])
    assert ("cuCtxPopCurrent_v2" in calls) is (failing == "cuMemGetInfo_v2")


def test_without_a_driver_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without CUDA tells nothing."""

    def missing(_name: str) -> ctypes.CDLL:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(footprint.ctypes, "CDLL", missing)
    assert footprint.available_gpu_mb(0) is None


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nwith a long list"),
        MemoryError(),
        MemoryError("Unable to allocate 3 GiB"),
    ],
)
def test_memory_that_runs_out_is_an_engine_error(error: Exception) -> None:
    """TensorFlow's and Python's out of memory are one reason, reported in one line."""
    with pytest.raises(EngineError) as caught, footprint.out_of_memory_as_engine_error():
        raise error
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert caught.value.message.startswith("memory ran out: ")
    assert "\n" not in caught.value.message


def test_other_errors_are_left_as_they_are() -> None:
    """An error that is not about memory passes unchanged."""
    with pytest.raises(ZeroDivisionError), footprint.out_of_memory_as_engine_error():
        raise ZeroDivisionError


def test_freed_memory_is_given_back() -> None:
    """What lies between pieces that are still held goes back to the system."""
    # 262 MB, each piece too small for a mapping of its own.
    pieces = [np.ones(64 << 10, np.uint8) for _ in range(4000)]
    held = pieces[::50]
    del pieces
    before = resident_mb(os.getpid())
    footprint.trim()
    assert before - resident_mb(os.getpid()) > 200
    assert len(held) == 80
