"""The words of the domain: frozen, without any input or output."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from daemon.errors import Failure
from daemon.settings import Scale, Settings

if TYPE_CHECKING:  # `status` answers without numpy
    from collections.abc import Iterable

    import numpy as np
    import numpy.typing as npt

    Picture = npt.NDArray[np.uint8]  # (H, W, 3), RGB, 0..255

CHECKPOINT_SUFFIX: Final = ".ckpt"
Role = Literal["sidecar", "content", "style", "init"]
Backward = Literal["gradient", "convolution"]  # through a convolution: by TensorFlow's kernel, or a convolution


class State(StrEnum):
    """A job's state is the name of the directory it lies in."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    HELD = "held"


class Stamp(NamedTuple):
    """What tells one file at one moment from another, without reading it."""

    dev: int
    ino: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Take it from a stat."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Part:
    """One file of a drop: where it was seen, and, once it is accepted, what its bytes are."""

    role: Role
    name: str  # surrogateescape, as the file system has it
    stored: str  # its name in the job's `in/`
    dev: int
    ino: int
    size: int
    mtime_ns: int
    sha256: str  # "" where the spool does not hold its bytes
    weight: float = 1.0
    library: bool = False  # from folders.styles: read, never consumed
    height_px: int = 0  # of a picture that was decoded
    width_px: int = 0

    @classmethod
    def seen(cls, role: Role, name: str, stamp: Stamp, weight: float = 1.0, *, library: bool = False) -> Part:
        """Name a file that is not copied yet."""
        return cls(role, name, "", *stamp, sha256="", weight=weight, library=library)

    @property
    def stamp(self) -> Stamp:
        """The original as it was when it was seen, and copied."""
        return Stamp(self.dev, self.ino, self.size, self.mtime_ns)


