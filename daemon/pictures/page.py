"""A page of small pictures with captions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.job import Picture

COLUMNS: Final = 3
_GAP: Final = 16
_LEAST_WIDTH, _CAPTION = 208, 60  # for three lines of text


def draw(tiles: Sequence[tuple[str, Any]], height: int, width: int) -> Picture:
    """Draw captions and pictures row by row, (H, W, 3); a place is blank where the picture is None.

    Pictures are (h, w, 3) or (h, w, 4), and fitted into (height, width). A caption that is too long is cut off.
    """
    import matplotlib as mpl  # noqa: PLC0415 - for its font alone: Pillow's own has no accents

    font = ImageFont.truetype(f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 13)
    across, down = max(width, _LEAST_WIDTH) + _GAP, height + _CAPTION + _GAP
    page = Image.new("RGB", (COLUMNS * across + _GAP, -(-len(tiles) // COLUMNS) * down + _GAP), "white")
    for place, (caption, picture) in enumerate(tiles):
        tile = Image.new("RGB", (across - _GAP, height + _CAPTION), "white")
        if picture is not None:
            image = ImageOps.contain(Image.fromarray(picture).convert("RGBA"), (width, height))
            tile.paste(image, mask=image)
        ImageDraw.Draw(tile).text((0, height + 4), caption, "#222222", font)
        page.paste(tile, (_GAP + place % COLUMNS * across, _GAP + place // COLUMNS * down))
    return np.asarray(page)
