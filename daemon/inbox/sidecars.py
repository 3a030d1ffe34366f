"""The sidecars of the inbox, each read once for each state of its file."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from daemon import files, safe_yaml, sidecar
from daemon.job import printable

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

    from daemon.inbox.scan import Folder
    from daemon.job import Stamp
    from daemon.sidecar import Sidecar


class Read(NamedTuple):
    """A sidecar that was read, good for as long as the file and the house defaults stay what they are."""

    stamp: Stamp
    defaults: dict[str, Any]
    sidecar: Sidecar
    sha256: str | None  # None: too large to be read whole


class Sidecars:
    """What the sidecars say, remembered from look to look."""

    def __init__(self, inbox: Path) -> None:
        """Know none.

        Args:
            inbox: the inbox, resolved.
        """
        self._inbox = inbox
        self._known: dict[str, Read] = {}

    def known(self, folder: Folder, name: str, defaults: dict[str, Any]) -> Read | None:
        """Find a sidecar that was read before and would be read the same again."""
        read = self._known.get(str(folder.path / name))
        is_current = read and read.stamp == folder.stamps[name] and read.defaults == defaults
        return read if is_current else None

    def read(self, folder: Folder, name: str, defaults: dict[str, Any]) -> Read:
        """Read one.

        Raises:
            OSError, ChangedError: it cannot be read.
        """
        with os.fdopen(files.open_regular(self._inbox / folder.path, name), "rb") as file:
            data = file.read(safe_yaml.MAX_BYTES + 1)
        parsed = sidecar.parse(data, printable(name), defaults)
        digest = hashlib.sha256(data).hexdigest() if len(data) <= safe_yaml.MAX_BYTES else None
        read = Read(folder.stamps[name], defaults, parsed, digest)
        self._known[str(folder.path / name)] = read
        return read

    def keep(self, paths: Container[str]) -> None:
        """Forget the sidecars that are not among these paths."""
        self._known = {path: read for path, read in self._known.items() if path in paths}
