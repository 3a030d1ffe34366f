"""The config file: models, loading, environment overrides. Relative paths are relative to the file's folder."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from daemon import safe_yaml
from daemon.errors import ConfigError, Fault
from daemon.settings import Model, keyed, number
from daemon.sidecar import default_faults
from daemon.validation import explain, only, shown

DEFAULT_PATH: Final = Path("/etc/styletransferd/config.yaml")
PATH_VARIABLE: Final = "STYLETRANSFERD_CONFIG"
OVERRIDE_PREFIX: Final = "STYLETRANSFERD__"
CLOCK: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]"  # a time of day


Seconds = Annotated[float, Field(gt=0, le=86_400 * 365, allow_inf_nan=False), BeforeValidator(number)]
Number = Annotated[int, Field(ge=1), BeforeValidator(number)]
Megabytes = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(number)]
Days = Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False), BeforeValidator(number)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|gpu(:\d{1,3})?)$"), only("auto, gpu, gpu:N or cpu")]
Window = Annotated[str, Field(pattern=rf"^{CLOCK}-{CLOCK}$"), only('a time span such as "22:00-06:00"')]


def _off(value: Any) -> Any:
    """Undo YAML's reading of `off` as False."""
    return "off" if value is False else value


class Folders(Model):
    """The folders of the service."""

    inbox: Path = keyed(Path("inbox"), "People drop files here.", "/srv/inbox")
    outbox: Path = keyed(Path("outbox"), "Results appear here, always complete.", "/srv/outbox")
    spool: Path = keyed(Path("spool"), "The daemon's jobs; private, on a local disk.", "/var/lib/spool")
    styles: Path | None = keyed(None, "A library of style pictures; only read.", "/srv/paintings")


class Inbox(Model):
    """How drops are noticed, and which are accepted."""

    observer: Annotated[Literal["auto", "native", "off"], BeforeValidator(_off)] = keyed(
        "auto", "File events, which shorten the wait; off: for a share that sends none.", "off"
    )
    settle_s: Seconds = keyed(2.0, "A file is complete when it has not changed for this long.", 5)
    rescan_s: Seconds = keyed(15.0, "The inbox is looked at this often, with or without events.", 60)
    sidecar: Literal["required", "optional"] = keyed("required", "optional: pairs by name, too.", "optional")
    ignore: tuple[str, ...] = keyed((), "More patterns of names to ignore.", ["*.psd", "archive/"])
    max_file_mb: Megabytes = keyed(256, "A larger file fails its job, and stays where it is.", 512)
    max_megapixels: Megabytes = keyed(200, "A larger picture fails its job.", 100)
    keep_originals: bool = keyed(False, "Move accepted drops to INBOX/_accepted/; else remove them.", True)


class Engine(Model):
    """Where and how pictures are computed."""

    device: Device = keyed("auto", "auto: a GPU if there is one; gpu, gpu:N: no other device.", "cpu", "gpu:1")
    precision: Literal["auto", "float32", "bfloat16"] = keyed("auto", "auto: bfloat16 where fast.", "float32")
    weights: str = keyed("bundled", "VGG19's: bundled, imagenet (a download), or a .h5 file.", "imagenet")
    memory_limit_mb: Number | None = keyed(None, "What the engine may take; null: what there is.", 8000)
    job_timeout_s: Seconds | None = keyed(None, "End an attempt that takes longer than this.", 7200)
    max_attempts: Number = keyed(3, "How often a job is tried that crashes without any progress.", 5)
    checkpoint_s: Seconds = keyed(30, "How often the state of a running job is kept, to resume from.", 120)


class Schedule(Model):
    """When jobs are started."""

    window: Window | None = keyed(None, "Jobs are accepted all day, and started only then.", "22:00-06:00")


class Retention(Model):
    """How long the spool keeps the inputs of ended jobs."""

    done: Days = keyed(7, "Days that painted jobs are kept.", 2)
    failed: Days = keyed(30, "Days that failed jobs are kept, to be retried.", 90)


class Outbox(Model):
    """What is published."""

    retention_days: Retention = keyed(Retention(), "How long the spool keeps ended jobs.", {"done": 2})
    gallery: bool = keyed(True, "index.html in the outbox (no effect in this version).", False)


class Log(Model):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = keyed("info", "The least that is logged.", "debug")
    format: Literal["auto", "json", "console"] = keyed("auto", "auto: JSON unless on a terminal.", "json")


class Metrics(Model):
    """Figures for a monitoring system."""

    textfile: Path | None = keyed(None, "A file for node_exporter.", "/srv/metrics/styletransferd.prom")


class Config(Model):
    """The whole config."""

    folders: Folders = keyed(Folders(), "The folders of the service.", {"inbox": "/srv/inbox"})
    inbox: Inbox = keyed(Inbox(), "How drops are noticed, and which are accepted.", {"settle_s": 5})
    engine: Engine = keyed(Engine(), "Where and how pictures are computed.", {"device": "cpu"})
    schedule: Schedule = keyed(Schedule(), "When jobs are started.", {"window": "22:00-06:00"})
    defaults: dict[str, Any] = keyed({}, "Defaults for any sidecar key.", {"size": 1024})
    outbox: Outbox = keyed(Outbox(), "What is published, and how long.", {"gallery": False})
    log: Log = keyed(Log(), "What is logged, and how.", {"level": "debug"})
    metrics: Metrics = keyed(Metrics(), "Figures for a monitoring system.", {"textfile": "figures.prom"})

    def based_at(self, base: Path) -> Config:
        """Resolve every relative path against a folder."""

        def at(path: Path | str | None) -> Path | None:
            # Unlike `Path.expanduser`, this keeps the `~` of an unknown user.
            return None if path is None else base / os.path.expanduser(path)  # noqa: PTH111

        weights = self.engine.weights
        if weights not in {"bundled", "imagenet"}:
            weights = str(at(weights))
        return self.model_copy(
            update={
                "folders": Folders.model_validate({name: at(path) for name, path in self.folders}),
                "engine": self.engine.model_copy(update={"weights": weights}),
                "metrics": Metrics(textfile=at(self.metrics.textfile)),
            }
        )


