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


def main() -> None:
    """Paint each value with `stylize`, and set the pictures of a key side by side."""
    with tempfile.TemporaryDirectory() as folder:
        for key, values in ROWS.items():
            paths = [Path(folder) / f"{key}-{value}.png" for value in values]
            for path, value in zip(paths, values, strict=True):
                keys = ["--set", "size=320", "--set", f"{key}={value}"]
                command = [sys.executable, "-m", "daemon", "stylize", *PAIR, "-o", str(path), *keys]
                subprocess.run(command, check=True)  # noqa: S603 - nothing of it comes from outside
            pictures = [Image.open(path) for path in paths]
            width, height = pictures[0].size
            row = Image.new("RGB", (len(pictures) * (width + 4) - 4, height), "white")
            for place, picture in enumerate(pictures):
                row.paste(picture, (place * (width + 4), 0))
            row.save(HERE / f"{key}.jpg", quality=86, optimize=True)


if __name__ == "__main__":
    main()
