"""Whether bfloat16 convolutions are worth it: the hardware must have them, and a short measurement agree."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import tensorflow as tf

from daemon.transfer.backend import timing
from daemon.transfer.backend.compile import compiled

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.transfer.backend.timing import Recall

_FLAGS: Final = {"avx512_bf16", "amx_bf16"}
_LEAST_GPU: Final = (8, 0)  # compute capability of the first GPUs that multiply in bfloat16
_LEAST_GAIN: Final = 1.2
_IMAGE: Final = (1, 64, 64, 256)
_KERNEL: Final = (3, 3, 256, 256)


class Precision(NamedTuple):
    """What the convolutions run in."""

    name: str  # float32 or bfloat16
    gain: float | None = None  # how many times as fast bfloat16 was, where that was measured


def choose(wanted: str, gpu: Any | None, recall: Recall = timing.measured_anew) -> Precision:
    """Choose the precision of the convolutions; Gram matrices, losses and optimiser are float32 in any case.

    float16 is never chosen: Gram matrices exceed its 65504.

    Args:
        wanted: auto, float32 or bfloat16.
        gpu: TensorFlow's physical device, or None for the CPU.
        recall: asked before anything is measured.
    """
    if wanted != "auto":
        return Precision(wanted)
    if not (_cpu_multiplies_bfloat16() if gpu is None else _gpu_multiplies_bfloat16(gpu)):
        return Precision("float32")
    gain = recall("bfloat16", lambda: measured_gain(gpu))
    return Precision("bfloat16" if gain >= _LEAST_GAIN else "float32", round(gain, 2))


def _cpu_multiplies_bfloat16() -> bool:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("flags"):
                return bool(_FLAGS & set(line.split()))
    return False


def _gpu_multiplies_bfloat16(gpu: Any) -> bool:
    details = tf.config.experimental.get_device_details(gpu)
    return tuple(details.get("compute_capability", (0, 0))) >= _LEAST_GPU


def measured_gain(gpu: Any | None) -> float:
    """Time a convolution of VGG19's middle in both precisions; returns how many times as fast bfloat16 is."""
    clock = time.process_time if gpu is None else time.perf_counter
    exact_s, fast_s = timing.fewest_s([_convolution(dtype) for dtype in (tf.float32, tf.bfloat16)], clock)
    return exact_s / fast_s


def _convolution(dtype: Any) -> Callable[[], object]:
    image, kernel = tf.ones(_IMAGE, dtype), tf.ones(_KERNEL, dtype)
    convolve = compiled(lambda: tf.reduce_sum(tf.nn.conv2d(image, kernel, 1, "SAME")), [])
    return lambda: convolve().numpy()
