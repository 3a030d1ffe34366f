"""`stylize`: one picture in the foreground, with the same engine as the service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon import files, safe_yaml, sidecar
from daemon.cli.options import ConfigOption, load, start_engine
from daemon.errors import EngineError
from daemon.job import Plan, Request, Style
from daemon.lifeline import Lifeline
from daemon.settings import Frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.job import Face, Painting, Step
    from daemon.settings import Settings

_FORMATS = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".avif": "avif",
}


def stylize(
    content: Annotated[Path, typer.Argument(help="The photo.")],
    style: Annotated[Path, typer.Argument(help="The painting.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture: .png .jpg .webp .tiff .avif")],
    pairs: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any sidecar key, such as size=800.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Paint one picture now, with a progress bar on a terminal."""
    format_ = _FORMATS.get(output.suffix.lower())
    if format_ is None:
        raise typer.BadParameter(f"{output.name}: the name must end in {', '.join(_FORMATS)}")
    if not output.absolute().parent.is_dir():
        raise typer.BadParameter(f"{output.parent}: no such folder")
    if output.exists() and any(path.exists() and output.samefile(path) for path in (content, style)):
        raise typer.BadParameter(f"{output}: the output is also an input")
    loaded = load(config, needs_file=False)
    settings, preset = _settings(pairs or [], loaded.defaults, format_)
    from daemon.pictures import decoding, encoding  # noqa: PLC0415 - `status` starts faster without numpy and Pillow

    for path in (content, style):
        # A bad picture is reported before the model is loaded.
        for warning in decoding.decode(path, loaded.inbox.max_megapixels).warnings:
            typer.echo(f"{path.name}: {warning}", err=True)
    faces = _faces(content, loaded.inbox.max_megapixels) if settings.protect == "faces" else ()
    engine, _ = start_engine(loaded)
    shown = (content.name, style.name) if preset == "sheet" else ()
    request = Request(content, (Style(style),), None, settings, faces=faces, sheet=shown)
    painting = _follow(engine.stylize(request))
    files.replace(output, encoding.encode(painting.picture, settings.output, painting.exif))
    typer.echo(str(output))


def _faces(content: Path, max_megapixels: float) -> tuple[Face, ...]:
    """Find the faces of the photo; none if there is no detector or it fails."""
    if not sidecar.can_find_faces():
        return ()
    from daemon.sandbox.client import Decoder  # noqa: PLC0415 - as above

    decoder = Decoder(max_megapixels)
    try:
        _, found = decoder.inspect(content.absolute(), content.name, Lifeline(), wants_faces=True)
    finally:
        decoder.stop()
    return found.faces or ()


def _settings(pairs: list[str], house: dict[str, Any], format_: str) -> tuple[Settings, str]:
    """Read `--set` pairs as a sidecar's keys, with the preset; `a.b=c` sets key b of section a."""
    raw: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator:
            raise typer.BadParameter(f"--set {pair}: must be KEY=VALUE, such as size=800")
        try:
            is_color = text.startswith("#")  # which YAML takes for a comment
            value = text if is_color else safe_yaml.parse(text.encode("utf-8", "surrogateescape"))
        except safe_yaml.DocumentError as error:
            raise typer.BadParameter(f"--set {pair}: {error}") from None
        section, dot, inner = key.partition(".")
        known = raw.get(section)
        raw[section] = (known if isinstance(known, dict) else {}) | {inner: value} if dot else value
    if isinstance(asked := raw.get("output") or {}, dict):
        raw["output"] = {**asked, "format": format_}
    read = sidecar.read(raw, "--set", house)
    if read.faults or read.settings is None:
        raise typer.BadParameter("\n".join(str(fault) for fault in read.faults))
    if read.names:
        raise typer.BadParameter(
            "--set: content and style are arguments here; init, protect and regions cannot be files"
        )
    return read.settings.model_copy(update={"frames": Frames(every=0)}), read.preset


def _follow(steps: Iterator[Plan | Step]) -> Painting:
    """Run the steps until the painting is complete; warnings are printed above a progress bar."""
    from daemon.cli.progress import Bar  # noqa: PLC0415 - 40 ms

    painting = None
    with Bar() as bar:
        for step in steps:
            if isinstance(step, Plan):
                if step.warning:
                    bar.say(step.warning)
                continue
            bar.show(step.iteration, step.iterations, step.losses.total)
            if step.restart:
                bar.say(f"iteration {step.iteration}: the optimizer was restarted: {step.restart}")
            if step.trouble:
                bar.say(f"iteration {step.iteration}: {step.trouble}")
            painting = step.painting or painting
    if painting is None:
        raise EngineError("the engine ended without a picture")
    return painting
