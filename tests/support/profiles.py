"""Color profiles made from their definition, and what their colors are in sRGB by NumPy alone."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

Colors = npt.NDArray[Any]

D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
# Chromaticities of red, green, blue and white.
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290))
DISPLAY_P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.3127, 0.3290))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), (0.3127, 0.3290))
GAMMA = 2.19921875  # of Adobe RGB, and a power of the kind that a profile can hold exactly
GRID = 9  # nodes of a CMYK table on each axis


def matrix(primaries: tuple[tuple[float, float], ...]) -> Colors:
    """Linear RGB to XYZ as seen from D50: (3, 3)."""
    *corners, white = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in primaries)
    to_xyz = np.stack(corners, 1)
    to_xyz = to_xyz * np.linalg.solve(to_xyz, white)
    scale = (_BRADFORD @ D50) / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ np.diag(scale) @ _BRADFORD @ to_xyz


def encoded(linear: Colors) -> Colors:
    """Linear light, 0 to 1, to sRGB levels, 0 to 255."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def rgb_in_srgb(levels: Colors, primaries: tuple[tuple[float, float], ...], gamma: float = GAMMA) -> Colors:
    """What colors (..., 3), 0 to 255, of a space are in sRGB."""
    xyz = (levels / 255) ** gamma @ matrix(primaries).T
    return encoded(xyz @ np.linalg.inv(matrix(SRGB)).T)


def gray_in_srgb(levels: Colors, gamma: float) -> Colors:
    """What gray levels (H, W), 0 to 255, are in sRGB: (H, W, 3)."""
    return np.repeat(encoded((levels / 255) ** gamma)[..., None], 3, -1)


def cmyk_in_srgb(inks: Colors) -> Colors:
    """What the inks (..., 4), 0 to 255, of `cmyk` are in sRGB."""
    return encoded(_paper(inks / 255))


def _paper(inks: Colors) -> Colors:
    """Linear sRGB of inks that let light through as filters do, somewhat unclean."""
    clean = (1 - 0.9 * inks[..., :3]) * (1 - 0.95 * inks[..., 3:])
    return np.clip(clean, 0, 1) ** 1.8


def _fixed(numbers: Colors) -> bytes:
    return b"".join(struct.pack(">i", round(float(number) * 65536)) for number in np.ravel(numbers))


def _curve(gamma: float) -> bytes:
    return b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))


def _profile(kind: bytes, space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Lay out a profile of version 2.4: header, table of tags, tags."""
    tags = {
        b"desc": b"desc" + struct.pack(">II", 0, 5) + b"test\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + _fixed(D50),
        **tags,
    }
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02400000, kind, space, b"XYZ ")
    header += struct.pack(">6H4s28x", 2026, 1, 1, 0, 0, 0, b"acsp") + _fixed(D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def rgb(primaries: tuple[tuple[float, float], ...], gamma: float = GAMMA) -> bytes:
    """Make a profile of three primaries and a power."""
    columns = matrix(primaries).T
    tags = {
        bytes([name]) + b"XYZ": b"XYZ " + bytes(4) + _fixed(xyz)
        for name, xyz in zip(b"rgb", columns, strict=True)
    }
    return _profile(b"mntr", b"RGB ", tags | {bytes([name]) + b"TRC": _curve(gamma) for name in b"rgb"})


def gray(gamma: float) -> bytes:
    """Make a profile of gray levels."""
    return _profile(b"mntr", b"GRAY", {b"kTRC": _curve(gamma)})


def cmyk(grid: int = GRID) -> bytes:
    """Make a profile of four inks: a table of `GRID`^4 nodes, whatever its header says."""
    axis = np.linspace(0, 1, GRID)
    nodes = np.array(list(itertools.product(axis, repeat=4)))
    xyz = _paper(nodes) @ matrix(SRGB).T
    table = np.rint(np.clip(xyz, 0, 1.9) * 32768).astype(">u2").tobytes()
    line = struct.pack(">HH", 0, 65535)
    head = struct.pack(">4sIBBBB", b"mft2", 0, 4, 3, grid, 0) + _fixed(np.eye(3)) + struct.pack(">HH", 2, 2)
    return _profile(b"prtr", b"CMYK", {b"A2B0": head + line * 4 + table + line * 3})
