"""A contact sheet: all pictures side by side in one image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CELL_PX: Final = 512
CAPTION_PX: Final = 28
GAP_PX: Final = 8
FONT_PX: Final = 17


def write(output: Path, rows: Sequence[Sequence[tuple[Path, str]]]) -> None:
    """Write rows of pictures with a caption below each; a picture keeps its aspect and fits its cell."""
    heights = [max(_fitted(path).height for path, _ in row) for row in rows]
    width = max(len(row) for row in rows) * (CELL_PX + GAP_PX) + GAP_PX
    height = sum(heights) + len(rows) * (CAPTION_PX + GAP_PX) + GAP_PX
    image = Image.new("RGB", (width, height), "white")
    draw, font, top = ImageDraw.Draw(image), ImageFont.load_default(FONT_PX), GAP_PX
    for row, row_height in zip(rows, heights, strict=True):
        for column, (path, caption) in enumerate(row):
            left = GAP_PX + column * (CELL_PX + GAP_PX)
            image.paste(_fitted(path), (left, top))
            draw.text((left, top + row_height + 4), caption, "black", font)
        top += row_height + CAPTION_PX + GAP_PX
    image.save(output)


def _fitted(path: Path) -> Image.Image:
    with Image.open(path) as image:
        scale = CELL_PX / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
