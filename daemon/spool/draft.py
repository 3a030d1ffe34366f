"""A drop on its way into the spool: copied whole while its files stay as they were seen, then committed."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from daemon import files
from daemon.errors import Failure, NotTaken, Reason
from daemon.job import Part, Stamp, State, job_id, printable
from daemon.spool.stored_job import StoredJob

if TYPE_CHECKING:
    from daemon.job import Drop
    from daemon.lifeline import Lifeline

EXPIRED: Final = "expired"  # ids of jobs that are forgotten, empty files


@dataclass(frozen=True)
class Draft:
    """The copy of a drop, worthless after a crash."""

    drop: Drop
    folder: Path
    parts: tuple[Part, ...]
    failure: Failure | None = None

    @property
    def inputs(self) -> Path:
        """The copied files."""
        return self.folder / "in"


def copy(drop: Drop, folder: Path, max_bytes: int, life: Lifeline) -> Draft:
    """Copy and hash every file of a drop; one over the cap is left out, and is the failure."""
    draft = Draft(drop, folder, ())
    draft.inputs.mkdir(parents=True, mode=0o700)
    parts, failure, counts = [], None, Counter[str]()
    for part in drop.parts:
        name, digest = printable(part.name), ""
        stored = f"{part.role}-{counts[part.role]}{_safe_suffix(part.name)}"
        counts[part.role] += 1
        if part.size <= max_bytes:
            digest = _copy_part(part, drop.folder_of(part), draft.inputs / stored, life)
        elif failure is None:
            message = f"{name}: {part.size} bytes is more than {max_bytes}"
            hint = "use a smaller file, or raise inbox.max_file_mb"
            failure = Failure(Reason.FILE_TOO_LARGE, message, hint=hint, file=name)
        if part.role == "sidecar" and drop.sidecar_sha256 not in {None, digest}:
            raise NotTaken(f"{name} changed while it was read")
        parts.append(replace(part, stored=stored, sha256=digest))
    return replace(draft, parts=tuple(parts), failure=failure)


def _safe_suffix(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return suffix if suffix.isascii() and suffix[1:].isalnum() and len(suffix) <= 6 else ""  # noqa: PLR2004


def _copy_part(part: Part, source: Path, target: Path, life: Lifeline) -> str:
    """Copy one file if it is still, and remains, the file that was seen."""

    def beat() -> None:
        life.beat()
        if life.is_stopping:
            raise NotTaken("the service was stopped")

    name = printable(part.name)
    try:
        fd = files.open_regular(source, part.name)
    except (files.ChangedError, OSError) as error:
        raise NotTaken(f"{name}: {files.cause(error)}") from None
    try:
        if Stamp.of(os.fstat(fd)) != part.stamp:
            raise NotTaken(f"{name} changed")
        digest = files.copy_hashed(fd, target, beat)
        if Stamp.of(os.fstat(fd)) != part.stamp:
            raise NotTaken(f"{name} changed while it was copied")
    except files.SourceError as error:
        raise NotTaken(f"{name} cannot be read: {error}") from None
    finally:
        os.close(fd)
    return digest


def identify(root: Path, parts: tuple[Part, ...]) -> tuple[str, StoredJob | None]:
    """Find the id of a drop, and its job where it was committed before.

    A job of the same id whose originals were removed was an earlier drop, in reused inodes; one whose
    originals were not, or were found gone, is this very drop, perhaps in a folder of another name.
    """
    for generation in itertools.count():
        found = job_id(parts, generation)
        present = [job for state in State if (job := StoredJob.at(root, state, found)).folder.exists()]
        if (root / EXPIRED / found).exists():
            continue
        if not present:
            return found, None
        if not any(job.is_retired and not job.was_moved for job in present):
            return found, present[0]
    raise AssertionError
