"""What lies in the inbox: every folder with its regular files, and what else is there."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from daemon import files
from daemon.errors import NotReady
from daemon.job import Stamp, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from daemon.inbox.pairing import Group

IGNORED: Final = (
    *(".*", "~*", "*~", "*.tmp", "*.part", "*.partial", "*.filepart", "*.crdownload", "*.download", "*.swp"),
    *("~$*", "Thumbs.db", "desktop.ini", "@eaDir/", "__MACOSX/", "lost+found/", "_accepted/", "_rejected/"),
)

MAX_DEPTH: Final = 64
STAGE_S: Final = 2.0  # what a stage of a turn may take: none keeps the others waiting for long


def is_ignored(name: str, extra: Iterable[str], *, is_folder: bool) -> bool:
    """Match a name against the built-in and the extra globs, whatever its case."""
    name = name.casefold()
    return any(
        fnmatch.fnmatchcase(f"{name}/" if pattern.endswith("/") else name, pattern.casefold())
        for pattern in (*IGNORED, *extra)
        if is_folder or not pattern.endswith("/")
    )


@dataclass(frozen=True)
class Folder:
    """One folder of the inbox as scanned, and then paired."""

    path: Path  # relative to the inbox
    stamps: dict[str, Stamp] = field(default_factory=dict)  # regular files
    strange: dict[str, str] = field(default_factory=dict)  # anything else: name -> what it is
    groups: tuple[Group, ...] = ()
    unread: tuple[str, ...] = ()  # sidecars that are not settled yet
    trouble: str = ""  # why it could not be listed whole

    @property
    def is_known(self) -> bool:
        """Whether every sidecar of the folder has been read: else one may name any of its files."""
        return not self.trouble and not self.unread

    @property
    def triggers(self) -> list[str]:
        """The files that each stand for a drop that is not accepted yet."""
        return [*self.unread, *(group.trigger for group in self.groups)]

    @property
    def needed(self) -> frozenset[str]:
        """The names that the sidecars and pairs of the folder need."""
        return frozenset().union(*(group.local_names for group in self.groups))

    def path_of(self, name: str) -> str:
        """Give the printable path of a file in it, relative to the inbox."""
        return printable(str(self.path / name))


def last_changes(
    stamps: Mapping[str, Stamp], now: float, before: Mapping[str, tuple[Stamp, float]]
) -> dict[str, tuple[Stamp, float]]:
    """Note each file of a scan and since when it has looked as it does now; `before` is the last scan's result.

    Modification times are compared for equality only, never with a clock: copies keep old ones, and wall
    clocks jump. `now` is any monotonic time in seconds.
    """
    changes = {}
    for path, stamp in stamps.items():
        known = before.get(path)
        changes[path] = known if known and known[0] == stamp else (stamp, now)
    return changes


def scan(root: Path, ignore: Iterable[str]) -> list[Folder]:
    """List every folder below the resolved `root`, no link followed, each with its own trouble.

    Raises:
        NotReady: the inbox itself cannot be listed.
    """
    found, todo = [], [Path()]
    while todo:
        folder = Folder(todo.pop())
        if len(folder.path.parts) > MAX_DEPTH:
            found.append(Folder(folder.path, trouble=f"nested deeper than {MAX_DEPTH} folders"))
            continue
        try:
            todo += _list(root, folder, ignore)
        except (OSError, files.ChangedError) as error:
            why = files.cause(error)
            if folder.path == Path():
                raise NotReady(f"inbox {root}: {why}") from error
            folder = Folder(folder.path, trouble=f"cannot be read: {why}")
        found.append(folder)
    return found


def _list(root: Path, folder: Folder, ignore: Iterable[str]) -> list[Path]:
    """Fill in one folder, and return the folders in it."""
    below = []
    with files.opened_folder(root / folder.path, lists=True) as fd, os.scandir(fd) as items:
        for item in items:
            is_folder = item.is_dir(follow_symlinks=False)
            if is_ignored(item.name, ignore, is_folder=is_folder):
                continue
            with contextlib.suppress(OSError):  # it may vanish meanwhile
                if is_folder:
                    below.append(folder.path / item.name)
                elif item.is_symlink():
                    folder.strange[item.name] = "a symbolic link, which is not followed"
                elif item.is_file(follow_symlinks=False):
                    folder.stamps[item.name] = Stamp.of(item.stat(follow_symlinks=False))
                else:
                    folder.strange[item.name] = "not a regular file"
    return below
