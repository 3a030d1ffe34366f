"""Make the pictures of docs/controls.md again: `python docs/controls/make.py`.

The photo and the painting are the demo's. Each row shows one key's values, from left to right.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
PAIR = [str(HERE.parents[1] / "daemon" / "demo" / name) for name in ("photo.jpg", "painting.jpg")]
ROWS = {"style_scale": ("0.5", "1", "2"), "preserve_color": ("none", "luminance", "match")}


def stylize(path: Path, *keys: str) -> None:
    """Paint the pair with some keys."""
    options = [part for key in keys for part in ("--set", key)]
    command = [sys.executable, "-m", "daemon", "stylize", *PAIR, "-o", str(path), *options]
    subprocess.run(command, check=True)  # noqa: S603 - nothing of it comes from outside


def main() -> None:
    """Paint each value with `stylize`, and set the pictures of a key side by side; paint a sheet."""
    stylize(HERE / "sheet.jpg", "preset=sheet", "output.quality=75")
    with tempfile.TemporaryDirectory() as folder:
        for key, values in ROWS.items():
            paths = [Path(folder) / f"{key}-{value}.png" for value in values]
            for path, value in zip(paths, values, strict=True):
                stylize(path, "size=320", f"{key}={value}")
            pictures = [Image.open(path) for path in paths]
            width, height = pictures[0].size
            row = Image.new("RGB", (len(pictures) * (width + 4) - 4, height), "white")
            for place, picture in enumerate(pictures):
                row.paste(picture, (place * (width + 4), 0))
            row.save(HERE / f"{key}.jpg", quality=86, optimize=True)


if __name__ == "__main__":
    main()
