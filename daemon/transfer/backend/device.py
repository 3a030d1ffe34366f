"""The device and how it computes: chosen once, by facts and not by a clock, before TensorFlow touches it."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import tensorflow as tf

from daemon import processes
from daemon.errors import EngineError, NotReady, Reason
from daemon.transfer.backend import convolutions, processor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.job import Backward

_LEAST_GPU: Final = (8, 0)  # compute capability of the first GPUs that multiply in bfloat16


@dataclass(frozen=True)
class Chosen:
    """A device, and how it computes."""

    name: str
    precision: str  # float32 or bfloat16, of the convolutions; the rest is float32 in any case
    backward: Backward


def choose(wanted: str, wanted_precision: str, memory_limit_mb: int | None) -> Chosen:
    """Choose the device and set it up.

    float32 always means float32: TF32, which keeps 10 of its 23 bits, is switched off. A GPU takes memory as it
    needs it, or at most `memory_limit_mb`.

    Args:
        wanted: auto, cpu, gpu or gpu:N. A GPU that is asked for by name is never replaced by the CPU.
        wanted_precision: auto, float32 or bfloat16.
        memory_limit_mb: for a GPU only.

    Raises:
        NotReady: the GPU that is asked for is not there, or cannot be set up.
    """
    try:
        tf.config.experimental.enable_tensor_float_32_execution(False)  # noqa: FBT003 - positional in TensorFlow
        name, gpu = _prepare(wanted, memory_limit_mb)
        return Chosen(name, choose_precision(wanted_precision, gpu), convolutions.choose(gpu))
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        raise NotReady(f"engine.device {wanted}: {error}") from error


def _prepare(wanted: str, memory_limit_mb: int | None) -> tuple[str, Any | None]:
    """Make the wanted device the only one that TensorFlow sees; returns its name, and the GPU if it is one."""
    gpus = [] if wanted == "cpu" else tf.config.list_physical_devices("GPU")
    number = int(wanted.partition(":")[2] or 0)
    if wanted.startswith("gpu") and number >= len(gpus):
        found = f"{len(gpus)} found" if gpus else "none found"
        raise NotReady(
            f"engine.device is {wanted}, but TensorFlow sees no such GPU ({found}); "
            "see docs/operations.md on GPUs, or set engine.device: auto"
        )
    if not gpus:
        tf.config.set_visible_devices([], "GPU")
        return f"CPU ({processor.name()})", None
    return _set_up(gpus[number], number, memory_limit_mb), gpus[number]


def _set_up(gpu: Any, number: int, memory_limit_mb: int | None) -> str:
    tf.config.set_visible_devices([gpu], "GPU")
    if memory_limit_mb is None:
        tf.config.experimental.set_memory_growth(gpu, enable=True)
    else:
        limit = tf.config.LogicalDeviceConfiguration(memory_limit=memory_limit_mb)
        tf.config.set_logical_device_configuration(gpu, [limit])
    details = tf.config.experimental.get_device_details(gpu)
    return f"GPU:{number} ({details.get('device_name', 'unknown')})"


def choose_precision(wanted: str, gpu: Any | None) -> str:
    """Choose float32 or bfloat16; float16 never, since Gram matrices exceed its 65504.

    `auto` means bfloat16 where the hardware multiplies it. On a CPU that needs oneDNN as well: Eigen, which
    computes otherwise, converts every number and is slower than in float32. `gpu` is None for the CPU.
    """
    if wanted != "auto":
        return wanted
    if gpu is None:
        is_fast = processor.multiplies_bfloat16() and processor.uses_onednn()
    else:
        details = tf.config.experimental.get_device_details(gpu)
        is_fast = tuple(details.get("compute_capability", (0, 0))) >= _LEAST_GPU
    return "bfloat16" if is_fast else "float32"


def versions() -> dict[str, str]:
    """Name what computes, for the record."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("tensorflow", "keras", "numpy", "pillow")},
    }


_MALLOC_TRIM: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it


def begin_peak() -> None:
    """Reset the peak memory of this process, where the kernel allows it."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


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
