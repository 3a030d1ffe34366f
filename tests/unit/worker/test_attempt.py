"""One attempt: what its steps become on the way, and what it comes to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from support.fakes import PLAN, Clock, FakeEngine, Replaying
from support.trees import named, save

from daemon.errors import EngineError, Failure, JobError, Reason
from daemon.files import remove_tree
from daemon.lifeline import Lifeline
from daemon.worker.lookahead import request_for
from daemon.worker.outcomes import Interrupted, Painted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from daemon.job import Step

    Make = Callable[..., Any]


def _painted(studio: Any, engine: FakeEngine) -> Painted:
    """Paint, and wait for the frames."""
    painted = studio.paint(engine)
    assert isinstance(painted, Painted)
    painted.frames.close(Lifeline().beat)
    return painted


def test_a_painting_is_a_value_that_holds_all_that_was_done(make_studio: Make) -> None:
    """The picture, every row, the settings, the engine and the facts; on disk there are only its frames."""
    studio = make_studio(iterations=4, frames={"every": 2})
    painted = _painted(studio, FakeEngine())
    assert painted.painting.best_iteration == 4
    assert [row.iteration for row in painted.rows] == [0, 1, 2, 3, 4]
    assert painted.settings == studio.claim.job.settings
    assert painted.info.device == "fake"
    assert (painted.facts["attempt"], painted.facts["prepared"], painted.facts["gap_s"]) == (1, False, None)
    assert studio.out == {f"frames/{number:04d}.png" for number in (0, 2, 4)}


@pytest.mark.parametrize("when", ["before", "at the third step", "while it hangs"])
def test_a_stop_interrupts_it(when: str, make_studio: Make) -> None:
    """Asked to end early it comes to no painting, and blames nobody."""
    studio = make_studio(iterations=50)
    stop_at = {"before": 0, "at the third step": 3, "while it hangs": 0}[when]
    engine = FakeEngine(
        "hang" if when == "while it hangs" else "paint",
        on_step=lambda step: step.iteration == stop_at and attempt.life.ask_stop(),
    )
    attempt = studio.attempt(engine)
    if when == "before":
        attempt.life.ask_stop()
    assert attempt.paint(engine) == Interrupted()
    assert not studio.life.is_stopping
    assert engine.steps.count(studio.claim.job.id) == (stop_at if when == "at the third step" else 0)


def test_errors_of_the_engine_come_through_and_take_the_preview_away(make_studio: Make) -> None:
    """A crash and a job error are raised to the worker; nothing of the progress stays in the outbox."""
    for word, error in (("crash", EngineError), ("job_error", JobError)):
        studio = make_studio(seed=len(word))
        with pytest.raises(error):
            studio.paint(FakeEngine(word))
        assert not (studio.service.outbox.root / "_running").exists()
        studio.service.spool.fail(studio.claim.entry, Failure(Reason.DIVERGED, "x"))


def test_the_plan_is_logged_before_the_first_step(make_studio: Make) -> None:
    """`job.started` has the engine's estimate; where memory may run out all the same, a warning follows."""
    studio, engine = make_studio(iterations=1), FakeEngine()
    for warning in ("", "memory may run out"):
        engine.plan = replace(PLAN, memory_estimate_mb=700, warning=warning)
        with capture_logs() as records:
            painted = _painted(studio, engine)
        assert records[0]["event"] == "job.started"
        assert records[0]["memory_estimate_mb"] == painted.facts["memory_estimate_mb"] == 700
        assert [record["message"] for record in named(records, "job.troubled")] == [warning] * bool(warning)


def test_replayed_steps_are_rows_and_nothing_else(make_studio: Make) -> None:
    """What a checkpoint knew costs no frame and no progress; `job.resumed` tells where it goes on."""
    studio = make_studio(iterations=6, frames={"every": 2})
    engine = Replaying(lambda step: replace(step, is_replayed=step.iteration < 4))
    with capture_logs() as records:
        painted = _painted(studio, engine)
    assert [row.iteration for row in painted.rows] == list(range(7))
    assert [record["iteration"] for record in named(records, "job.progressed")] == [4, 5, 6]
    assert [record["iteration"] for record in named(records, "job.resumed")] == [4]
    assert studio.out == {"frames/0004.png", "frames/0006.png"}


def test_a_fresh_painting_is_not_called_resumed(make_studio: Make) -> None:
    """From iteration 0 on there is nothing to resume."""
    with capture_logs() as records:
        _painted(make_studio(), FakeEngine())
    assert named(records, "job.resumed") == []
    assert len(named(records, "job.started")) == 1


def test_the_time_left_counts_only_what_was_painted_now(make_studio: Make) -> None:
    """After a resume neither the pace nor the ETA is flattered by the iterations of the last run."""
    studio, shown = make_studio(iterations=10), []
    with Clock().attached() as clock:

        def change(step: Step) -> Step:
            shown.append(attempt.progress)
            clock.sleep(0.0 if step.iteration < 8 else 3.0)
            return replace(step, is_replayed=step.iteration < 8)

        engine = Replaying(change)
        attempt = studio.attempt(engine)
        painted = attempt.paint(engine)
        shown.append(attempt.progress)
    painted.frames.close(Lifeline().beat)
    paces = [(now.iteration, now.elapsed_s, now.iteration_s, now.eta_s) for now in shown if now]
    assert paces[-4:] == [(7, 0.0, None, None), (8, 3.0, None, None), (9, 6.0, 3.0, 4.5), (10, 9.0, 3.0, 0.0)]


