"""What can go wrong. Any exception but a `DaemonError` is a defect and ends the process with one log line."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class Reason(StrEnum):
    """Why a job failed: the closed list of codes in `error.yaml`."""

    BAD_SIDECAR = "bad_sidecar"
    PATH_OUTSIDE = "path_outside"
    NOT_A_PICTURE = "not_a_picture"
    FILE_TOO_LARGE = "file_too_large"
    EMPTY_MASK = "empty_mask"
    PICTURE_TOO_LARGE = "picture_too_large"
    PICTURE_TOO_NARROW = "picture_too_narrow"
    ENGINE_CRASHED = "engine_crashed"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    DIVERGED = "diverged"
    OUTBOX_REFUSED = "outbox_refused"
    CANCELLED = "cancelled"
    CORRUPT = "corrupt"

    @property
    def help(self) -> str:
        """The section that explains it in the documents, which are installed with the program."""
        return f"docs/failures.md#{self.value}"


SCALE_DOWN: Final = "scale the picture down"  # a hint of several modules


@dataclass(frozen=True)
class Fault:
    """One thing in a person's file that is wrong."""

    file: str
    key: str = ""  # the path of the key, its parts joined by dots
    found: str = ""  # the value, as `shown` quotes it
    allowed: str = ""  # completes the words "it must be"; for an unknown key, the known ones
    hint: str = ""
    reason: Reason = Reason.BAD_SIDECAR
    problem: str = ""  # replaces found and allowed in the line where they would not name the mistake
    line: int = 0  # of a sidecar, where it is known, from 1

    def __str__(self) -> str:
        """One readable line: file, key, what was found, what is allowed, what may be meant."""
        if self.problem:
            line = f"{self.file}: {self.problem}" + (f" {self.key!r}" if self.key else "")
        else:
            where = f"{self.file}: {self.key}" if self.key else self.file
            found = f"found {self.found}, but it " if self.found else ""
            line = f"{where}: {found}must be {self.allowed}"
        return f"{line} ({self.hint})" if self.hint else line

    def in_full(self) -> str:
        """One line that also lists everything allowed, however long."""
        return f"{self}; allowed: {self.allowed}" if self.problem and self.allowed else str(self)


@dataclass(frozen=True)
class Failure:
    """Why one job failed, as `error.yaml` states it."""

    reason: Reason
    message: str
    hint: str = ""
    file: str = ""
    key: str = ""
    faults: tuple[Fault, ...] = ()
    last_lines: tuple[str, ...] = ()  # what the engine printed before it ended

    @classmethod
    def of_faults(cls, faults: tuple[Fault, ...]) -> Failure:
        """Summarize the faults, at least one, of one sidecar."""
        first = faults[0]
        same = {fault.reason for fault in faults} == {first.reason}
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        reason = first.reason if same else Reason.BAD_SIDECAR
        message = f"{count}: " + "; ".join(str(fault) for fault in faults)
        hint = first.hint if len(faults) == 1 else ""  # of several, each message has its own
        return cls(reason, message, hint, first.file, first.key, faults)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Failure:
        """Read what `dataclasses.asdict` wrote; KeyError, TypeError or ValueError if it is not that."""
        faults = tuple(Fault(**{**item, "reason": Reason(item["reason"])}) for item in data["faults"])
        lines = tuple(data["last_lines"])
        return cls(**{**data, "reason": Reason(data["reason"]), "faults": faults, "last_lines": lines})


def too_large(name: str, why: str, hint: str = SCALE_DOWN) -> Failure:
    """Describe a picture that needs more memory than it may take."""
    return Failure(Reason.PICTURE_TOO_LARGE, f"{name}: {why}", hint=hint, file=name)


def unreadable(name: str, why: str) -> Failure:
    """Describe a file that cannot be decoded as a picture."""
    hint = "open the picture in an image editor and export it again"
    return Failure(Reason.NOT_A_PICTURE, f"{name}: {why}", hint=hint, file=name)


class DaemonError(Exception):
    """Base of every error this program raises on purpose."""


@dataclass(eq=False)
class ConfigError(DaemonError):
    """The config cannot be used: exit 78. `faults` lists every reason."""

    faults: tuple[Fault, ...]
    is_verbose: bool = False

    def __str__(self) -> str:
        """One line a fault."""
        return "\n".join(fault.in_full() if self.is_verbose else str(fault) for fault in self.faults)


class PauseKind(StrEnum):
    """What the environment lacks, in one word: a label for metrics, where the message would be too many."""

    UNAVAILABLE = "unavailable"
    NO_SPACE = "no_space"
    READ_ONLY = "read_only"
    IO_ERROR = "io_error"
    OTHER = "other"

    @classmethod
    def of(cls, error: BaseException | None) -> PauseKind:
        """Classify the error that made the daemon wait."""
        if isinstance(error, NotReady):
            return error.kind or cls.of(error.__cause__)
        number = error.errno if isinstance(error, OSError) else None
        return next((kind for kind, numbers in _ERRNOS.items() if number in numbers), cls.OTHER)


_ERRNOS: Final = {
    PauseKind.UNAVAILABLE: {
        *(errno.ENOENT, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV),
    },
    PauseKind.NO_SPACE: {errno.ENOSPC, errno.EDQUOT},
    PauseKind.READ_ONLY: {errno.EROFS, errno.EACCES, errno.EPERM},
    PauseKind.IO_ERROR: {errno.EIO},
}


class NotReady(DaemonError):  # noqa: N818 - a state to wait for, not a mistake
    """The environment (share, disk, GPU) does not allow work now: the daemon pauses; at its start, exit 75.

    The message says in one line what is missing; `kind` in one word, unless the error's cause tells it.
    """

    def __init__(self, message: str, kind: PauseKind | None = None) -> None:
        super().__init__(message)
        self.kind = kind


class NotTaken(DaemonError):  # noqa: N818 - an answer, not a mistake
    """A drop changed while it was copied, or may not be complete yet; the message says why it stays."""


@dataclass(eq=False)
class JobError(DaemonError):
    """This job cannot be done, now or later: it goes to `failed/`, the others go on."""

    failure: Failure
    picture: Any = None  # the last good one, if there was one: (H, W, 3) uint8 RGB

    def __str__(self) -> str:
        """Say what happened."""
        return self.failure.message


@dataclass(eq=False)
class EngineError(DaemonError):
    """The engine's process ended during a job, by a crash, a kill or a time limit: the job is tried again."""

    message: str
    reason: Reason = Reason.ENGINE_CRASHED
    last_lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say what happened."""
        return self.message
