"""Outbox entries: built under a hidden name, synced, and shown with one rename."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any, Final

from daemon import files
from daemon.errors import NotReady
from daemon.job import printable
from daemon.outbox.frames import remove_live

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from daemon.job import Job, Part
    from daemon.lifeline import Lifeline

MANIFEST: Final = "manifest.json"
RUNNING: Final = "_running"
_SHARES_REFUSE: Final = frozenset('<>:"|?*\\')


class Outbox:
    """The folder where results appear."""

    def __init__(self, root: Path, check: Callable[[], None] = lambda: None) -> None:
        """Name the folder.

        Args:
            root: the outbox.
            check: raises NotReady while it is away.
        """
        self.root = root
        self.check = check

    def live(self, job: Job) -> Path:
        """Give the folder of a job's progress while it runs."""
        return self.root / RUNNING / job.label

    def clean(self, ids: Collection[str]) -> None:
        """Remove what an earlier run left half made for these jobs: hidden drafts, and their progress.

        Another daemon may publish to the same outbox; what is not of these jobs is let be.
        """
        known = {*ids, *(id_[:8] for id_ in ids)}  # drafts end in the id, labels in its beginning
        for item in self.root.glob(".tmp-*"):
            if item.name.rpartition("-")[2] in known:
                files.remove_tree(item)
        for item in self.root.glob(f"{RUNNING}/*"):
            if item.name.rpartition("-")[2] in known:
                self._end_live(item)

    def _end_live(self, live: Path) -> None:
        """Take a job's progress away, if the share lets us: somebody may be looking at its picture."""
        with contextlib.suppress(OSError):
            remove_live(live)

    def is_published(self, job: Job) -> bool:
        """Tell whether a job's result is there, whole."""
        return self._find(job, "") is not None

    def tidy(self, job: Job) -> None:
        """Take away what a published job's earlier endings left, if the share lets us."""
        with contextlib.suppress(OSError, NotReady):
            self.check()
            self._withdraw(job, ".failed")
            self._end_live(self.live(job))

    def publish(self, job: Job, out: Path, life: Lifeline) -> Path:
        """Show a result; an older failure of the same job goes, and its progress. After an error, try again.

        Args:
            job: whose result it is.
            out: a folder with everything but the manifest.
            life: the calling thread's, for a long copy.

        Returns:
            The entry.

        Raises:
            NotReady: the outbox is away.
            OSError: it does not take the result; nothing of it is visible.
        """
        self.check()
        entry = self._find(job, "")
        if entry is None:
            entry = self._show(job, "", {path: path.relative_to(out) for path in _files(out)}, {}, life)
        else:
            files.fsync_folder(self.root)
        self._withdraw(job, ".failed")
        self._end_live(self.live(job))
        return entry

    def publish_failure(self, job: Job, error: bytes, inputs: Path, last_good: Path, life: Lifeline) -> Path:
        """Show a failure: error.yaml, and the files as they were dropped, to be mended and dropped again.

        Args:
            job: whose failure it is.
            error: error.yaml.
            inputs: the accepted files.
            last_good: the last good picture; need not be there.
            life: the calling thread's, for a long copy.

        Raises:
            NotReady: the outbox is away.
            OSError: it does not take the failure; nothing of it is visible.
        """
        self.check()
        self._withdraw(job, ".failed")
        self._end_live(self.live(job))
        sources = {inputs / part.stored: f"drop/{name}" for name, part in _drop_names(job).items()}
        sources[last_good] = last_good.name
        present = {source: name for source, name in sources.items() if source.exists()}
        return self._show(job, ".failed", present, {"error.yaml": error}, life)

    def _show(
        self, job: Job, suffix: str, sources: dict[Any, Any], texts: dict[str, bytes], life: Lifeline
    ) -> Path:
        draft = self.root / f".tmp-{job.id}"
        files.remove_tree(draft)
        draft.mkdir()
        manifest = {}
        for source, name in sources.items():
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = _copy(source, target, life)
            manifest[str(name)] = {"sha256": digest, "size": target.stat().st_size}
        for name, data in texts.items():
            files.write(draft / name, data)
            manifest[name] = {"sha256": files.hash_file(draft / name), "size": len(data)}
        text = json.dumps({"id": job.id, "files": manifest}, indent=1)
        files.write(draft / MANIFEST, text.encode("ascii"))
        for folder, _, _ in os.walk(draft, topdown=False):
            files.fsync_folder(draft / folder)
        target = self._place(job, suffix)
        files.move(draft, target)
        return target

    def _place(self, job: Job, suffix: str) -> Path:
        short = self.root / f"{job.label}{suffix}"
        long = self.root / f"{job.label}{job.id[8:]}{suffix}"
        return long if os.path.lexists(short) else short

    def _find(self, job: Job, suffix: str) -> Path | None:
        for name in (job.label, f"{job.label}{job.id[8:]}"):
            entry = self.root / f"{name}{suffix}"
            try:
                if json.loads((entry / MANIFEST).read_bytes())["id"] == job.id:
                    return entry
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None

    def _withdraw(self, job: Job, suffix: str) -> None:
        """Take an entry away, if there is one; readers see it whole or not at all."""
        hidden = self.root / f".tmp-old-{job.id}"
        files.remove_tree(hidden)  # of a try that was cut short
        entry = self._find(job, suffix)
        if entry is not None:
            files.move(entry, hidden)
            files.remove_tree(hidden)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _copy(source: Path, target: Path, life: Lifeline) -> str:
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return files.copy_hashed(fd, target, max_bytes=1 << 40, beat=life.beat)
    finally:
        os.close(fd)


def _drop_names(job: Job) -> dict[str, Part]:
    """Name each dropped file once, though it may play two parts, also where case makes no difference."""
    names: dict[str, Part] = {}
    for part in {part.name: part for part in job.parts if not part.library}.values():
        name = part.name if _is_plain(part.name) else part.stored
        while name.casefold() in {taken.casefold() for taken in names}:
            name = f"_{name}"
        names[name] = part
    return names


def _is_plain(name: str) -> bool:
    """Tell whether any shell and any share takes a name."""
    return printable(name) == name and not name.startswith(("-", ".")) and not set(name) & _SHARES_REFUSE