def test_the_time_is_estimated_before_the_second_job_starts(make_studio: Make) -> None:
    """It is in the log and in the progress, where it runs down while a step is computed."""
    studio, shown = make_studio(iterations=10), []
    with Clock().attached() as clock, capture_logs() as records:

        def look(_step: Step) -> None:
            clock.sleep(1.0)
            shown.append(attempt.progress.eta_s)
            clock.sleep(2.0)

        engine = FakeEngine(on_step=look)
        for _ in range(2):
            attempt = studio.attempt(engine)
            attempt.paint(engine).frames.close(Lifeline().beat)
            remove_tree(studio.claim.entry.checkpoints)
    assert [record["eta_s"] for record in named(records, "job.started")] == [None, 33.0]
    assert shown[:3] == [None, None, 27.5]
    assert shown[11:] == [32.0 - 3 * number for number in range(11)]


def test_each_step_back_and_each_warning_is_logged_once(make_studio: Make) -> None:
    """Each further step back is one record, not one for every iteration after it; each trouble is one."""
    back = {0: 0, 1: 0, 2: 1, 3: 1, 4: 2, 5: 2}

    def change(step: Step) -> Step:
        trouble = "no room for a checkpoint" if step.iteration == 3 else ""
        return replace(step, steps_back=back[step.iteration], trouble=trouble)

    with capture_logs() as records:
        _painted(make_studio(iterations=5), Replaying(change))
    assert [record["iteration"] for record in named(records, "job.damped")] == [2, 4]
    assert [record["message"] for record in named(records, "job.troubled")] == ["no room for a checkpoint"]


def test_what_an_earlier_attempt_left_is_cleared_and_its_frames_only_where_they_serve(
    make_studio: Make,
) -> None:
    """Without a checkpoint everything goes; with one the frames stay, and the engine knows of them."""
    studio = make_studio(iterations=4, frames={"every": 2})
    out, checkpoints = studio.claim.entry.out, studio.claim.entry.checkpoints
    for has_checkpoint in (False, True):
        (out / "frames").mkdir(parents=True, exist_ok=True)
        for name in ("result.jpg", "frames/0002.png", "frames/0009.png", "frames/animation.gif"):
            save(out / "x.png", 1).rename(out / name)
        if has_checkpoint:
            checkpoints.mkdir(exist_ok=True)
            (checkpoints / "0000003.ckpt").write_bytes(b"x")
        seen: list[set[str]] = []
        engine = Replaying(lambda step: seen.append(studio.out) or step)  # noqa: B023
        _painted(studio, engine)
        kept = {0, 2, 4, 9} if has_checkpoint else set()
        assert seen[0] == {f"frames/{number:04d}.png" for number in kept}
        assert engine.requests[0].frames == kept
        for path in checkpoints.glob("*"):
            path.unlink()


def test_each_attempt_that_ran_out_of_memory_is_followed_by_a_smaller_one(make_studio: Make) -> None:
    """The request says how many tile sizes to go down; a retry starts with the planned one."""
    studio, engine = make_studio(iterations=1), FakeEngine()
    record = studio.claim.entry.folder / "attempts.jsonl"
    for events in ([], ["exhausted"], ["crashed", "exhausted"], ["retried"], ["exhausted"]):
        with record.open("a") as file:
            file.writelines(f'{{"event": "{event}"}}\n' for event in events)
        _painted(studio, engine)
    assert [request.smaller for request in engine.requests] == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("every", "present", "passed", "is_whole"),
    [
        (0, [], range(7), True),
        (2, [], range(1), False),
        (2, [0], range(2), True),
        (2, [0], range(3), False),
        (2, [0, 4, 6], range(2), True),
        (2, [0, 4, 6], range(7), False),
        (2, [0, 2, 4, 6], range(7), True),
        (2, [0, 4, 6], [0, 1, 4, 5, 6], True),  # a size was left early: the numbers jump, and 2 never was
        (2, [0, 6], [0, 1, 4, 5, 6], False),
    ],
)
def test_a_resume_goes_no_further_than_the_frames(
    every: int, present: list[int], passed: Iterable[int], *, is_whole: bool, make_studio: Make
) -> None:
    """The request names the frames that are there, and no picture past a missing one is resumed."""
    studio = make_studio(iterations=6, frames={"every": every})
    frames = studio.claim.entry.out / "frames"
    frames.mkdir(parents=True)
    for number in present:
        (frames / f"{number:04d}.png").write_bytes(b"x")
    (frames / "animation.webp").write_bytes(b"x")
    request = request_for(studio.claim.entry, studio.claim.job)
    assert request.has_frames(passed) is is_whole


def test_a_running_attempt_is_asked_to_stop_once_its_job_is_cancelled(make_studio: Make) -> None:
    """A look before the cancel changes nothing, and one when the attempt is over finds nothing."""
    studio = make_studio()
    attempt, attempts = studio.attempt(FakeEngine()), studio.service.attempts
    with attempts.running(attempt):
        attempts.stop_cancelled()
        assert not attempt.life.is_stopping
        studio.service.spool.ask_cancel(studio.claim.entry)
        attempts.stop_cancelled()
        assert attempt.life.is_stopping
    attempts.stop_cancelled()
