"""`stylize`: one picture in the foreground, by the same engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon import files, safe_yaml, sidecar
from daemon.cli.options import ConfigOption, load_or_default, quiet_tensorflow
from daemon.errors import EngineError
from daemon.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.job import Painting, Plan, Step

_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(stylize)


def stylize(
    content: Annotated[Path, typer.Argument(help="The photo.")],
    style: Annotated[Path, typer.Argument(help="The painting.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture to write: .png .jpg .webp .tiff")],
    pairs: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any sidecar key, as in size=800.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Paint one picture in the foreground, with a progress bar on a terminal."""
    format_ = _FORMATS.get(output.suffix.lower())
    if format_ is None:
        raise typer.BadParameter(f"{output.name}: the name must end in {', '.join(_FORMATS)}")
    if not output.absolute().parent.is_dir():
        raise typer.BadParameter(f"{output.parent}: no such folder")
    if output.exists() and any(path.exists() and output.samefile(path) for path in (content, style)):
        raise typer.BadParameter(f"{output}: the output is also an input")
    loaded = load_or_default(config)
    settings = _settings(pairs or [], loaded.defaults, format_)

    from daemon import images  # noqa: PLC0415 - after the usage is checked
    from daemon.job import Request  # noqa: PLC0415

    for path in (content, style):
        images.read(path, loaded.inbox.max_megapixels)  # a bad picture is told before the model is loaded
    with quiet_tensorflow():
        from daemon.engine.local import LocalEngine  # noqa: PLC0415 - imports TensorFlow

        engine = LocalEngine(loaded)
        engine.start()
    painting = _follow(engine.stylize(Request(content, ((style, 1.0),), None, settings)))
    data = images.encode(painting.picture, format_, images.icc_profile(content))
    files.replace(output, data)
    typer.echo(str(output))


def _settings(pairs: list[str], house: dict[str, Any], format_: str) -> Settings:
    """Read `--set` as a sidecar's keys; `a.b=c` reaches into a section."""
    raw: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator:
            raise typer.BadParameter(f"--set {pair}: KEY=VALUE expected")
        try:
            value = safe_yaml.parse(text.encode("utf-8", "surrogateescape"))
        except safe_yaml.DocumentError as error:
            raise typer.BadParameter(f"--set {pair}: {error}") from None
        section, dot, inner = key.partition(".")
        if dot:
            known = raw.get(section)
            raw[section] = {**known, inner: value} if isinstance(known, dict) else {inner: value}
        else:
            raw[key] = value
    raw.setdefault("output", {"format": format_})
    read = sidecar.read(raw, "--set", house)
    if read.faults:
        raise typer.BadParameter("\n".join(str(fault) for fault in read.faults))
    if read.names:
        raise typer.BadParameter("--set: content, style and init files are arguments or not for this command")
    assert read.settings is not None  # noqa: S101 - there are no faults
    return Settings.model_validate({**read.settings.model_dump(), "frames": {"every": 0}})


def _follow(steps: Iterator[Plan | Step]) -> Painting:
    """Take the steps to the painting; on a terminal, show a bar with loss and time left.

    Args:
        steps: the plan, whose warning is printed, then every step.

    Raises:
        EngineError: they end without one.
    """
    from rich.console import Console  # noqa: PLC0415 - 40 ms
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    from daemon.job import Plan  # noqa: PLC0415 - after the usage is checked

    painting = None
    console = Console(file=sys.stderr if not sys.stdout.isatty() else sys.stdout)
    loss = TextColumn("loss {task.fields[loss]}")
    columns = (TextColumn("painting"), BarColumn(), MofNCompleteColumn(), loss, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("painting", total=None, loss="-")
        for step in steps:
            if isinstance(step, Plan):
                if step.warning:
                    typer.echo(step.warning, err=True)
                continue
            progress.update(
                task, total=step.iterations, completed=step.iteration, loss=f"{step.losses.total:.4g}"
            )
            for line in _turns(step):
                progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
            painting = step.painting or painting
    if painting is None:
        raise EngineError("the engine ended without a picture")
    return painting


def _turns(step: Step) -> list[str]:
    """Say what is not as on every step, a line each."""
    restart = f"the optimiser began afresh: {step.restart}" if step.restart else ""
    return [f"iteration {step.iteration}: {words}" for words in (restart, step.trouble) if words]
