"""The device and how it computes: chosen once, by facts and not by a clock, before TensorFlow touches it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import tensorflow as tf
from tensorflow.python.util import _pywrap_util_port

from daemon.errors import NotReady

if TYPE_CHECKING:
    from daemon.job import Backward

_CPUINFO: Final = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS: Final = {"avx512_bf16", "amx_bf16"}
_LEAST_GPU: Final = (8, 0)  # compute capability of the first GPUs that multiply in bfloat16


@dataclass(frozen=True)
class Chosen:
    """A device, and how it computes."""

    name: str
    precision: str  # float32 or bfloat16, of the convolutions; the rest is float32 in any case
    backward: Backward


def choose(wanted: str, wanted_precision: str, memory_limit_mb: int | None) -> Chosen:
    """Choose the device and set it up.

    Wanted is auto, cpu, gpu or gpu:N; a GPU that is asked for by name is never replaced by the CPU. It takes
    memory as it needs it, or at most `memory_limit_mb`. The precision is auto, float32 or bfloat16; float32
    always means float32: TF32, which keeps 10 of its 23 bits, is switched off.

    Raises:
        NotReady: the GPU that is asked for is not there, or cannot be set up.
    """
    try:
        tf.config.experimental.enable_tensor_float_32_execution(False)  # noqa: FBT003 - positional in TensorFlow
        name, gpu = _prepare(wanted, memory_limit_mb)
        return Chosen(name, choose_precision(wanted_precision, gpu), choose_backward(gpu))
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
        return f"CPU ({processor_name()})", None
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
        is_fast = multiplies_bfloat16() and uses_onednn()
    else:
        details = tf.config.experimental.get_device_details(gpu)
        is_fast = tuple(details.get("compute_capability", (0, 0))) >= _LEAST_GPU
    return "bfloat16" if is_fast else "float32"


def choose_backward(gpu: Any | None) -> Backward:
    """Choose how gradients go back through a convolution (`operations`); `gpu` is None for the CPU."""
    return "gradient" if gpu is not None or uses_onednn() else "convolution"


def versions() -> dict[str, str]:
    """Name what computes, for the record."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("tensorflow", "keras", "numpy", "pillow")},
    }


def processor_name() -> str:
    """Name the processor."""
    return _cpuinfo("model name") or platform.machine()


def multiplies_bfloat16() -> bool:
    """Tell whether the processor has instructions that multiply bfloat16."""
    return bool(_BFLOAT16_FLAGS & set(_cpuinfo("flags").split()))


def uses_onednn() -> bool:
    """Tell whether TensorFlow computes convolutions by oneDNN on this processor; else Eigen does.

    TensorFlow decides once for a process (`IsMklEnabled` in tensorflow/core/util/port.cc, the same in 2.20 and
    2.21): TF_ENABLE_ONEDNN_OPTS where it is set, else by the processor. On Linux oneDNN is on with AVX512_VNNI,
    AVX512_BF16, AVX_VNNI, AMX or Neoverse V1; with plain AVX2 it is built in, but off.
    """
    return bool(_pywrap_util_port.IsMklEnabled())


def _cpuinfo(key: str) -> str:
    """Read one field of the first processor; empty where the kernel does not have it."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition("\t")[0] == key), "")
