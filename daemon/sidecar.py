"""A sidecar's text to settings, with every fault at once."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import ConfigDict, Field, ValidationError, WithJsonSchema, WrapValidator

from daemon import safe_yaml
from daemon.errors import Fault
from daemon.job import REGION_ROLES
from daemon.presets import merged
from daemon.settings import Amount, Model, PlainName, Preset, Settings, StyleScale, has_share, keyed, plain_name
from daemon.validation import explain, refusal, shown

if TYPE_CHECKING:
    from pydantic import ValidatorFunctionWrapHandler

    from daemon.job import Role

_SHEET_STYLES, _SHEET_PX = 8, 512  # at most
_LOCATED: Final = 50  # faults whose lines are looked for: there may be thousands
KEYWORD_INITS: Final = frozenset({"content", "style", "noise"})
KEYWORD_PROTECTS: Final = frozenset({"faces", "none"})


class StyleRef(Model):
    """One style picture, its weight in the blend, and its own part of the size of the strokes."""

    image: PlainName = Field(description="The picture's name.", examples=["wave.jpg"])
    weight: Amount = keyed(1.0, "Its share in the blend, beside those of the others.", 2)
    scale: StyleScale = keyed(1.0, "Size of its strokes, times style_scale.", 0.5)


_STYLE: Final = {"anyOf": [{"type": "string"}, StyleRef.model_json_schema()]}
_STYLES_SCHEMA: Final = {"anyOf": [{"type": "string"}, {"type": "array", "items": _STYLE, "minItems": 1}]}


def _styles(value: Any, handler: ValidatorFunctionWrapHandler) -> list[StyleRef] | None:
    """Read `wave.jpg` and `[wave.jpg, {image: scream.jpg, weight: 2}]` alike."""
    if value is None:
        return None
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str | dict) for item in items):
        raise refusal("a file name, or a list of {image: wave.jpg, weight: 2}")
    if isinstance(value, str):
        plain_name(value)
    styles: list[StyleRef] = handler([{"image": item} if isinstance(item, str) else item for item in items])
    has_share(style.weight for style in styles)
    return styles


def _allow_null(schema: dict[str, Any]) -> None:
    """Allow null, which means "not set", for every key of the schema."""
    for name, key in schema["properties"].items():
        outer = {word: key.pop(word) for word in ("title", "description", "default", "examples") if word in key}
        allowed = [item for item in key.get("anyOf", [key]) if item != {"type": "null"}]
        schema["properties"][name] = {**outer, "anyOf": [*allowed, {"type": "null"}]}


class SidecarModel(Settings):
    """The keys of a sidecar; editors complete from its JSON Schema."""

    model_config = ConfigDict(json_schema_extra=_allow_null)

    content: PlainName | None = keyed(None, "The photo; default: the one NAME.content.*.", "sunset.jpg")
    style: Annotated[list[StyleRef] | None, WrapValidator(_styles), WithJsonSchema(_STYLES_SCHEMA)] = keyed(
        None, "The painting, or several; default: the one NAME.style.*.", "wave.jpg", ["wave.jpg", "scream.jpg"]
    )
    preset: Preset = keyed("default", "Sets every key that the sidecar does not set.", "preview")
    result: dict[str, Any] | None = keyed(
        None, "The record that result.yaml adds; without effect when dropped again.", {"attempt": 1}
    )


@dataclass(frozen=True)
class Sidecar:
    """A sidecar as read: the pictures it names and its settings, or its faults.

    With faults, `settings` is None, and only the names that are valid are kept.
    """

    content: str | None
    styles: tuple[StyleRef, ...]
    init: str | None
    preset: str
    settings: Settings | None
    faults: tuple[Fault, ...] = ()
    mask: str | None = None
    region_files: tuple[tuple[Role, str], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every file that the sidecar itself names."""
        regions = (name for _, name in self.region_files)
        named = [self.content, self.init, self.mask, *(style.image for style in self.styles), *regions]
        return tuple(name for name in named if name is not None)


def parse(data: bytes, file: str, house: dict[str, Any] | None = None) -> Sidecar:
    """Read a sidecar; faults, which name the file `file`, are returned, never raised.

    An empty file means all defaults; `house` is the config's `defaults`.
    """
    try:
        raw = safe_yaml.parse(data)
    except safe_yaml.DocumentError as error:
        return _faulty({}, (Fault(file, problem=str(error), line=error.line),))
    found = read(raw, file, house)
    located = found.faults[:_LOCATED]
    lines = safe_yaml.lines_of(data, [fault.key for fault in located]) if located else []
    placed = (replace(fault, line=line) for fault, line in zip(located, lines, strict=True))
    return replace(found, faults=(*placed, *found.faults[_LOCATED:]))


