"""The files of a result: picture, loss table and curve, film, and the record that says they are complete."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from daemon import clock, files, logs
from daemon.job import printable
from daemon.outbox import loss_table, record, report_page
from daemon.pictures import encoding, film

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.lifeline import Lifeline
    from daemon.spool import Claim, StoredJob
    from daemon.worker.outcomes import Painted

log = logs.get(__name__)

GRACE_S: Final = 20.0  # after a stop; what is not written by then is painted again from the checkpoint


class OutOfTime(Exception):  # noqa: N818 - an answer, not an error
    """The service stops, and what is left to write takes too long."""


def write(claim: Claim, painted: Painted, life: Lifeline) -> tuple[bytes, dict[str, Any]]:
    """Write everything that is to be published into the job's `out/`, but the record.

    Returns:
        The record (the bytes of result.yaml), and the facts of `job.completed`.

    Raises:
        JobError: the format holds no such picture.
        OutOfTime: the thread should have ended by now.
        OSError: the spool does not take the files.
    """
    painted.frames.close(functools.partial(_continue, life))
    painted.frames.require_all()
    _write_pieces(claim, painted, life)
    document = record.result(
        claim.job,
        painted.painting,
        painted.info,
        claim.attempt,
        clock.stamp(clock.utc()),
        iterations=loss_table.iterations(painted.rows),
        memory_estimate_mb=painted.facts["memory_estimate_mb"],
    )
    _write_pages(claim, painted, document, life)
    return document, _facts(painted)


def _continue(life: Lifeline) -> None:
    """Give a heartbeat between two pieces, and end the writing once its time is up."""
    life.beat()
    if life.is_stopping and life.overtime_s > GRACE_S:
        raise OutOfTime


def _write_pieces(claim: Claim, painted: Painted, life: Lifeline) -> None:
    out, output, painting = claim.entry.out, painted.settings.output, painted.painting
    _continue(life)
    picture = encoding.encode(painting.picture, output, painting.exif)
    files.write(out / f"result{encoding.SUFFIXES[output.format]}", picture)
    if painting.sheet:
        files.write(out / "sheet.yaml", painting.sheet.encode())
    _continue(life)
    files.write(out / "losses.csv", loss_table.table(painted.rows))
    files.write(out / "losses.png", loss_table.curve(painted.rows, printable(claim.job.stem)))
    frames, animation = _own_frames(claim.entry, painted), painted.settings.frames.animation
    if frames and animation != "none":
        made = film.animate(frames, animation, functools.partial(_continue, life))
        files.write(claim.entry.frames / f"animation.{animation}", made)


def _write_pages(claim: Claim, painted: Painted, document: bytes, life: Lifeline) -> None:
    """Write what people look at; an error in making it costs the pages, never the result."""
    beat, frames = functools.partial(_continue, life), claim.entry.kept_frames
    beat()
    try:
        made = report_page.make(
            claim.job, painted.settings, document, painted.painting, painted.rows, frames=frames, beat=beat
        )
    except OutOfTime:
        raise
    except Exception as error:  # noqa: BLE001 - of Pillow, Jinja2, a font, memory
        log.warning("outbox.report_failed", error=f"{type(error).__name__}: {error}")
        return
    files.make_folder(claim.entry.out / "report")
    for name, data in made.items():
        files.write(claim.entry.out / name, data)


def _own_frames(entry: StoredJob, painted: Painted) -> list[Path]:
    """Give this painting's frames in order; strays of an earlier attempt are removed."""
    made = {row.iteration for row in painted.rows if painted.settings.frames.keeps(row.iteration)}
    frames = entry.kept_frames
    for iteration in frames.keys() - made:
        files.remove_tree(frames.pop(iteration))
    return list(frames.values())


def _facts(painted: Painted) -> dict[str, Any]:
    """Gather the one line an operator filters by."""
    painting = painted.painting
    height, width = painting.picture.shape[:2]
    return {
        **painted.facts,
        "size_px": max(height, width),
        "height_px": height,
        "width_px": width,
        "first_loss": painting.first.total,
        "best_loss": painting.best.total,
        "last_loss": painting.last.total,
        "best_iteration": painting.best_iteration,
        "target_s": round(painting.target_s, 3),
        "loop_s": round(painting.loop_s, 3),
        "memory_peak_mb": painting.memory_peak_mb,
        "computed": painting.computed,
        "weights_sha256": painted.info.weights_sha256,
    }
