"""One job where it lies: the facts that its directory holds."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from daemon.errors import Failure
from daemon.job import CHECKPOINT_SUFFIX, Job, State

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.job import Part

JOB: Final = "job.json"
FAILURE: Final = "failure.json"
ATTEMPTS: Final = "attempts.jsonl"
CANCEL: Final = "cancel"
FACTS: Final = "facts.json"
RETIRED: Final = "retired"


@dataclass(frozen=True)
class StoredJob:
    """One job where it lies."""

    state: State
    id: str
    folder: Path

    @classmethod
    def at(cls, root: Path, state: State, id: str) -> StoredJob:  # noqa: A002 - the field's name
        """Give the place of a job in a spool, whether it is there or not."""
        return cls(state, id, root / state.value / id)

    @functools.cached_property
    def job(self) -> Job | None:
        """Its job.json, read when first asked for; None where it cannot be read."""
        try:
            return Job.from_json((self.folder / JOB).read_bytes())
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            return None

    @property
    def label(self) -> str:
        """The name people know it by."""
        return self.job.label if self.job else self.id

    @property
    def inputs(self) -> Path:
        """The accepted files."""
        return self.folder / "in"

    @property
    def out(self) -> Path:
        """The folder of what is to be published."""
        return self.folder / "out"

    @property
    def record(self) -> Path:
        """The last file of what is to be published: it says that the others are there."""
        return self.out / "result.yaml"

    @property
    def is_stored(self) -> bool:
        """Whether a whole result waits to be published."""
        return self.record.exists()

    @property
    def frames(self) -> Path:
        """The folder of the frames."""
        return self.out / "frames"

    @property
    def kept_frames(self) -> dict[int, Path]:
        """The frames on disk by iteration, in order."""
        return dict(sorted((int(path.stem), path) for path in self.frames.glob("*.png")))

    @property
    def last_good(self) -> Path:
        """The last good picture of a job that diverged."""
        return self.out / "last_good.png"

    @property
    def checkpoints(self) -> Path:
        """The folder of the engine's checkpoints."""
        return self.folder / "ckpt"

    @property
    def progress(self) -> int:
        """How far the newest checkpoint is, by its name; 0 without one."""
        names = [path.stem for path in self.checkpoints.glob(f"*{CHECKPOINT_SUFFIX}")]
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def input(self, part: Part) -> Path:
        """The accepted bytes of one part."""
        return self.inputs / part.stored

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Every record of an attempt, oldest first; a torn last line is passed over."""
        records = []
        with contextlib.suppress(FileNotFoundError):
            for line in (self.folder / ATTEMPTS).read_bytes().splitlines():
                with contextlib.suppress(ValueError):
                    records.append(json.loads(line))
        return [record for record in records if isinstance(record, dict) and "event" in record]

    @property
    def attempts_used(self) -> int:
        """The number of attempts that count: started since the last retry or progress, and ended by a crash.

        A stop, a disk that did not allow it, and memory that ran out while less could be tried use none. Of two
        starts in a row the first never left the queue, and an end recorded twice is one end. A start from a
        later checkpoint than the one before shows progress.
        """
        used, progress, is_open = 0, 0, False
        for record in self.attempts:
            event, reached = record["event"], record.get("progress", 0)
            if event == "retried" or (event == "started" and reached > progress):
                used, progress = 0, reached
            elif is_open and event not in {"started", "interrupted", "exhausted", "held", "released"}:
                used += 1
            is_open = event == "started" or (is_open and event in {"held", "released"})
        return used + is_open

    @property
    def times_exhausted(self) -> int:
        """The number of attempts since the last retry that ran out of memory."""
        events = [record["event"] for record in self.attempts]
        since = events[::-1].index("retried") if "retried" in events else len(events)
        return events[len(events) - since :].count("exhausted")

    @property
    def ended_at(self) -> datetime:
        """When it was completed or failed; where a full disk took no record of that, when it last changed."""
        for record in reversed(self.attempts):
            if record["event"] in {"completed", "failed"}:
                with contextlib.suppress(KeyError, TypeError, ValueError):
                    return datetime.fromisoformat(record["at"])
        return datetime.fromtimestamp(self.folder.stat().st_mtime, UTC)

    @property
    def failure(self) -> Failure | None:
        """Why it failed, where it did."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return Failure.from_dict(json.loads((self.folder / FAILURE).read_bytes()))
        return self.job.failure if self.job else None

    @property
    def facts(self) -> dict[str, Any]:
        """The keys of `job.completed`, kept until the painted picture is published."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return dict(json.loads((self.folder / FACTS).read_bytes()))
        return {}

    @property
    def is_cancelled(self) -> bool:
        """Whether an operator asked to end it."""
        return os.path.exists(self.folder / CANCEL)  # noqa: PTH110 - no error of the disk stops an ending

    @property
    def was_moved(self) -> bool:
        """Whether its originals were found gone, and not removed by the daemon: they may turn up elsewhere."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / RETIRED).stat().st_size > 0
        return False

    @property
    def is_retired(self) -> bool:
        """Whether its originals are known to have left the inbox, or to be somebody's new files."""
        return (self.folder / RETIRED).exists()


@dataclass(frozen=True)
class Claim:
    """One job taken for work: it lies in `running/` and its attempt is on record."""

    entry: StoredJob
    job: Job
    attempt: int
    progress: int = 0  # of the painting when the attempt began
