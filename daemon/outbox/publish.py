"""Outbox entries: built under a hidden name, synced, and shown with one rename."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

from daemon import files
from daemon.job import printable

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.job import Job

MANIFEST: Final = "manifest.json"
RUNNING: Final = "_running"


class Outbox:
    """The folder where results appear."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def live(self, job: Job) -> Path:
        """Give the folder of a job's progress while it runs."""
        return self.root / RUNNING / job.label

    def clean(self) -> None:
        """Remove what an earlier run left half made: hidden drafts, and progress of jobs that run no more."""
        for item in self.root.iterdir():
            if item.name.startswith(".tmp-") or item.name == RUNNING:
                files.remove_tree(item)

    def is_published(self, job: Job) -> bool:
        """Tell whether a job's result is there, whole."""
        return self._find(job, "") is not None

    def publish(self, job: Job, out: Path) -> Path:
        """Show a result; an older failure of the same job goes.

        Args:
            job: whose result it is.
            out: a folder with everything but the manifest.

        Returns:
            The entry.

        Raises:
            OSError: the outbox does not take it; nothing of it is visible.
        """
        entry = self._find(job, "") or self._show(
            job, "", {path: path.relative_to(out) for path in _files(out)}, {}
        )
        failed = self._find(job, ".failed")
        if failed is not None:
            self._hide(failed)
        return entry

    def publish_failure(self, job: Job, error: bytes, inputs: Path) -> Path:
        """Show a failure: error.yaml, and the files as they were dropped, to be mended and dropped again.

        Raises:
            OSError: the outbox does not take it; nothing of it is visible.
        """
        earlier = self._find(job, ".failed")
        if earlier is not None:
            self._hide(earlier)
        sources = {}
        for part in job.parts:
            source = inputs / part.stored
            if source.exists() and not part.library:
                name = part.name if _is_plain(part.name) else part.stored
                sources[source] = f"drop/{name}"
        return self._show(job, ".failed", sources, {"error.yaml": error})

    def _show(self, job: Job, suffix: str, sources: dict[Any, Any], texts: dict[str, bytes]) -> Path:
        draft = self.root / f".tmp-{job.id}"
        files.remove_tree(draft)
        draft.mkdir()
        manifest = {}
        for source, name in sources.items():
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = _copy(source, target)
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

    def _hide(self, entry: Path) -> None:
        """Take an entry away; readers see it whole or not at all."""
        hidden = self.root / f".tmp-old-{entry.name}"
        files.remove_tree(hidden)
        files.move(entry, hidden)
        files.remove_tree(hidden)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _copy(source: Path, target: Path) -> str:
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return files.copy_hashed(fd, target, max_bytes=1 << 40)
    finally:
        os.close(fd)


def _is_plain(name: str) -> bool:
    return printable(name) == name and not name.startswith(("-", "."))
