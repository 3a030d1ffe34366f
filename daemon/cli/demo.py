"""`demo`: the real service on a bundled photo and a bundled painting."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

DEMO_SIZE_PX = 512


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    dir: Annotated[Path, typer.Option("--dir", help="Where to make inbox, outbox and spool.")] = Path(  # noqa: A002
        "styletransferd-demo"
    ),
    size: Annotated[int, typer.Option("--size", help="Longest side in pixels.", min=16)] = DEMO_SIZE_PX,
) -> None:
    """Make a small inbox with a photo and a painting, run the service on it, print where the result is."""
    from daemon import (  # noqa: PLC0415 - `status` starts faster without them
        config,
        logs,
        safe_yaml,
    )
    from daemon.service import signals  # noqa: PLC0415 - `status` starts faster without them

    base = dir.absolute()
    for name in ("inbox", "outbox"):
        (base / name).mkdir(parents=True, exist_ok=True)
    before = set((base / "outbox").iterdir())
    bundled = resources.files("daemon.demo")
    for name in ("photo.jpg", "painting.jpg"):
        with resources.as_file(bundled / name) as source:
            shutil.copyfile(source, base / "inbox" / name)
    sidecar = safe_yaml.dump({"content": "photo.jpg", "style": "painting.jpg", "size": size})
    (base / "inbox" / "coffee.yaml").write_text(sidecar, "utf-8")
    loaded = config.build({"inbox": {"settle_s": 0.5}}, base, environment={})
    logs.configure("info", "console")
    code = signals.run(loaded, drains=True)
    made = [
        path for path in (base / "outbox").iterdir() if path not in before and (path / "result.png").exists()
    ]
    if code == 0 and made:
        typer.echo("The painted picture:")
        typer.echo(str(made[0] / "result.png"))
    raise typer.Exit(code if made else 1)