def read(raw: Any, file: str, house: dict[str, Any] | None = None) -> Sidecar:
    """Read a sidecar's plain data, as `parse` does."""
    raw = {} if raw is None else raw
    if not isinstance(raw, dict):
        return _faulty({}, (Fault(file, "", shown(raw), "keys and values, such as `content: sunset.jpg`"),))
    house = house or {}
    preset = raw.get("preset")
    lacking = _lacking(raw, file)
    try:
        layers = merged(preset if isinstance(preset, str) else None, house, raw)
        model = SidecarModel.model_validate(layers)
    except ValidationError as error:
        return _faulty(raw, explain(error, SidecarModel, file) + lacking)
    chosen = str(preset or house.get("preset") or "default")
    if lacking := lacking or (_no_sheet(model, file) if chosen == "sheet" else ()):
        return _faulty(raw, lacking)
    return Sidecar(
        content=model.content,
        styles=tuple(model.style or ()),
        init=None if model.init in KEYWORD_INITS else model.init,
        preset=chosen,
        settings=Settings.model_construct(**{name: getattr(model, name) for name in Settings.model_fields}),
        mask=None if model.protect in KEYWORD_PROTECTS else model.protect,
        region_files=_region_files(raw),
    )


def can_find_faces() -> bool:
    """Whether the optional detector of faces is installed."""
    return importlib.util.find_spec("cv2") is not None


def _lacking(raw: dict[Any, Any], file: str) -> tuple[Fault, ...]:
    """Refuse a sidecar's own `protect: faces` without a detector; that of a preset only goes on record."""
    if raw.get("protect") != "faces" or can_find_faces():
        return ()
    hint = "install the detector, the extra `faces`: pip install 'opencv-python-headless<5'"
    return (Fault(file, "protect", "'faces'", "none, or the name of a mask picture", hint),)


def _no_sheet(model: SidecarModel, file: str) -> tuple[Fault, ...]:
    """Refuse what would make a sheet large, or its pictures alike."""
    styles, size, regions, every = len(model.style or ()), model.size, len(model.regions), model.frames.every
    refused = (
        (styles > _SHEET_STYLES, "style", f"{styles} of them", f"at most {_SHEET_STYLES} in a sheet"),
        (size == "original" or size > _SHEET_PX, "size", shown(size), f"at most {_SHEET_PX} in a sheet"),
        (model.objective != "balanced", "objective", shown(model.objective), "balanced in a sheet"),
        (every > 0, "frames.every", shown(every), "0 in a sheet"),
        (regions > 0, "regions", f"{regions} of them", "left out in a sheet"),
    )
    return tuple(Fault(file, key, found, allowed) for is_refused, key, found, allowed in refused if is_refused)


def _faulty(raw: dict[Any, Any], faults: tuple[Fault, ...]) -> Sidecar:
    """Keep the valid names, so that the pictures of a faulty drop are kept with it, each once in its role."""
    style = raw.get("style")
    items = style if isinstance(style, list) else [style]
    styles = [item.get("image") if isinstance(item, dict) else item for item in items]
    init, mask = _name(raw.get("init")), _name(raw.get("protect"))
    return Sidecar(
        content=_name(raw.get("content")),
        styles=tuple(StyleRef(image=name) for name in dict.fromkeys(map(_name, styles)) if name),
        init=None if init in KEYWORD_INITS else init,
        preset="default",
        settings=None,
        faults=faults,
        mask=None if mask in KEYWORD_PROTECTS else mask,
        region_files=tuple(dict.fromkeys(_region_files(raw))),
    )


def _region_files(raw: dict[Any, Any]) -> tuple[tuple[Role, str], ...]:
    """List the valid names in the regions, each with its role."""
    regions = raw.get("regions")
    items = [item for item in regions if isinstance(item, dict)] if isinstance(regions, list) else []
    found = ((role, _name(item.get(role.removeprefix("region_")))) for item in items for role in REGION_ROLES)
    return tuple((role, name) for role, name in found if name is not None)


def _name(value: Any) -> str | None:
    try:
        StyleRef(image=value)
    except ValidationError:
        return None
    return str(value)


def default_faults(house: dict[str, Any], file: str) -> tuple[Fault, ...]:
    """Check the config's `defaults` as if they were a sidecar's keys."""
    forbidden = {"content", "style", "regions", "result"}
    named = tuple(
        Fault(file, key, shown(house[key]), "left out", "it belongs to a single job")
        for key in house
        if key in forbidden
    )
    rest = read({key: value for key, value in house.items() if key not in forbidden}, file)
    return tuple(replace(fault, key=f"defaults.{fault.key}") for fault in named + rest.faults)
