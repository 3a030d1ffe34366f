"""What people look at in a result: `report.html`, `contact.png`, and the small pictures that the page shows.

The page works from any folder by double-click. Style and script are in it; its Content-Security-Policy allows
exactly these two, by their hashes, and pictures: nothing else is loaded or executed, whatever a name or a
sidecar contains.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from daemon import __version__, safe_yaml
from daemon.job import printable, slug
from daemon.pictures import contact, encoding, resampling
from daemon.presets import PRESETS
from daemon.settings import Output, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import jinja2

    from daemon.job import Job, Painting, Picture
    from daemon.outbox.loss_table import Row

_MOMENTS: Final = 6  # frames in the contact sheet
_SMALL: Final = Output(format="jpeg", quality=90, metadata="none")
_MOST_PIXELS: Final = 8e6  # of a result that the page shows as it is: a larger one is slow on a phone


class Look(NamedTuple):
    """One of the pictures side by side."""

    kind: str  # content, style or result
    name: str  # as people know it
    href: str  # relative to the page
    height_px: int
    width_px: int

    @property
    def ratio(self) -> float:
        """The width, in heights."""
        return self.width_px / self.height_px


def make(
    job: Job,
    settings: Settings,
    record: bytes,
    painting: Painting,
    rows: Sequence[Row],
    *,
    frames: Mapping[int, Path],
    beat: Callable[[], None],
) -> dict[str, bytes]:
    """Make page, contact sheet and the pictures of `report/`: content by path in the result.

    `record` is result.yaml; `frames` are in order, by iteration; `beat` is called between two pictures.

    Raises:
        Exception: of many kinds, from Pillow and Jinja2, and whatever `beat` raises.
    """
    made: dict[str, bytes] = {}
    looks, shown = [], []
    for look, picture in _inputs(job, painting):
        beat()
        looks.append(look)
        shown.append((look.kind, picture))
        made[look.href] = encoding.encode(picture, _SMALL)
    beat()
    small = resampling.reduced(painting.picture, resampling.SHOWN_PX)
    looks.append(_result(painting, settings.output.format))
    if looks[-1].href != looks[-1].name:
        made[looks[-1].href] = encoding.encode(small, _SMALL)
    changes = changed(settings, job.preset)
    texts = [slug(job.stem), job.preset, *(f"{key} {value}" for key, value in changes.items())]
    sheet = [*shown, ("result", small)], _moments(frames, beat)
    made["contact.png"] = contact.sheet(sheet, "   ·   ".join(texts))
    made["report.html"] = page(
        "report.html",
        looks,
        f":root {{ --ratio: {looks[-1].ratio:.4f}; --width: {looks[-1].width_px}px }}",
        script=asset("report.js"),
        title=printable(job.stem),
        facts={"rows": [row[:5] for row in rows], "frames": list(frames)},
        preset=job.preset,
        changed=changes,
        animation=settings.frames.animation if frames else "none",
        record=safe_yaml.parse(record)["result"],
        sidecar=record.decode("utf-8"),
        version=__version__,
    )
    return made


def _inputs(job: Job, painting: Painting) -> Iterator[tuple[Look, Picture]]:
    """Yield the content and the styles with their pictures."""
    parts = [*job.parts_of("content"), *job.parts_of("style"), *job.parts_of("region_style")]
    for number, picture in enumerate(painting.inputs):
        kind, name = ("style", f"style-{number}") if number else ("content", "content")
        yield Look(kind, printable(parts[number].name), f"report/{name}.jpg", *picture.shape[:2]), picture


def _result(painting: Painting, format: str) -> Look:  # noqa: A002 - a key's name
    """Show the result itself, or a small JPEG where that is large, or of a format that browsers do not show."""
    name, (height, width) = f"result{encoding.SUFFIXES[format]}", painting.picture.shape[:2]
    is_shown = format != "tiff" and height * width <= _MOST_PIXELS
    return Look("result", name, name if is_shown else "report/result.jpg", height, width)


def _moments(frames: Mapping[int, Path], beat: Callable[[], None]) -> list[tuple[str, Picture]]:
    """Read some of the frames, evenly chosen, with their iterations."""
    last, moments = len(frames) - 1, []
    chosen = {i * last // (_MOMENTS - 1) for i in range(_MOMENTS)}
    for iteration in [iteration for place, iteration in enumerate(frames) if place in chosen]:
        beat()
        moments.append((str(iteration), contact.read(frames[iteration])))
    return moments


def changed(settings: Settings, preset: str) -> dict[str, str]:
    """List the settings that differ from the preset's, as people read them."""
    usual = Settings.model_validate(PRESETS.get(preset, {})).model_dump(mode="json")
    own = settings.model_dump(mode="json")
    return {key: printable(_plain(value)) for key, value in own.items() if value != usual[key]}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def page(template: str, looks: Sequence[Look], own_style: str = "", script: str = "", **facts: Any) -> bytes:
    """Fill a template, with the style of all pages and its own; without a script none is allowed."""
    shapes = [f"#look-{n} {{ --ratio: {look.ratio:.4f} }}" for n, look in enumerate(looks)]
    style = "\n".join([asset("report.css"), *shapes, own_style])
    policy = "default-src 'none'; img-src 'self' file:; base-uri 'none'; form-action 'none'; "
    policy += f"style-src {_source(style)}" + (f"; script-src {_source(script)}" if script else "")
    text = (
        _templates()
        .get_template(template)
        .render(looks=looks, style=style, script=script, policy=policy, **facts)
    )
    return text.encode("utf-8", "backslashreplace")


@functools.cache
def _templates() -> jinja2.Environment:
    import jinja2  # noqa: PLC0415 - needed once a job

    loader = jinja2.FunctionLoader(asset)
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )


def asset(name: str) -> str:
    """Read one of the files of templates/."""
    return (resources.files("daemon.outbox") / "templates" / name).read_text("utf-8")


def _source(text: str) -> str:
    """Name an inline style or script by its hash (Content Security Policy, level 3, section 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
