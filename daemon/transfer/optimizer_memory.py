"""How many pictures an optimizer keeps; apart from it, so that the daemon need not import TensorFlow."""

from __future__ import annotations

from typing import Final

PICTURE_BYTES: Final = 3 * 4  # a pixel of (1, H, W, 3) float32

# L-BFGS keeps ten pairs of pictures, and five of a picture so large that ten would take gigabytes.
HISTORY: Final = 10
LARGE_HISTORY: Final = 5
LARGE_PX: Final = 4_000_000


def kept_pairs(pixels: int) -> int:
    """Give the number of pairs that L-BFGS keeps."""
    return HISTORY if pixels <= LARGE_PX else LARGE_HISTORY


def state_bytes(optimizer: str, pixels: int) -> int:
    """Count the bytes of a checkpoint: the picture, the next one, the best one, and the optimizer's own."""
    own = 2 if optimizer == "adam" else 2 + 2 * kept_pairs(pixels)
    return (3 + own) * PICTURE_BYTES * pixels
