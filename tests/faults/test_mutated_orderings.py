"""The proof is sharp: a service that does the right things in the wrong order is caught by the same kills.

A missing fsync is not among the mutations: a killed process does not lose what it wrote, only a power cut does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from support.kills import Sweep

from daemon import files
from daemon.lifeline import Lifeline
from daemon.outbox.publish import Outbox
from daemon.spool import Recovery, Spool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path, PurePath

    from support.kills import Stage

    from daemon.job import Job
    from daemon.spool import Draft, StoredJob


def _retire_before_commit(patch: pytest.MonkeyPatch) -> None:
    """Remove the originals once they are copied, and only then move the copy to `queued/`."""
    commit, move = Spool.commit, files.move

    def mutated(spool: Spool, draft: Draft, versions: dict[str, str]) -> StoredJob:
        def moved(source: Path, target: Path) -> None:
            if source.parent.name == "tmp":
                for part in draft.parts:
                    os.unlink(draft.drop.folder_of(part) / part.name)  # noqa: PTH108 - the call that the disk watches
            move(source, target)

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(files, "move", moved)
            return commit(spool, draft, versions)

    patch.setattr(Spool, "commit", mutated)


def _count_an_attempt_at_its_end(patch: pytest.MonkeyPatch) -> None:
    """Write the record of a start together with the record of its end."""
    append_line = files.append_line
    held: dict[str, str] = {}

    def mutated(path: Path, line: str) -> None:
        if '"started"' in line:
            held[path.parent.name] = line
            return
        if path.parent.name in held:
            append_line(path, held.pop(path.parent.name))
        append_line(path, line)

    patch.setattr(files, "append_line", mutated)


def _publish_without_manifest(patch: pytest.MonkeyPatch) -> None:
    """Show an entry first, and write its manifest then."""
    write, move = files.write, files.move
    held: dict[PurePath, bytes] = {}

    def written(path: PurePath, data: bytes, **options: Any) -> None:
        if path.name == "manifest.json":
            held[path.parent] = data
        else:
            write(path, data, **options)

    def moved(source: PurePath, target: PurePath, **options: Any) -> None:
        move(source, target, **options)
        if source in held:
            write(target / "manifest.json", held.pop(source), **options)

    patch.setattr(files, "write", written)
    patch.setattr(files, "move", moved)


def _forget_to_retire_after_a_start(patch: pytest.MonkeyPatch) -> None:
    """Begin each run as if all originals had left the inbox."""
    patch.setattr(Spool, "unretired", lambda _spool: [])


def _end_before_publishing(patch: pytest.MonkeyPatch) -> None:
    """Move a job to `done/` first, and publish it from there."""
    publish, complete = Outbox.publish, Spool.complete
    held: dict[str, tuple[Outbox, Job]] = {}

    def kept(outbox: Outbox, job: Job, _out: Path, _life: Lifeline) -> Path:
        held[job.id] = (outbox, job)
        return outbox.root

    def completed(spool: Spool, entry: StoredJob) -> StoredJob:
        done = spool.root / "done" / entry.id
        if entry.id in held:
            outbox, job = held.pop(entry.id)
            entry.folder.rename(done)
            publish(outbox, job, done / "out", Lifeline())
        return complete(spool, entry)

    patch.setattr(Outbox, "publish", kept)
    patch.setattr(Spool, "complete", completed)


def _leave_what_was_running(patch: pytest.MonkeyPatch) -> None:
    """Recover nothing."""
    patch.setattr(Spool, "recover", lambda _spool, _is_published: Recovery([], [], []))


MUTATIONS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "retire before commit": (_retire_before_commit, "conservation: "),
    "attempt counted after": (_count_an_attempt_at_its_end, "bounded work: "),
    "publish without manifest": (_publish_without_manifest, "publication: "),
    "no retire replay": (_forget_to_retire_after_a_start, "in the inbox"),
    "done before published": (_end_before_publishing, "is done, not published"),
    "no recovery": (_leave_what_was_running, "quiescence: "),
}

EVERYDAY = ("retire before commit", "attempt counted after", "done before published")
UNKILLED = "the first run, the end: "


@pytest.mark.parametrize(
    "mutation",
    [name if name in EVERYDAY else pytest.param(name, marks=pytest.mark.nightly) for name in MUTATIONS],
)
def test_a_wrong_order_is_caught(
    mutation: str, make_stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mutated order breaks the part of the invariant that forbids it, under kills of one small job."""
    mutate, complaint = MUTATIONS[mutation]
    mutate(monkeypatch)
    broken = _killed(make_stage)
    assert [line for line in broken if complaint in line], broken
    assert not [line for line in broken if line.startswith(UNKILLED)], "it works where nobody kills it"


def test_the_right_order_is_not_caught(make_stage: Callable[..., Stage]) -> None:
    """The very same kills break nothing of the product as it is."""
    assert _killed(make_stage) == []


def _killed(make_stage: Callable[..., Stage]) -> list[str]:
    sweep = Sweep(make_stage("p", iterations=2, frames={"every": 0}))
    sweep.kill()
    return sweep.broken
