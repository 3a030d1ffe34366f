"""Facts about the processor, and about what TensorFlow does on it, that decide how to compute."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

from tensorflow.python.util import _pywrap_util_port

_CPUINFO: Final = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS: Final = {"avx512_bf16", "amx_bf16"}


def name() -> str:
    """Name the processor."""
    return _field("model name") or platform.machine()


def multiplies_bfloat16() -> bool:
    """Tell whether the processor has instructions that multiply bfloat16."""
    return bool(_BFLOAT16_FLAGS & set(_field("flags").split()))


def uses_onednn() -> bool:
    """Tell whether TensorFlow computes convolutions by oneDNN on this processor; else Eigen does.

    TensorFlow decides once for a process (`IsMklEnabled` in tensorflow/core/util/port.cc, the same in 2.20 and
    2.21): TF_ENABLE_ONEDNN_OPTS where it is set, else by the processor. On Linux oneDNN is on with AVX512_VNNI,
    AVX512_BF16, AVX_VNNI, AMX or Neoverse V1; with plain AVX2 it is built in, but off.
    """
    return bool(_pywrap_util_port.IsMklEnabled())


def _field(key: str) -> str:
    """Read one field of the first processor; empty where the kernel does not have it."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition("\t")[0] == key), "")
