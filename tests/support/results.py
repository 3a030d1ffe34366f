"""The folder of a result as the worker leaves it, without a painting: for tests of what people look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from daemon import presets
from daemon.job import Job, Losses, Painting, Part
from daemon.outbox import loss_table, record, report_page
from daemon.pictures import encoding
from daemon.settings import Settings
from support.fakes import INFO

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE: Final = (
    "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}",
    "שקיעה בים 🌊 \u202egpj",
    "\udcff\x00\n" + "w" * 250,
)
ROWS: Final = [loss_table.Row(i, 16 << i // 4, 3 / (i + 1), 2 / (i + 1), i / 8, 0.1) for i in range(9)]


def picture(seed: int) -> np.ndarray:
    """Make a colorful picture, (24, 32, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((32, 24), Image.Resampling.BICUBIC))


def make_result(out: Path, stem: str = "sea", *, result: Any = None, **keys: Any) -> Path:
    """Write a result of two styles but its manifest, and give its page; `keys` are settings."""
    settings = Settings.model_validate(presets.merged(None, {}, keys))
    parts = (
        Part("content", f"{stem}.jpg"),
        Part("style", f"{stem}-1.png"),
        Part("region_style", f"{stem}-2.png"),
    )
    job = Job("3f9c21ab00000001", 1, stem, ".", parts, "default", settings, "2026-01-01T00:00:00+00:00")
    shown, losses = picture(9) if result is None else result, Losses(3.0, 2.0, 1.0)
    painting = Painting(shown, 8, losses, losses, losses, 0.5, 2.5, inputs=tuple(map(picture, range(3))))
    document = record.result(job, painting, INFO, 1, job.accepted_at, iterations=8, memory_estimate_mb=None)
    frames = {i: out / f"frames/{i:04d}.png" for i in range(len(ROWS)) if settings.frames.keeps(i)}
    for folder in (out / "frames", out / "report"):
        folder.mkdir(parents=True)
    for iteration, path in frames.items():
        path.write_bytes(encoding.encode(picture(iteration)))
    written = {"result.yaml": document, "losses.csv": b"", f"frames/animation.{settings.frames.animation}": b""}
    written[f"result{encoding.SUFFIXES[settings.output.format]}"] = encoding.encode(shown, settings.output)
    written["losses.png"] = encoding.encode(shown[..., :3])
    written |= report_page.make(job, settings, document, painting, ROWS, frames=frames, beat=lambda: None)
    for name, data in written.items():
        (out / name).write_bytes(data)
    return out / "report.html"
