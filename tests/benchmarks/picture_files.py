"""Pictures read and written as the product does it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from daemon import files
from daemon.pictures import decoding, encoding

if TYPE_CHECKING:
    from daemon.job import Picture

_MAX_MEGAPIXELS: Final = 200


def read(path: Path | str) -> Picture:
    """Decode a picture to (H, W, 3) uint8 RGB."""
    return decoding.read(Path(path), _MAX_MEGAPIXELS)


def write(path: Path | str, picture: Picture) -> None:
    """Write (H, W, 3) uint8 RGB as PNG."""
    files.replace(Path(path), encoding.encode(picture))
