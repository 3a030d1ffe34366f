"""Options and helpers of several commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon import config

if TYPE_CHECKING:
    from daemon.config import Config
    from daemon.engine.local import LocalEngine
    from daemon.job import EngineInfo

_HELP = "The config file; default: $STYLETRANSFERD_CONFIG, else /etc/styletransferd/config.yaml."
ConfigOption = Annotated[Path | None, typer.Option("--config", help=_HELP, show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def load(given: Path | None, *, needs_file: bool = True) -> Config:
    """Load the config file that applies, where `given` is the value of --config; see `config.load`.

    A command that needs no file gets the defaults if none is named and none is installed.
    """
    path = config.find(given)
    if not needs_file and given is None and path == config.DEFAULT_PATH and not path.exists():
        return config.build({}, Path.cwd())
    return config.load(path)


def start_engine(config: Config) -> tuple[LocalEngine, EngineInfo]:
    """Load the model in this process, without what TensorFlow prints on stderr meanwhile.

    Its first lines ignore its log level, so the file descriptor itself is redirected.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        from daemon.engine.local import LocalEngine  # noqa: PLC0415 - imports TensorFlow

        engine = LocalEngine(config)
        return engine, engine.start()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
