"""error.html of a failure: what was wrong, at its lines of the sidecar, and the pictures that could be read."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from daemon import __version__, safe_yaml
from daemon.job import printable
from daemon.outbox.publish import drop_names
from daemon.outbox.report_page import Look, asset, page

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.errors import Failure, Fault
    from daemon.job import Job

_SHOWN: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".bmp"})  # by every browser
_MOST_PIXELS: Final = 50e6  # of a picture as it was dropped, which a browser decodes whole
_MOST_LETTERS: Final = 160  # of a line of the sidecar
_AROUND: Final = range(-2, 3)  # the lines shown with a faulty one


def make(job: Job, failure: Failure, inputs: Path, *, has_last_good: bool) -> bytes:
    """Make the page of a failure, by its accepted files in `inputs`; raises whatever Jinja2 and the disk do."""
    pictures = {name: part for name, part in drop_names(job).items() if part.role != "sidecar"}
    looks = {
        name: Look(part.role.replace("_", " "), name, f"drop/{quote(name)}", part.height_px, part.width_px)
        for name, part in pictures.items()
        if 0 < part.height_px * part.width_px <= _MOST_PIXELS  # 0: it was not decoded
        and PurePath(name).suffix.lower() in _SHOWN
    }
    unseen = [name for name in pictures if name not in looks]
    if has_last_good:
        (content,) = job.parts_of("content")
        shape = content.height_px, content.width_px
        looks["last good"] = Look("last good", "last_good.png", "last_good.png", *shape)  # no name: no suffix
    return page(
        "error.html",
        list(looks.values()),
        asset("error.css"),
        job=job,
        title=printable(job.stem),
        failure=failure,
        lines=_excerpt(inputs / job.parts[0].stored, [fault for fault in failure.faults if fault.line]),
        elsewhere=[str(fault) for fault in failure.faults if not fault.line],
        unseen=unseen,
        version=__version__,
    )


def _excerpt(sidecar: Path, faults: list[Fault]) -> list[tuple[int, str, list[str]]]:
    """Give the lines around faults: their numbers, from 1, their texts, and what is wrong with each."""
    if not faults:
        return []
    with sidecar.open("rb") as file:
        texts = file.read(safe_yaml.MAX_BYTES).decode("utf-8-sig", "replace").splitlines()
    wrong: dict[int, list[str]] = {}
    for fault in faults:
        wrong.setdefault(fault.line, []).append(str(fault).removeprefix(f"{fault.file}: "))
    near = {line + step for line in wrong for step in _AROUND} & set(range(1, len(texts) + 1))
    return [(line, printable(texts[line - 1])[:_MOST_LETTERS], wrong.get(line, [])) for line in sorted(near)]
