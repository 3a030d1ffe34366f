"""Outbox entries: built under a hidden name, synced, and shown with one rename.

For the length of one call the outbox is held by a descriptor, and everything is done relative to it: a share
that is unmounted meanwhile is never taken for the empty folder under its mount point.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from daemon import files
from daemon.errors import NotReady
from daemon.job import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from daemon.job import Job, Part
    from daemon.lifeline import Lifeline
    from daemon.sentinel import Sentinel

MANIFEST: Final = "manifest.json"
RUNNING: Final = "_running"
_TRIES: Final = 5
_SHARES_REFUSE: Final = frozenset('<>:"|?*\\')


class Outbox:
    """The folder where results appear."""

    def __init__(self, root: Path, sentinel: Sentinel) -> None:
        self.root = root
        self.check = sentinel.check
        self.opened = sentinel.opened

    def clean(self, ids: Collection[str]) -> None:
        """Remove what an earlier run left unfinished for these jobs: hidden drafts, and their previews.

        Another daemon may publish to the same outbox; what belongs to other jobs stays.

        Raises:
            NotReady: the outbox is away.
            OSError: it does not let us.
        """
        known = {*ids, *(id_[:8] for id_ in ids)}  # drafts end in the id, labels in its beginning
        with self.opened() as root:
            for name in _names(root, "."):
                if name.startswith(".tmp-") and name.rpartition("-")[2] in known:
                    files.remove_tree(PurePath(name), at=root)
            for name in _names(root, RUNNING):
                if name.rpartition("-")[2] in known:
                    _remove_preview(root, name)

    # The preview

    def live(self, job: Job) -> Path:
        """Give the folder of a job's preview while it runs."""
        return self.root / RUNNING / job.label

    def preview(self, job: Job, picture: bytes | None, status: Mapping[str, Any]) -> None:
        """Show how far a job is in `latest.png`, unless the picture is None, and `status.json`; not durable.

        Raises:
            NotReady: the outbox is away.
            OSError, ChangedError: it does not take the preview.
        """
        texts = {} if picture is None else {"latest.png": picture}
        texts["status.json"] = json.dumps(status).encode()
        with self.opened() as root:
            for _ in range(_TRIES - 1):  # the end of another job may remove `_running/` at this instant
                with contextlib.suppress(files.ChangedError):
                    return _write_preview(root, job.label, texts)
            return _write_preview(root, job.label, texts)

    def end_preview(self, job: Job) -> None:
        """Remove a job's preview, if the outbox lets us."""
        with contextlib.suppress(OSError, NotReady), self.opened() as root:
            _remove_preview(root, job.label)

    # Entries

    def is_published(self, job: Job) -> bool:
        """Tell whether a job's result is there, whole.

        Raises:
            NotReady: the outbox is away, so nobody can tell.
            OSError: it cannot be read.
        """
        with self.opened() as root:
            return _find(root, job, "") is not None

    def tidy(self, job: Job) -> None:
        """Remove an earlier failure and the preview of a published job, if the outbox lets us."""
        with contextlib.suppress(OSError, NotReady), self.opened() as root:
            _make_way(root, job)

    def publish(self, job: Job, out: Path, life: Lifeline) -> Path:
        """Show a result (a folder without its manifest) in place of an earlier failure and the preview.

        Raises:
            NotReady: the outbox is away.
            OSError: it does not take the result; nothing of it is visible.
        """
        with self.opened() as root:
            entry = _find(root, job, "")
            if entry is None:
                found = sorted(path for path in out.rglob("[!.]*") if path.is_file())
                entry = _show(root, job, "", {str(path.relative_to(out)): path for path in found}, life)
            else:
                files.fsync_folder(PurePath(), at=root)
            _make_way(root, job)
        return self.root / entry

    def publish_failure(
        self, job: Job, error: bytes, inputs: Path, last_good: Path, life: Lifeline, *, page: bytes = b""
    ) -> Path:
        """Show a failure: error.yaml, and the files as they were dropped, to be corrected and dropped again.

        `inputs` is the folder of the accepted files, and `last_good` a picture that need not be there; `page`,
        unless it is empty, becomes error.html.

        Raises:
            NotReady, OSError: as `publish`.
        """
        sources = {f"drop/{name}": inputs / part.stored for name, part in drop_names(job).items()}
        sources[last_good.name] = last_good
        present: dict[str, Path | bytes] = {name: path for name, path in sources.items() if path.exists()}
        present |= {"error.html": page} if page else {}
        with self.opened() as root:
            _make_way(root, job)
            entry = _show(root, job, ".failed", {**present, "error.yaml": error}, life)
        return self.root / entry


