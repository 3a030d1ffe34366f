"""At which level what the engine's child prints is logged."""

from __future__ import annotations

import pytest

from daemon.engine import printed


@pytest.mark.parametrize(
    "line",
    [
        "2026-01-01 00:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on.",
        "2026-01-01 00:00:00.123456: W tensorflow/compiler/tf2tensorrt/utils/py_utils.cc:38] TF-TRT Warning",
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        "E0000 00:00:1700000000.000000    1 cuda_executor.cc:1] failed call to cuInit: INTERNAL: CUDA error",
        "2026-01-01 00:00:00.1: E external/xla/cuda_platform.cc:51] cuInit: CUDA_ERROR_NO_DEVICE",
        "This TensorFlow binary is optimized to use available CPU instructions where it counts.",
        "W0000 00:00:1700000000.000000    1 computation_placer.cc:177] computation placer already registered.",
        "I0000 00:00:1700000000.000000    1 port.cc:153] whatever it says",
    ],
)
def test_chatter_is_for_whoever_looks_for_a_defect(line: str) -> None:
    """What a machine without a GPU is told, and TensorFlow's information and warnings, are at debug."""
    assert printed.level(line) == "debug"


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("E0000 00:00:1700000000.000000    1 bfc_allocator.cc:1] out of memory", "info"),
        ("2026-01-01 00:00:00.123456: E tensorflow/core/a.cc:1] broken", "info"),
        ("F0000 00:00:1700000000.000000    1 a.cc:1] Check failed", "error"),
        ("2026-01-01 00:00:00.123456: F tensorflow/core/a.cc:1] Check failed", "error"),
        ("Traceback (most recent call last):", "info"),
        ("Fatal Python error: Aborted", "info"),
        ("I was printed by a library", "info"),
        ("Downloading data from https://example.org", "info"),
    ],
)
def test_errors_and_plain_words_stay_visible(line: str, level: str) -> None:
    """Errors of the logger, crash reports, and what is in no known format."""
    assert printed.level(line) == level
