"""The values that are passed between the parts: frozen, without any input or output."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, TypeVar

from daemon.errors import Failure
from daemon.settings import Scale, Settings

if TYPE_CHECKING:  # `status` answers without numpy
    from collections.abc import Iterable

    import numpy as np
    import numpy.typing as npt

    Picture = npt.NDArray[np.uint8]  # (H, W, 3), RGB, 0..255
    DeepPicture = npt.NDArray[np.uint16]  # the same, 0..65535
    AnyPicture = TypeVar("AnyPicture", Picture, npt.NDArray[np.float32])  # 0..255, rounded or not

CHECKPOINT_SUFFIX: Final = ".ckpt"
_SHEET_CELLS: Final = 6  # of each style
Role = Literal[
    "sidecar", "content", "style", "init", "protect", "region_content", "region_style", "region_style_mask"
]
REGION_ROLES: Final[tuple[Role, ...]] = ("region_content", "region_style", "region_style_mask")
MASK_ROLES: Final = frozenset({"region_content", "region_style_mask"})
Source = TypeVar("Source")
# Settings that a job of an older version lacks, with values that paint what was accepted then.
_UNCHANGED: Final = {
    "match_weight": 0,
    "chroma_limit": False,
    "protect": "none",
    "background": "#ffffff",
    "alpha": "flatten",
}
Backward = Literal["gradient", "convolution"]  # of a convolution: by TensorFlow's kernel, or by a convolution


class State(StrEnum):
    """A job's state is the name of the directory it lies in."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    HELD = "held"


class Stamp(NamedTuple):
    """Identifies a file at one moment without reading it."""

    dev: int
    ino: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Take it from a stat."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class Face(NamedTuple):
    """The square around a face, eyebrows to chin, in shares of the picture's width and height."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Part:
    """One file of a drop: its role and name, then which file it is and, once it is accepted, its copy."""

    role: Role
    name: str  # surrogateescape, as the file system has it
    stored: str = ""  # its name in the job's `in/`
    dev: int = 0
    ino: int = 0
    size: int = 0
    mtime_ns: int = 0
    sha256: str = ""  # "" if the spool does not hold the file
    weight: float = 1.0
    scale: float = 1.0  # of a style: times `style_scale`
    library: bool = False  # from folders.styles: read, never consumed
    height_px: int = 0  # of a picture that was decoded
    width_px: int = 0
    faces: tuple[Face, ...] | None = None  # of a content; None: nobody looked
    detector: str = ""  # what looked for faces, or why nothing did; "": nothing was asked to
    warnings: tuple[str, ...] = ()  # what its owner should know of a picture

    def seen(self, stamp: Stamp) -> Part:
        """Say which file it is."""
        return replace(self, **stamp._asdict())

    @property
    def stamp(self) -> Stamp:
        """The original when it was seen and copied."""
        return Stamp(self.dev, self.ino, self.size, self.mtime_ns)


@dataclass(frozen=True)
class Drop:
    """A complete group of files that is not accepted yet."""

    stem: str
    folder: Path  # relative to the inbox
    parts: tuple[Part, ...]  # the first stands for the whole
    preset: str
    settings: Settings | None  # None: `failure` says what is wrong with the sidecar
    sidecar_sha256: str | None = None
    failure: Failure | None = None
    doubt_s: float = 0.0  # the time without changes after which it is rejected; a slow copy looks faulty too
    inbox: Path = Path()
    styles: Path = Path()  # the styles library

    @property
    def path(self) -> str:
        """The path below the inbox that stands for the drop, as people read it."""
        return printable(str(self.folder / self.parts[0].name))

    def folder_of(self, part: Part) -> Path:
        """Find the folder of a part."""
        return self.styles if part.library else self.inbox / self.folder


@dataclass(frozen=True)
class Job:
    """One accepted drop. Its `job.json` never changes; its directory moves."""

    id: str
    sequence: int
    stem: str
    folder: str  # relative to the inbox, surrogateescape
    parts: tuple[Part, ...]
    preset: str
    settings: Settings | None
    accepted_at: str  # ISO 8601, UTC
    failure: Failure | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name of its outbox entry: readable, safe, unique."""
        return f"{slug(self.stem)}-{self.id[:8]}"

    @property
    def priority(self) -> int:
        """Its priority; higher first."""
        return self.settings.priority if self.settings else 0

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The sizes to paint at, coarse to fine for each picture; none if the job cannot be painted."""
        if self.settings is None:
            return ()
        (content,) = self.parts_of("content")
        pictures = _SHEET_CELLS * len(self.parts_of("style")) if self.preset == "sheet" else 1
        return self.settings.all_scales(content.height_px, content.width_px) * pictures

    @property
    def total_iterations(self) -> int:
        """The iterations at all sizes."""
        return sum(scale.iterations for scale in self.scales)

    def parts_of(self, role: Role) -> tuple[Part, ...]:
        """The accepted files of one role."""
        return tuple(part for part in self.parts if part.role == role)

    @property
    def faces(self) -> tuple[Face, ...] | None:
        """The faces found in the content; None where nobody looked."""
        return next((part.faces for part in self.parts_of("content")), None)

    def inputs_on_record(self) -> list[dict[str, str]]:
        """Describe every accepted file, for people."""
        return [{"role": part.role, "name": printable(part.name), "sha256": part.sha256} for part in self.parts]

    @property
    def warnings(self) -> list[str]:
        """What its owner should know of the pictures."""
        return [f"{printable(part.name)}: {text}" for part in self.parts for text in part.warnings]

    def to_json(self) -> bytes:
        """Write as ASCII JSON, names with their surrogates escaped."""
        data = vars(self) | {
            "parts": [asdict(part) for part in self.parts],
            "settings": self.settings.model_dump(mode="json") if self.settings else None,
            "failure": asdict(self.failure) if self.failure else None,
        }
        return json.dumps(data, indent=1).encode("ascii")

    @classmethod
    def from_json(cls, text: bytes) -> Job:
        """Read what `to_json` wrote; ValueError, KeyError or TypeError if it is not that."""
        data = json.loads(text)
        if datetime.fromisoformat(data["accepted_at"]).tzinfo is None:
            raise ValueError("accepted_at has no time zone")
        settings, failure = data["settings"], data["failure"]
        data["parts"] = tuple(_part(part) for part in data["parts"])
        data["settings"] = None if settings is None else Settings.model_validate(_UNCHANGED | settings)
        data["failure"] = None if failure is None else Failure.from_dict(failure)
        return cls(**data)


def _part(data: dict[str, Any]) -> Part:
    faces = data.get("faces")
    found = None if faces is None else tuple(Face(*face) for face in faces)
    return Part(**data | {"faces": found, "warnings": tuple(data.get("warnings", ()))})


@dataclass(frozen=True)
class Losses:
    """The losses of one picture; `style` and `content` are weighted, `total` is minimized."""

    total: float
    style: float
    content: float


@dataclass(frozen=True)
class Painting:
    """The outcome of a job: the best picture at the final size."""

    picture: Picture | DeepPicture  # deep for `output.bits: 16`; (H, W, 4) with the content's alpha channel
    best_iteration: int
    first: Losses
    best: Losses
    last: Losses
    target_s: float  # computing the start and the targets of every size
    loop_s: float  # iterating, at all sizes
    steps_back: int = 0  # how often the loss diverged
    exif: bytes = b""  # what the result carries of the content's
    computed: str = "whole"  # how the last size was computed: whole, or in tiles to save memory
    memory_peak_mb: int | None = None  # of the engine's process during the painting
    inputs: tuple[Picture, ...] = ()  # the content and the styles as decoded, reduced to be shown
    sheet: str = ""  # of a page: the sidecars of its pictures


@dataclass(frozen=True)
class Plan:
    """How an engine will compute a job; it is sent before the first step."""

    memory_estimate_mb: int | None  # the expected peak, in MB of 2^20 bytes; None: not estimated
    computed: str  # how the last size is computed: whole, or in tiles of so many px
    is_smallest: bool  # nothing takes less memory
    warning: str = ""  # set if memory may run out all the same


@dataclass(frozen=True)
class Step:
    """One iteration's picture and losses: picture 0 is the start, picture n has seen n updates."""

    iteration: int
    iterations: int
    size_px: int
    losses: Losses
    elapsed_s: float
    picture: Picture | None = None
    painting: Painting | None = None  # on the last step
    is_replayed: bool = False  # known from a checkpoint, and sent again for the record
    steps_back: int = 0  # how often the loss diverged so far
    step_s: float = 0.0  # computing it
    restart: str = ""  # why the optimizer was restarted before this picture
    trouble: str = ""  # a problem that did not stop the painting, or what was done to save memory


