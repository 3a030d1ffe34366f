"""What a GPU has left, by a driver that is imitated: this machine has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tensorflow as tf

from daemon.transfer.backend import gpu_memory

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
        monkeypatch.setattr(gpu_memory.ctypes, "CDLL", lambda _name: driver)
        return gpu_memory.available_mb(1), driver.calls

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

    monkeypatch.setattr(gpu_memory.ctypes, "CDLL", missing)
    assert gpu_memory.available_mb(0) is None