def flat(model: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Flatten a config to its keys, sections joined by dots, with their values."""
    found: dict[str, Any] = {}
    for name, value in model:
        key = f"{prefix}{name}"
        found |= flat(value, f"{key}.") if isinstance(value, BaseModel) else {key: value}
    return found


def differences(one: Config, other: Config) -> list[str]:
    """List the keys whose values differ between two configs."""
    before, after = flat(one), flat(other)
    return [key for key, value in after.items() if before.get(key) != value]


def reloaded(running: Config, read: Config) -> tuple[Config, list[str]]:
    """Give the config that applies once another was read, and the keys whose new values need a restart.

    These keep their old values: the folders, and what the child processes were started with.
    """
    engine = running.engine.model_copy(update={"max_attempts": read.engine.max_attempts})
    inbox = read.inbox.model_copy(update={"max_megapixels": running.inbox.max_megapixels})
    merged = read.model_copy(update={"folders": running.folders, "engine": engine, "inbox": inbox})
    return merged, differences(merged, read)


def without_effect(config: Config) -> tuple[str, ...]:
    """List the keys that are set and have no effect in this version."""
    return ("outbox.gallery",) if config.outbox.gallery != Outbox().gallery else ()


def find(given: Path | None) -> Path:
    """Choose the config file: the one given, else $STYLETRANSFERD_CONFIG, else the system's."""
    return given or Path(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)


def load(path: Path) -> Config:
    """Load and validate a config file with its overrides from the environment; ConfigError lists all faults."""
    try:
        raw = safe_yaml.parse(path.read_bytes())
    except OSError as error:
        hint = "copy config.example.yaml, or name one with --config"
        raise ConfigError((Fault(str(path), hint=hint, problem=str(error.strerror)),)) from None
    except safe_yaml.DocumentError as error:
        raise ConfigError((Fault(str(path), problem=str(error)),)) from None
    if not isinstance(raw, dict | None):
        raise ConfigError((Fault(str(path), "", shown(raw), "sections such as `folders:`"),))
    return build(raw or {}, path.absolute().parent, str(path))


def build(
    raw: dict[str, Any], base: Path, source: str = "config", environment: dict[str, str] | None = None
) -> Config:
    """Make a config from plain data and overrides, by default those of the process; see `load`."""
    environment = dict(os.environ) if environment is None else environment
    merged, faults = _overridden(raw, environment)
    try:
        config = Config.model_validate(merged).based_at(base)
        faults += _overlaps(config.folders, source)
    except ValidationError as error:
        faults += explain(error, Config, source)
    house = merged.get("defaults")
    if isinstance(house, dict):
        faults += default_faults(house, source)
    if faults:
        raise ConfigError(tuple(_traced(fault, environment) for fault in faults))
    return config


def _overlaps(folders: Folders, source: str) -> tuple[Fault, ...]:
    """Refuse folders inside the inbox, where results would be treated as drops, or inside the spool."""
    paths = {name: Path(os.path.normpath(path)) for name, path in folders if path is not None}
    return tuple(
        Fault(source, f"folders.{inner}", shown(str(paths[inner])), f"a folder outside of folders.{outer}")
        for outer, inner in itertools.permutations(paths, 2)
        if outer in {"inbox", "spool"} and paths[inner].is_relative_to(paths[outer])
    )


def _traced(fault: Fault, environment: dict[str, str]) -> Fault:
    """Name the variable instead of the file if a fault comes from the environment."""
    for variable in environment:
        path = variable.removeprefix(OVERRIDE_PREFIX).lower().replace("__", ".") + "."
        key = f"{fault.key}."
        if variable.startswith(OVERRIDE_PREFIX) and (key.startswith(path) or path.startswith(key)):
            return replace(fault, file=variable)
    return fault


def _overridden(raw: dict[str, Any], environment: dict[str, str]) -> tuple[dict[str, Any], tuple[Fault, ...]]:
    """Apply `STYLETRANSFERD__SECTION__KEY=value` to the file's data; values are parsed as YAML."""
    merged = dict(raw)
    faults = []
    for variable in sorted(environment):
        if not variable.startswith(OVERRIDE_PREFIX):
            continue
        try:
            value = safe_yaml.parse(environment[variable].encode("utf-8", "surrogateescape"))
        except safe_yaml.DocumentError as error:
            faults.append(Fault(variable, problem=str(error)))
            continue
        *sections, key = variable.removeprefix(OVERRIDE_PREFIX).lower().split("__")
        node = merged
        for section in sections:
            below = node.get(section)
            node[section] = dict(below) if isinstance(below, dict) else {}
            node = node[section]
        node[key] = value
    known = Config.model_fields
    return {key: value for key, value in merged.items() if value is not None or key not in known}, tuple(faults)
