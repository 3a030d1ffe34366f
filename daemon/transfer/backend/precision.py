"""The precision of the convolutions; Gram matrices, losses and optimizer are float32 in any case."""

from __future__ import annotations

from typing import Any, Final

import tensorflow as tf

from daemon.transfer.backend import processor

_LEAST_GPU: Final = (8, 0)  # compute capability of the first GPUs that multiply in bfloat16


def choose(wanted: str, gpu: Any | None) -> str:
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
