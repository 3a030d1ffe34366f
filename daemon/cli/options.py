"""What several commands share."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon import config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.config import Config

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="The config file; else $STYLETRANSFERD_CONFIG, else /etc/styletransferd/config.yaml.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs: one JSON document.")]


def load(given: Path | None) -> Config:
    """Load the config that applies.

    Raises:
        ConfigError: with every fault.
    """
    return config.load(config.find(given))


def load_or_default(given: Path | None) -> Config:
    """Load the config that applies; where none is named and none installed, the defaults.

    Raises:
        ConfigError: with every fault.
    """
    path = config.find(given)
    if path == config.DEFAULT_PATH and given is None and not path.exists():
        return config.build({}, Path.cwd())
    return config.load(path)


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Keep what TensorFlow prints while it starts off a person's terminal.

    Its early lines pass by every log level it offers, so the descriptor itself is turned away. Errors are
    exceptions, and are not hidden.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
