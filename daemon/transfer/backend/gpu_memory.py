"""The memory that a GPU has left, asked of CUDA's driver: TensorFlow knows only what it uses itself.

The driver counts GPUs as TensorFlow does, also with `CUDA_VISIBLE_DEVICES` and for a part of a GPU. NVML, the
other library that could be asked, counts them in another order.
"""

from __future__ import annotations

import ctypes
from typing import Any

import tensorflow as tf


def available_mb(number: int) -> int | None:
    """Give the memory of the n-th GPU that this process may grow to, in MB of 2^20 bytes; None where unknown.

    That is what is free, and what TensorFlow has taken already: it keeps what it needed once.
    """
    free_bytes = _free_bytes(number)
    if free_bytes is None:
        return None
    held_bytes = tf.config.experimental.get_memory_info("GPU:0")["peak"]  # the only one that is visible
    return int(free_bytes + held_bytes) >> 20


def _free_bytes(number: int) -> int | None:
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    is_held = not (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), number)
        or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)  # TensorFlow's own
    )
    if not is_held:
        return None
    try:
        return _free_bytes_in(cuda, context)
    finally:
        cuda.cuDevicePrimaryCtxRelease_v2(device)


def _free_bytes_in(cuda: Any, context: ctypes.c_void_p) -> int | None:
    free, total, popped = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_void_p()
    if cuda.cuCtxPushCurrent_v2(context):
        return None
    is_known = not cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    cuda.cuCtxPopCurrent_v2(ctypes.byref(popped))
    return free.value if is_known else None
