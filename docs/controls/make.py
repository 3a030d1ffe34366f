"""Make the pictures of docs/controls.md again: `python docs/controls/make.py`.

The photo and the painting are the demo's. Each row shows one key's values, from left to right. The regions are
painted by the service itself, with the mask of the examples, and the painting in other colors as the second.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
MASK = HERE.parents[1] / "examples" / "mask.png"
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
            save_row(key, paths)
        save_row("regions", paint_regions(Path(folder)))


def paint_regions(folder: Path) -> list[Path]:
    """Paint with the painting, with the second one, and with both by the mask."""
    inbox = folder / "inbox"
    inbox.mkdir()
    (folder / "config.yaml").write_text("inbox: {settle_s: 0.1}\n", "utf-8")
    for path in (*map(Path, PAIR), MASK):
        shutil.copy(path, inbox)
    red, green, blue = Image.open(PAIR[1]).convert("RGB").split()
    Image.merge("RGB", (blue, red, green)).save(inbox / "second.jpg", quality=95)
    region = "regions: [{content: mask.png, style: painting.jpg}]"
    jobs = {"a": "style: painting.jpg", "b": "style: second.jpg", "c": f"style: second.jpg\n{region}"}
    for name, keys in jobs.items():
        (inbox / f"{name}.yaml").write_text(f"content: photo.jpg\nsize: 320\n{keys}\n", "utf-8")
    command = [sys.executable, "-m", "daemon", "run", "--drain", "--config", str(folder / "config.yaml")]
    subprocess.run(command, check=True)  # noqa: S603 - nothing of it comes from outside
    return sorted((folder / "outbox").glob("?-*/result.png"))


def save_row(key: str, paths: list[Path]) -> None:
    """Set pictures side by side."""
    pictures = [Image.open(path) for path in paths]
    width, height = pictures[0].size
    row = Image.new("RGB", (len(pictures) * (width + 4) - 4, height), "white")
    for place, picture in enumerate(pictures):
        row.paste(picture, (place * (width + 4), 0))
    row.save(HERE / f"{key}.jpg", quality=86, optimize=True)


if __name__ == "__main__":
    main()
