"""A contact sheet: rows of captioned pictures on paper, over one line of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from daemon.pictures import encoding, resampling

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from daemon.job import Picture

_WIDTH, _MARGIN, _GAP, _LINE = 1800, 72, 24, 30  # px
_TALLEST, _LARGEST_SCALE = 900, 2  # px of a row, and how far small pictures are enlarged
_PAPER, _INK, _FAINT = "#faf9f6", "#1d1c1a", "#77726a"


def read(path: Path) -> Picture:
    """Read one of our own frames, no larger than the sheet needs: (H, W, 3) uint8."""
    with Image.open(path) as image:
        return resampling.reduced(np.asarray(image.convert("RGB")), _TALLEST)


def sheet(rows: Sequence[Sequence[tuple[str, Picture]]], text: str) -> bytes:
    """Lay out pictures (H, W, 3) with their captions, each row at one height: a PNG of 1800 px width."""
    fitted = [_fitted(row) for row in rows if row]
    bottom = _MARGIN + sum(len(row[0][1]) + 2 * _LINE for row in fitted)
    image = Image.new("RGB", (_WIDTH, bottom + _LINE + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(image)
    small, plain = ImageFont.load_default(20), ImageFont.load_default(24)
    top = _MARGIN
    for row in fitted:
        left = _MARGIN
        for caption, picture in row:
            height, width = picture.shape[:2]
            image.paste(Image.fromarray(picture), (left, top))
            draw.text((left, top + height + 8), caption, _FAINT, small)
            left += width + _GAP
        top += height + 2 * _LINE
    text = text[: _WIDTH // 4]  # more never fits, and measuring it again and again would take hours
    while plain.getlength(text) > _WIDTH - 2 * _MARGIN:
        text = text[:-4] + "..."
    draw.text((_MARGIN, bottom), text, _INK, plain)
    return encoding.encode(np.asarray(image))


def _fitted(row: Sequence[tuple[str, Picture]]) -> Sequence[tuple[str, Picture]]:
    """Scale the pictures of a row to the height at which they fill the width."""
    ratios = [picture.shape[1] / picture.shape[0] for _, picture in row]
    room = _WIDTH - 2 * _MARGIN - _GAP * (len(row) - 1)
    most = min(_TALLEST, _LARGEST_SCALE * max(len(picture) for _, picture in row))
    height = max(1, min(most, int(room / sum(ratios))))
    return [
        (caption, resampling.resize(picture, height, max(1, int(ratio * height))))
        for (caption, picture), ratio in zip(row, ratios, strict=True)
    ]
