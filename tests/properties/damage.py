"""Damaged bytes, as a bad disk or an attacker leaves them, and the limits under which they are read."""

from __future__ import annotations

import contextlib
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY_BYTES: Final = 3 << 30  # the least that the sandbox grants: a WebP reserves 2.1 GB for its canvases
LIMIT_S: Final = 2.0  # processor time for one input
HANGS_S: Final = 60  # processor time after which the kernel ends the process
HEADER_BYTES: Final = 80

NUMBERS: Final = st.builds(
    lambda size, order, number: (number % (1 << 8 * size)).to_bytes(size, order),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["little", "big"]),
    st.sampled_from([0, 1, -1, 2**7, 2**15, 2**31, 2**31 - 1, 2**63]) | st.integers(0, 2**64),
)


@st.composite
def damaged(draw: st.DrawFn, sources: st.SearchStrategy[bytes]) -> bytes:
    """Change up to ten places of a source, more often near its beginning, where headers are."""
    data = bytearray(draw(sources))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3, 5, 10]))):
        start = draw(st.integers(0, min(HEADER_BYTES, len(data))) | st.integers(0, len(data)))
        size = draw(st.sampled_from([0, 1, 2, 4, 8, 64, 500, len(data)]))
        old = bytes(data[start : start + size])
        match draw(st.sampled_from(["flip", "remove", "number", "zero", "repeat", "piece", "noise"])):
            case "flip":
                new = bytes([old[0] ^ 1 << draw(st.integers(0, 7)), *old[1:]]) if old else b""
            case "remove":
                new = b""
            case "number":
                new = draw(NUMBERS)
                old = old[: len(new)]
            case "zero":
                new = bytes(len(old) or 8)
            case "repeat":
                new = old * draw(st.sampled_from([2, 3, 50]))
            case "piece":
                other = draw(sources)
                begin = draw(st.integers(0, len(other)))
                new = other[begin : begin + (size or 30)] * draw(st.sampled_from([1, 20]))
            case _:
                new = draw(st.binary(min_size=1, max_size=8))
        data[start : start + len(old)] = new
    return bytes(data)


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Read one input within the sandbox's memory and `LIMIT_S` of processor time.

    A loop in C that no test can interrupt ends this process after `HANGS_S`; so does a crash of a decoder. The
    test keeps its last input in its temporary folder for both.
    """
    begun = time.process_time()
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {resource.RLIMIT_AS: mapped + MEMORY_BYTES, resource.RLIMIT_CPU: int(begun) + HANGS_S}
    former = {kind: resource.getrlimit(kind) for kind in limits}
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, former[kind][1]))
    try:
        yield
    finally:
        for kind, limits_before in former.items():
            resource.setrlimit(kind, limits_before)
    took_s = time.process_time() - begun
    assert took_s < LIMIT_S, f"it took {took_s:.1f} s of processor time"
