"""What can go wrong, and who it concerns.

    DaemonError
    ├── ConfigError      the config is wrong: exit 78, every fault listed
    ├── NotReady         the environment is (a share, a disk, a GPU): the daemon pauses; at the start, exit 75
    ├── NotTaken         a drop may not be complete: it stays in the inbox, where the message says why
    ├── JobError         one job cannot be done: it goes to `failed/`, the others go on
    └── EngineError      the engine's process ended or was ended: the attempt counts, the job is tried again

Anything else is a defect and ends the process loudly, with one log line.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final


class Reason(StrEnum):
    """Why a job failed: the closed list that `error.yaml` draws from."""

    BAD_SIDECAR = "bad_sidecar"
    PATH_OUTSIDE = "path_outside"
    NOT_A_PICTURE = "not_a_picture"
    FILE_TOO_LARGE = "file_too_large"
    PICTURE_TOO_LARGE = "picture_too_large"
    PICTURE_TOO_NARROW = "picture_too_narrow"
    ENGINE_CRASHED = "engine_crashed"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    DIVERGED = "diverged"
    OUTBOX_REFUSED = "outbox_refused"
    CANCELLED = "cancelled"
    CORRUPT = "corrupt"


@dataclass(frozen=True)
class Fault:
    """One thing a person wrote that cannot be taken as it stands."""

    file: str
    key: str
    found: str
    allowed: str
    hint: str = ""
    reason: Reason = Reason.BAD_SIDECAR

    def __str__(self) -> str:
        """One readable line: file, key, what was found, what is allowed."""
        where = f"{self.file}: {self.key}" if self.key else self.file
        found = f"found {self.found}, " if self.found else ""
        line = f"{where}: {found}allowed: {self.allowed}"
        return f"{line} ({self.hint})" if self.hint else line


@dataclass(frozen=True)
class Failure:
    """Why one job failed, in the words of `error.yaml`."""

    reason: Reason
    message: str
    hint: str = ""
    file: str = ""
    key: str = ""
    faults: tuple[Fault, ...] = ()
    last_lines: tuple[str, ...] = ()  # what the engine printed before it ended

    @classmethod
    def of_faults(cls, faults: tuple[Fault, ...]) -> Failure:
        """Sum up the faults of one sidecar (at least one)."""
        first = faults[0]
        same = {fault.reason for fault in faults} == {first.reason}
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        return cls(
            reason=first.reason if same else Reason.BAD_SIDECAR,
            message=f"{count}: " + "; ".join(str(fault) for fault in faults),
            hint=next((fault.hint for fault in faults if fault.hint), ""),
            file=first.file,
            key=first.key,
            faults=faults,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Failure:
        """Read back what `dataclasses.asdict` wrote.

        Raises:
            KeyError, TypeError, ValueError: the data is not a failure's.
        """
        faults = tuple(Fault(**{**item, "reason": Reason(item["reason"])}) for item in data["faults"])
        lines = tuple(data["last_lines"])
        return cls(**{**data, "reason": Reason(data["reason"]), "faults": faults, "last_lines": lines})


class DaemonError(Exception):
    """Base of every error this program raises on purpose."""


@dataclass(eq=False)
class ConfigError(DaemonError):
    """The config cannot be used; `faults` names every reason."""

    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        """One fault a line."""
        return "\n".join(str(fault) for fault in self.faults)


class PauseKind(StrEnum):
    """What the environment lacks, in one word: a label for metrics, where the message would be too many."""

    UNAVAILABLE = "unavailable"
    NO_SPACE = "no_space"
    READ_ONLY = "read_only"
    IO_ERROR = "io_error"
    OTHER = "other"

    @classmethod
    def of(cls, error: BaseException | None) -> PauseKind:
        """Classify what holds the daemon up."""
        if isinstance(error, NotReady):
            return error.kind
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


class NotReady(DaemonError):  # noqa: N818 - a state to wait out, not an error of anyone
    """The environment does not allow work now; the message says what is missing."""

    def __init__(self, message: str, kind: PauseKind | None = None) -> None:
        """Say what is missing.

        Args:
            message: one line for people.
            kind: the same in one word; default: that of the error it is raised from.
        """
        super().__init__(message)
        self._kind = kind

    @property
    def kind(self) -> PauseKind:
        """What is missing, in one word."""
        return self._kind or PauseKind.of(self.__cause__)


class NotTaken(DaemonError):  # noqa: N818 - an answer, not an error
    """A drop changed under the copy, or may not be complete yet; the message says why it stays."""


@dataclass(eq=False)
class JobError(DaemonError):
    """This job cannot be done, now or later; `picture` is the last good one, where there was one."""

    failure: Failure
    picture: Any = None  # (H, W, 3) uint8 RGB

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross a pipe whole."""
        return JobError, (self.failure, self.picture)

    def __str__(self) -> str:
        """Say what happened."""
        return self.failure.message


@dataclass(eq=False)
class EngineError(DaemonError):
    """The engine ended under a job: crash, kill or time limit."""

    message: str
    reason: Reason = Reason.ENGINE_CRASHED
    last_lines: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        """Say what happened."""
        return self.message
