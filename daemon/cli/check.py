"""What config and sidecars may say: `check` lists every fault, `schema` prints what editors complete from."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon import config as config_module
from daemon import files, safe_yaml, sidecar
from daemon.cli.options import ConfigOption, load
from daemon.config import Config
from daemon.errors import ConfigError, Fault, JobError
from daemon.inbox import pairing
from daemon.inbox.scan import is_ignored
from daemon.job import MASK_ROLES
from daemon.sidecar import SidecarModel
from daemon.validation import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = StrEnum("Kind", ["SIDECAR", "CONFIG"])


def check(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]...", help="Sidecars, or folders that contain them.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="List every known key where one is unknown.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Validate the config, and the sidecars and folders given; list every fault."""
    path = config_module.find(config)
    try:
        loaded = load(config, needs_file=not paths)
    except ConfigError as error:
        raise ConfigError(error.faults, is_verbose=verbose) from None
    typer.echo(f"{path}: ok" if path.exists() else "no config file: the defaults apply")
    for key in config_module.without_effect(loaded):
        typer.echo(f"{path}: {key} has no effect in this version")
    code = 0
    library = loaded.folders.styles
    if library and not library.is_dir():
        code = 1
        typer.echo(str(Fault(str(path), "folders.styles", shown(str(library)), "an existing folder")))
    for file in _sidecars(paths or [], loaded.inbox.ignore):
        faults = _faults(file, loaded)
        code = code or int(bool(faults))
        lines = [fault.in_full() if verbose else str(fault) for fault in faults]
        typer.echo("\n".join(lines or [f"{file}: ok"]))
    raise typer.Exit(code)


def _sidecars(paths: list[Path], ignore: tuple[str, ...]) -> Iterator[Path]:
    """Yield the sidecars given, and the sidecars in the folders given that the service would read."""
    for path in paths:
        if not path.is_dir():
            yield path
        for folder, folders, names in os.walk(path):
            folders[:] = [name for name in folders if not is_ignored(name, ignore, is_folder=True)]
            seen = [name for name in sorted(names) if not is_ignored(name, ignore, is_folder=False)]
            yield from (Path(folder, name) for name in seen if pairing.is_sidecar(name))


def _faults(file: Path, config: Config) -> tuple[Fault, ...]:
    """Check one sidecar and its pictures as the service would."""
    try:
        with os.fdopen(files.open_regular(file.parent.resolve(), file.name), "rb") as opened:
            data = opened.read(safe_yaml.MAX_BYTES + 1)
        names = pairing.Names(os.listdir(file.absolute().parent))
        library = pairing.Names(os.listdir(config.folders.styles) if config.folders.styles else ())
    except (OSError, files.ChangedError) as error:
        return (Fault(str(file), problem=files.cause(error)),)
    read = sidecar.parse(data, str(file), config.defaults)
    group = pairing.pair_sidecar(file.name, read, names, library)
    missing = [Fault(str(file), problem=f"missing picture: {name}") for name in group.missing]
    return (*read.faults, *missing, *_picture_faults(file, group, config))


def _picture_faults(file: Path, group: pairing.Group, config: Config) -> Iterator[Fault]:
    from daemon.pictures import decoding  # noqa: PLC0415 - `status` starts faster without numpy and Pillow

    for part in (part for part in group.parts if part.role != "sidecar"):
        folder = config.folders.styles if part.library and config.folders.styles else file.parent
        try:
            os.close(files.open_regular(folder.resolve(), part.name))
            picture = decoding.read(folder / part.name, config.inbox.max_megapixels)
            if part.role in MASK_ROLES:
                decoding.require_white(picture, part.name)
        except (OSError, files.ChangedError) as error:
            yield Fault(str(file), problem=f"{part.role}: {files.cause(error)}: {part.name}")
        except JobError as error:
            why = f"{part.role}: {error.failure.message}"
            yield Fault(str(file), hint=error.failure.hint, problem=why)


def schema(kind: Annotated[Kind, typer.Argument(help="The kind of file.")]) -> None:
    """Print the JSON Schema of sidecars or of the config, for completion in editors."""
    model = SidecarModel if kind is Kind.SIDECAR else Config
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    typer.echo(json.dumps(document, indent=2))