@dataclass(frozen=True)
class Drop:
    """A complete group of files, not accepted yet: somebody asks for a picture.

    `settings` is None where `failure` says what is wrong with the sidecar.
    """

    stem: str
    folder: Path  # relative to the inbox
    parts: tuple[Part, ...]  # the first stands for the whole
    preset: str
    settings: Settings | None
    sidecar_sha256: str | None = None
    failure: Failure | None = None
    doubt_s: float = 0.0  # until its faults are believed; a slow copy looks faulty too
    inbox: Path = Path()
    styles: Path = Path()  # the styles library

    @property
    def path(self) -> str:
        """The path that stands for the drop, below the inbox, as people read it."""
        return printable(str(self.folder / self.parts[0].name))

    def folder_of(self, part: Part) -> Path:
        """Find the folder that a part lies in."""
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
        """Higher first."""
        return self.settings.priority if self.settings else 0

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The sizes to paint at, coarse to fine; none of a job that cannot be painted."""
        return self.settings.all_scales(*self._content_px) if self.settings else ()

    @property
    def total_iterations(self) -> int:
        """Iterations over all sizes."""
        return self.settings.total_iterations(*self._content_px) if self.settings else 0

    @property
    def _content_px(self) -> tuple[int, int]:
        (content,) = self.parts_of("content")
        return content.height_px, content.width_px

    def parts_of(self, role: Role) -> tuple[Part, ...]:
        """The accepted files that play one role."""
        return tuple(part for part in self.parts if part.role == role)

    def to_json(self) -> bytes:
        """Write as ASCII JSON, names with their surrogates escaped."""
        data = {
            name: value for name, value in vars(self).items() if name not in {"settings", "parts", "failure"}
        }
        data["parts"] = [asdict(part) for part in self.parts]
        data["settings"] = self.settings.model_dump(mode="json") if self.settings else None
        data["failure"] = asdict(self.failure) if self.failure else None
        return json.dumps(data, indent=1).encode("ascii")

    @classmethod
    def from_json(cls, text: bytes) -> Job:
        """Read what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: it is not that.
        """
        data = _json_object(text)
        settings, failure = data.pop("settings"), data.pop("failure")
        parts = tuple(Part(**part) for part in data.pop("parts"))
        return cls(
            **data,
            parts=parts,
            settings=None if settings is None else Settings.model_validate(settings),
            failure=None if failure is None else Failure.from_dict(failure),
        )


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(data, dict):
        raise TypeError("not a JSON object")
    return data


@dataclass(frozen=True)
class Losses:
    """The three numbers of one picture; `style` and `content` are weighted, `total` is what is minimised."""

    total: float
    style: float
    content: float


@dataclass(frozen=True)
class Painting:
    """What a job ends with: the best picture at the final size."""

    picture: Picture
    best_iteration: int
    first: Losses
    best: Losses
    last: Losses
    target_s: float  # preparing what every size starts from and is compared with
    loop_s: float  # iterating, at all sizes
    steps_back: int = 0  # how often the numbers ran away
    profile: bytes | None = None  # the content's RGB colour profile, to be carried on
    computed: str = "whole"  # or by tiles, for want of memory: how the last size was computed
    memory_peak_mb: int | None = None  # of the engine's process, while it was painted


@dataclass(frozen=True)
class Plan:
    """How an engine will compute a job; it says so before the first step."""

    memory_estimate_mb: int | None  # the peak of what it takes, in MB of 2^20 bytes; None: not estimated
    memory_limit_mb: int | None  # what it may take; None: nothing limits it
    computed: str  # how the last size is computed: whole, or by tiles of so many px
    is_smallest: bool  # no way of computing it takes less memory
    warning: str = ""  # where memory may run out all the same


@dataclass(frozen=True)
class Step:
    """One picture of the way and its losses: picture 0 is the start, picture n has seen n updates."""

    iteration: int
    iterations: int
    size_px: int
    losses: Losses
    elapsed_s: float
    picture: Picture | None = None
    painting: Painting | None = None  # on the last step
    is_replayed: bool = False  # known from a checkpoint, and told again for the record
    steps_back: int = 0  # how often the numbers ran away so far
    step_s: float = 0.0  # computing it
    restart: str = ""  # why the optimiser began afresh on the way to this picture
    trouble: str = ""  # what did not work beside the painting, or what was done for want of memory


@dataclass(frozen=True)
class Request:
    """What an engine is asked to paint."""

    content: Path
    styles: tuple[tuple[Path, float], ...]
    init: Path | None
    settings: Settings
    checkpoints: Path | None = None  # where its state is kept, to go on from after a crash
    frames: frozenset[int] | None = (
        None  # the iterations whose frames are on disk already; None: nobody keeps any
    )
    smaller: int = 0  # how many tile sizes below the planned one; one more after each attempt out of memory

    def has_frames(self, iterations: Iterable[int]) -> bool:
        """Tell whether every frame that is wanted of some iterations is on disk: no film has a gap."""
        wanted = (number for number in iterations if self.settings.frames.keeps(number))
        return self.frames is None or all(number in self.frames for number in wanted)


@dataclass(frozen=True)
class EngineInfo:
    """What an engine says of itself once the model is loaded."""

    device: str
    precision: str
    weights_source: str
    weights_sha256: str
    load_s: float
    versions: dict[str, str]
    backward: Backward = "gradient"  # how gradients go back; see `transfer.backend.convolutions`


def job_id(parts: tuple[Part, ...], generation: int = 0) -> str:
    """Name a drop by its files: the same untouched drop gets the same id after a crash.

    Args:
        parts: every file with its stamp and hash.
        generation: how many earlier jobs, already retired, had these very stamps. File systems reuse inode
            numbers, so a copy with preserved times can look exactly like the drop before it.
    """
    facts: list[Any] = [[part.name, *part.stamp, part.sha256] for part in parts]
    if generation:
        facts.append(generation)
    return hashlib.sha256(json.dumps(facts).encode("ascii")).hexdigest()[:16]


def slug(stem: str, longest: int = 80) -> str:
    """Make a readable ASCII name that no shell, share or browser trips over."""
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-")[:longest].rstrip("-") or "picture"


def printable(name: str) -> str:
    """Escape what a name may hold that a log line or a page should not."""
    text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort `p2` before `p10`."""
    pieces = re.split(r"(\d{1,18})", name.casefold())
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece]
