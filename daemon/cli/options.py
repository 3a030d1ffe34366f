"""What several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon import config

if TYPE_CHECKING:
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


def quiet_tensorflow() -> None:
    """Keep TensorFlow's chatter off a person's terminal; call it before TensorFlow is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
