"""The memory that this process holds, and what its GPU has left.

For the latter CUDA's driver is asked, since TensorFlow knows only what it uses itself. The driver counts GPUs
as TensorFlow does, also with `CUDA_VISIBLE_DEVICES` and for a part of a GPU; NVML counts them in another order.
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Final

import tensorflow as tf

from daemon import processes
from daemon.errors import EngineError, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

_MALLOC_TRIM: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it


def begin_peak() -> None:
    """Reset the peak memory of this process, where the kernel allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mb() -> int | None:
    """Give the peak resident memory of this process since, in MB of 2^20 bytes; None where it is unknown."""
    with contextlib.suppress(OSError, StopIteration):
        return processes.kilobytes(Path("/proc/self/status"), "VmHWM") // 1024
    return None


def trim() -> None:
    """Return to the system what the C library keeps of freed memory, where it is glibc.

    Freed tensors of up to 32 MB stay with the process, between those that are still held: after the tiles of a
    picture of 2048 x 1536 px, 280 MB. Looking for them takes 0.03 s then.
    """
    if _MALLOC_TRIM is not None:
        _MALLOC_TRIM(0)


@contextlib.contextmanager
def out_of_memory_as_engine_error() -> Iterator[None]:
    """Raise an `EngineError` with the reason out_of_memory if memory runs out."""
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        message = f"memory ran out: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        raise EngineError(message, Reason.OUT_OF_MEMORY) from error


def available_gpu_mb(number: int) -> int | None:
    """Give the memory of the n-th GPU that this process may grow to, in MB of 2^20 bytes; None where unknown.

    That is what is free, and what TensorFlow has taken already: it keeps what it needed once.
    """
    free_bytes = _free_gpu_bytes(number)
    if free_bytes is None:
        return None
    held_bytes = tf.config.experimental.get_memory_info("GPU:0")["peak"]  # the only one that is visible
    return int(free_bytes + held_bytes) >> 20


def _free_gpu_bytes(number: int) -> int | None:
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, context, free, total = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), number)
        or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)  # TensorFlow's own
    )
    if failed:
        return None
    if not (failed := cuda.cuCtxPushCurrent_v2(context)):
        failed = cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        cuda.cuCtxPopCurrent_v2(ctypes.byref(context))
    cuda.cuDevicePrimaryCtxRelease_v2(device)
    return None if failed else free.value