class Style(NamedTuple, Generic[Source]):
    """A painting and its masks: files at first, then uint8 pixels, of masks (h, w) levels, 255 in the white."""

    image: Source
    weight: float = 1.0  # in the blend; of a region's painting: how strong it is there
    scale: float = 1.0  # its own, times the settings' `style_scale`
    mask: Source | None = None  # the part of the painting that counts, of its aspect; None: all of it
    region: Source | None = None  # the part of the content that it paints; None: the rest, blended with others


@dataclass(frozen=True)
class Request:
    """The picture that an engine is asked to paint."""

    content: Path
    styles: tuple[Style[Path], ...]
    init: Path | None
    settings: Settings
    checkpoints: Path | None = None  # the folder of its checkpoints, to resume from after a crash
    frames: frozenset[int] | None = None  # the iterations whose frames are on disk already; None: none are kept
    faces: tuple[Face, ...] = ()  # of the content, to be protected
    mask: Path | None = None  # a picture, white where the content is protected
    sheet: tuple[str, ...] = ()  # the names of content and styles as a sheet shows them; (): one picture
    smaller: int = 0  # how many tile sizes below the planned one; one more after each attempt out of memory

    def has_frames(self, iterations: Iterable[int]) -> bool:
        """Whether every frame wanted of some iterations is on disk, so that the animation has no gap."""
        wanted = (number for number in iterations if self.settings.frames.keeps(number))
        return self.frames is None or all(number in self.frames for number in wanted)


@dataclass(frozen=True)
class EngineInfo:
    """An engine's description of itself once the model is loaded."""

    device: str
    precision: str
    weights_source: str
    weights_sha256: str
    load_s: float
    versions: dict[str, str]
    backward: Backward = "gradient"  # see `transfer.backend.operations`


def job_id(parts: tuple[Part, ...], generation: int = 0) -> str:
    """Name a drop by its files: the same untouched drop gets the same id after a crash.

    `generation` counts the earlier, retired jobs with these very stamps: file systems reuse inode numbers, so a
    copy with preserved times can look exactly like the drop before it.
    """
    facts: list[Any] = [[part.name, *part.stamp, part.sha256] for part in parts]
    if generation:
        facts.append(generation)
    return hashlib.sha256(json.dumps(facts).encode("ascii")).hexdigest()[:16]


def slug(stem: str, longest: int = 80) -> str:
    """Make a readable ASCII name that no shell, share or browser rejects."""
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-")[:longest].rstrip("-") or "picture"


def printable(name: str) -> str:
    """Escape the characters of a name that a log line or a page should not contain."""
    characters = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)
    return "".join(characters)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort `p2` before `p10`."""
    pieces = re.split(r"(\d{1,18})", name.casefold())
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece]