# In what follows, `root` is a descriptor of the outbox


def _names(root: int, folder: str) -> list[str]:
    try:
        with files.opened_folder(PurePath(folder), at=root, lists=True) as fd:
            return os.listdir(fd)
    except files.ChangedError:
        return []


def _write_preview(root: int, label: str, texts: Mapping[str, bytes]) -> None:
    with files.opened_folder(PurePath(RUNNING, label), at=root, makes=True) as folder:
        for name, data in texts.items():
            files.replace(PurePath(name), data, is_durable=False, at=folder)


def _remove_preview(root: int, label: str) -> None:
    """Remove a preview, if the share lets us: somebody may be looking at its picture."""
    with contextlib.suppress(OSError):
        files.remove_tree(PurePath(RUNNING, label), at=root)
        os.rmdir(RUNNING, dir_fd=root)


def _show(root: int, job: Job, suffix: str, contents: Mapping[str, Path | bytes], life: Lifeline) -> str:
    """Make an entry of these files (path in the entry -> source), and give its name."""
    draft = PurePath(f".tmp-{job.id}")
    files.remove_tree(draft, at=root)
    files.make_folder(draft, at=root)
    manifest = {name: _put(root, draft / name, source, life) for name, source in contents.items()}
    text = json.dumps({"id": job.id, "files": manifest}, indent=1)
    files.write(draft / MANIFEST, text.encode("ascii"), at=root)
    folders = {draft, *(draft / folder for name in contents for folder in PurePath(name).parents)}
    for folder in sorted(folders, reverse=True):
        files.fsync_folder(folder, at=root)
    target = f"{job.label}{suffix}"
    if files.exists_at(root, target):
        target = f"{job.label}{job.id[8:]}{suffix}"
    files.move(draft, PurePath(target), at=root)
    return target


def _put(root: int, target: PurePath, source: Path | bytes, life: Lifeline) -> dict[str, Any]:
    """Write or copy one file of an entry; gives its hash and size for the manifest."""
    if isinstance(source, bytes):
        files.write(target, source, at=root)
        return {"sha256": hashlib.sha256(source).hexdigest(), "size": len(source)}
    files.make_folder(target.parent, at=root)
    with source.open("rb") as file:
        try:
            digest = files.copy_hashed(file.fileno(), target, life.beat, at=root)
        except files.SourceError as error:  # our own disk: to be waited for like any other
            raise OSError(errno.EIO, str(error), str(source)) from error
    return {"sha256": digest, "size": os.stat(target, dir_fd=root).st_size}


def _find(root: int, job: Job, suffix: str) -> str | None:
    for label in (job.label, f"{job.label}{job.id[8:]}"):
        name = f"{label}{suffix}"
        try:
            with open(files.open_regular(root, f"{name}/{MANIFEST}"), "rb") as file:
                if json.load(file)["id"] == job.id:
                    return name
        except (files.ChangedError, PermissionError, ValueError, KeyError, TypeError):
            continue  # not there, or not ours
    return None


def _make_way(root: int, job: Job) -> None:
    """Remove a job's preview and earlier failure; readers see that whole or not at all."""
    _remove_preview(root, job.label)
    hidden = PurePath(f".tmp-old-{job.id}")
    files.remove_tree(hidden, at=root)  # of a try that was cut short
    entry = _find(root, job, ".failed")
    if entry is not None:
        files.move(PurePath(entry), hidden, at=root)
        files.remove_tree(hidden, at=root)


def drop_names(job: Job) -> dict[str, Part]:
    """Name each dropped file once, though it may play two parts, as every shell and share takes it.

    Two names differ also where case makes no difference.
    """
    names: dict[str, Part] = {}
    for part in {part.name: part for part in job.parts if not part.library}.values():
        name = part.name
        if printable(name) != name or name.startswith(("-", ".")) or set(name) & _SHARES_REFUSE:
            name = part.stored
        while name.casefold() in {taken.casefold() for taken in names}:
            name = f"_{name}"
        names[name] = part
    return names
