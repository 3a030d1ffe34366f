"""A drop's files into the spool: copied whole while they stay what they were, then looked at."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from daemon import files
from daemon.errors import Failure, JobError, NotTaken, Reason
from daemon.job import Part, Stamp, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.job import Drop, DropPart, Role
    from daemon.settings import Settings


def copy(
    drop: Drop, target: Path, max_bytes: int, beat: Callable[[], None] = lambda: None
) -> tuple[list[Part], Failure | None]:
    """Copy every part; a file over the cap is kept out, and is the failure."""
    parts, failure, counts = [], None, dict.fromkeys(("sidecar", "content", "style", "init"), 0)
    for item in drop.parts:
        stored = f"{item.role}-{counts[item.role]}{_safe_suffix(item.name)}"
        counts[item.role] += 1
        digest = ""
        if item.stamp.size > max_bytes:
            failure = failure or _too_large(item, max_bytes)
        else:
            digest = _copy_part(item, target / stored, max_bytes, beat)
        if item.role == "sidecar" and drop.sidecar_sha256 not in {None, digest}:
            raise NotTaken(f"{printable(item.name)} changed while it was read")
        parts.append(Part(item.role, item.name, stored, *item.stamp, digest, item.weight, library=item.library))
    return parts, failure


def look(
    drop: Drop, parts: list[Part], folder: Path, inspect: Callable[[Path, str], tuple[int, int]]
) -> tuple[list[Part], Failure | None]:
    """Decode every picture whole: half a JPEG passes anything less. Returns the parts with their sizes."""
    from daemon import images  # noqa: PLC0415 - `status` starts faster without numpy and Pillow

    seen = []
    for part in parts:
        seen.append(part)
        if part.role == "sidecar" or not part.sha256:
            continue
        name = printable(part.name)
        try:
            height, width = inspect(folder / part.stored, name)
            seen[-1] = replace(part, height_px=height, width_px=width)
            if part.role != "init":  # which is cropped to the content's shape
                images.fit(height, width, _least_size(drop.settings, part.role, height, width))
        except JobError as error:
            return parts, Failure(**{**vars(error.failure), "file": name})
    return seen, None


def _least_size(settings: Settings | None, role: Role, height: int, width: int) -> int:
    """Give the smallest size at which a picture must not be too narrow."""
    if settings is None:
        return max(height, width)
    road = settings.all_scales(height, width)
    return (road[0] if role == "content" else road[-1]).size  # a style is not made narrower than it may be


def _safe_suffix(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return suffix if suffix.isascii() and suffix[1:].isalnum() and len(suffix) <= 6 else ""  # noqa: PLR2004


def _too_large(item: DropPart, max_bytes: int) -> Failure:
    name = printable(item.name)
    return Failure(
        Reason.FILE_TOO_LARGE,
        f"{name}: {item.stamp.size} bytes is more than {max_bytes}",
        hint="use a smaller file, or raise inbox.max_file_mb",
        file=name,
    )


def _copy_part(item: DropPart, target: Path, max_bytes: int, beat: Callable[[], None]) -> str:
    """Copy one part if it is still, and remains, the file that was seen."""
    try:
        fd = files.open_regular(item.folder, item.name)
    except (files.ChangedError, OSError) as error:
        raise NotTaken(f"{printable(item.name)}: {getattr(error, 'strerror', None) or error}") from None
    try:
        if Stamp.of(os.fstat(fd)) != item.stamp:
            raise NotTaken(f"{printable(item.name)} changed")
        digest = files.copy_hashed(fd, target, max_bytes, beat)
        if Stamp.of(os.fstat(fd)) != item.stamp:
            raise NotTaken(f"{printable(item.name)} changed while it was copied")
    except files.TooLargeError:
        raise NotTaken(f"{printable(item.name)} grew while it was copied") from None
    except files.SourceError as error:
        raise NotTaken(f"{printable(item.name)} cannot be read: {error}") from None
    finally:
        os.close(fd)
    return digest
