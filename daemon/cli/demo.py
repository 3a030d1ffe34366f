"""`demo`: the real service on a bundled photo and a bundled painting."""

from __future__ import annotations

import contextlib
import json
import threading
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon import config, safe_yaml
from daemon.cli.run import serve
from daemon.errors import DaemonError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER = Path("styletransferd-demo")
_LOG_NAME = "styletransferd.log"
_LOOK_S = 0.5


def demo(
    folder: Annotated[Path, typer.Option("--dir", help="The folder for inbox, outbox and spool.")] = _FOLDER,
    size: Annotated[int, typer.Option("--size", help="Longest side in pixels.", min=16)] = 512,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log of the service.")] = False,
) -> None:
    """Repaint a bundled photo with the real service, and print where the picture is."""
    from daemon import logs  # noqa: PLC0415 - `status` starts faster without it

    base = folder.absolute()
    _drop(base, size)
    before = set((base / "outbox").iterdir())
    loaded = config.build({"inbox": {"settle_s": 0.5}}, base, environment={})
    with contextlib.ExitStack() as stack:
        log = None
        if not verbose:
            log = stack.enter_context((base / _LOG_NAME).open("w", encoding="utf-8"))
            stack.enter_context(_bar(base / "spool" / "status.json"))
        logs.configure("info", "console", log)
        code = serve(loaded, drains=True)
    entries = set((base / "outbox").iterdir()) - before
    made = [path for entry in entries if (path := entry / "result.png").exists()]
    if not made:
        raise DaemonError("no picture was painted" + ("" if verbose else f"; the log is {base / _LOG_NAME}"))
    typer.echo("The painted picture:")
    typer.echo(str(max(made, key=lambda path: path.stat().st_mtime)))
    raise typer.Exit(code)


def _drop(base: Path, size: int) -> None:
    """Put the bundled pictures and a sidecar into the inbox."""
    for name in ("inbox", "outbox"):
        (base / name).mkdir(parents=True, exist_ok=True)
    for name in ("photo.jpg", "painting.jpg"):
        (base / "inbox" / name).write_bytes((resources.files("daemon.demo") / name).read_bytes())
    sidecar = safe_yaml.dump({"content": "photo.jpg", "style": "painting.jpg", "size": size})
    (base / "inbox" / "coffee.yaml").write_text(sidecar, "utf-8")


@contextlib.contextmanager
def _bar(status: Path) -> Iterator[None]:
    """Show a progress bar while the service runs, from the state that it writes every second."""
    from daemon.cli.progress import Bar  # noqa: PLC0415 - 40 ms

    has_ended = threading.Event()

    def follow() -> None:
        while not has_ended.wait(_LOOK_S):
            with contextlib.suppress(OSError, ValueError):  # not written yet
                job = json.loads(status.read_bytes())["job"]
                if job:
                    bar.show(job["iteration"], job["iterations"], job["loss"])

    with Bar() as bar:
        follower = threading.Thread(target=follow, name="progress")
        follower.start()
        try:
            yield
        finally:
            has_ended.set()
            follower.join()
