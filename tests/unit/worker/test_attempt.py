"""The painting of one claim: what is shown on the way, what is written, what is gone on from."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from support.fakes import INFO, PLAN, Clock, FakeEngine
from support.trees import Stepper, Tree, save

from daemon import images, safe_yaml
from daemon.errors import EngineError, Failure, Reason
from daemon.job import State
from daemon.service import backoff
from daemon.settings import Frames, Settings
from daemon.worker.attempt import Easel, Progress, request_for, room_needed
from daemon.worker.publisher import OutOfTime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, MutableMapping

    from daemon.config import Config
    from daemon.job import EngineInfo, Job, Plan, Request, Step
    from daemon.lifeline import Lifeline
    from daemon.spool import Claim


class Replaying(FakeEngine):
    """Changes each step before it is seen."""

    def __init__(self, change: Callable[[Step], Step]) -> None:
        super().__init__()
        self._change = change
        self.requests: list[Request] = []

    def start(self, life: Lifeline) -> EngineInfo:
        """Say what is loaded."""
        return INFO

    def stylize(self, request: Request, life: Lifeline) -> Iterator[Plan | Step]:
        """Paint as the fake does."""
        self.requests.append(request)
        plan, *steps = super().stylize(request, life)
        yield plan
        yield from map(self._change, steps)


class Studio:
    """One claimed job and an easel for it."""

    def __init__(self, tree: Tree, **keys: Any) -> None:
        tree.drop("sea", **keys)
        stepper = Stepper(tree.config, FakeEngine())
        for _ in range(200):
            stepper.look()
            if tree.spool.count(State.QUEUED):
                break
            stepper.service.stop.wait(0.005)
        claim = stepper.service.spool.claim()
        assert claim
        self.claim: Claim = claim
        self.shown: list[Progress] = []
        self._outbox = stepper.service.outbox

    def paint(self, engine: FakeEngine, is_unwanted: Callable[[], bool] = lambda: False) -> Any:
        """Paint it."""
        easel = Easel(self.claim, self._outbox, self.shown.append, is_unwanted)
        return easel.finish() if easel.paint(engine) else None

    @property
    def out(self) -> set[str]:
        """List what is ready for the outbox."""
        folder = self.claim.entry.out
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    @property
    def rows(self) -> list[list[str]]:
        """Read losses.csv without its head."""
        lines = (self.claim.entry.out / "losses.csv").read_text().splitlines()
        return [line.split(",") for line in lines[1:]]


@pytest.fixture
def tree(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Make a tree that settles at once."""
    monkeypatch.setattr(backoff, "PAUSE_S", 0.001)
    made = Tree(make_config(inbox={"settle_s": 0.001, "rescan_s": 0.002}))
    made.inbox.mkdir()
    return made


def _named(records: list[MutableMapping[str, Any]], event: str) -> list[MutableMapping[str, Any]]:
    return [record for record in records if record["event"] == event]


def test_a_painting_leaves_everything_but_its_record(tree: Tree) -> None:
    """Picture, rows, curve, frames and film lie in out/; result.yaml, which says so, comes after."""
    studio = Studio(tree, iterations=4, frames={"every": 2})
    document, facts = studio.paint(FakeEngine())
    frames = {f"frames/{name}" for name in ("0000.png", "0002.png", "0004.png", "animation.webp")}
    assert studio.out == {"result.png", "losses.csv", "losses.png", *frames}
    assert safe_yaml.parse(document)["size"] == 32
    assert facts["best_iteration"] == 4
    assert len(studio.rows) == 5


def test_a_breath_is_taken_for_each_piece_and_each_frame_of_the_film(tree: Tree) -> None:
    """However long it takes, signs of life come while it is written; and one of them may end it."""
    studio = Studio(tree, iterations=9, frames={"every": 1})
    easel = Easel(studio.claim, studio._outbox, studio.shown.append, lambda: False)
    assert easel.paint(FakeEngine())
    before: list[bool] = []  # at each breath, what was there

    def breathe() -> None:
        before.append("losses.png" in studio.out)
        if before.count(True) == 10:
            raise OutOfTime

    with pytest.raises(OutOfTime):
        easel.finish(breathe)
    assert before.count(False) >= 2
    assert studio.out >= {"result.png", "losses.csv", "losses.png"}
    assert "frames/animation.webp" not in studio.out


def test_a_breath_may_end_the_wait_for_frames(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """While frames are still encoded there are breaths too; one that ends it leaves the rest unwritten."""
    gate, encode = threading.Event(), images.encode

    def wait(*args: Any) -> bytes:
        assert gate.wait(30)
        return encode(*args)

    def breathe() -> None:
        gate.set()
        raise OutOfTime

    studio = Studio(tree, iterations=4, frames={"every": 1})
    easel = Easel(studio.claim, studio._outbox, studio.shown.append, lambda: False)
    monkeypatch.setattr(images, "encode", wait)
    assert easel.paint(FakeEngine())
    with pytest.raises(OutOfTime):
        easel.finish(breathe)
    assert "result.png" not in studio.out
    assert len(studio.out) < 5


def test_no_painting_where_it_is_no_longer_wanted(tree: Tree) -> None:
    """Told to end early, nothing of a result is written, and None says so."""
    studio = Studio(tree, iterations=50)
    assert studio.paint(FakeEngine(), lambda: len(studio.shown) > 3) is None
    assert "result.png" not in studio.out


def test_told_once_the_engine_stays_told(tree: Tree) -> None:
    """A wish to end that is not repeated at the next step ends the painting all the same."""
    studio, answers = Studio(tree), iter([False, False, True])
    assert studio.paint(FakeEngine("hang"), lambda: next(answers, False)) is None
    assert [progress.iteration for progress in studio.shown] == [0, 1]


def test_an_engine_that_ends_untold_has_failed(tree: Tree) -> None:
    """Steps that end without a painting, though no one wanted them to, are the engine's error, not a stop."""

    class Quitting(FakeEngine):
        def stylize(self, request: Request, life: Lifeline) -> Iterator[Plan | Step]:
            yield from itertools.islice(super().stylize(request, life), 3)

    with pytest.raises(EngineError, match="the engine ended without a picture"):
        Studio(tree).paint(Quitting())


def test_the_time_of_an_iteration_counts_those_that_were_made(tree: Tree) -> None:
    """Where a size ended early, or steps were replayed, loop_s is divided by the iterations behind it."""

    def change(step: Step) -> Step:
        is_coarse = step.iteration < 2  # two pictures of 16 px, then two of 32 px, whose numbers jump
        painting = step.painting and replace(step.painting, loop_s=6.0)
        number, size_px = (step.iteration, 16) if is_coarse else (step.iteration + 6, 32)
        return replace(step, iteration=number, size_px=size_px, is_replayed=is_coarse, painting=painting)

    document, _ = Studio(tree, iterations=3).paint(Replaying(change))
    assert safe_yaml.parse(document)["result"]["timings"]["iteration_s"] == 3.0


def test_replayed_steps_stand_in_the_table_and_nowhere_else(tree: Tree) -> None:
    """What a checkpoint knew is in losses.csv, costs no frame and no progress; `job.resumed` tells where."""
    studio = Studio(tree, iterations=6, frames={"every": 2})
    engine = Replaying(lambda step: replace(step, is_replayed=step.iteration < 4))
    with capture_logs() as records:
        studio.paint(engine)
    assert [int(row[0]) for row in studio.rows] == list(range(7))
    assert [progress.iteration for progress in studio.shown] == [4, 5, 6]
    assert [record["iteration"] for record in _named(records, "job.resumed")] == [4]
    assert "frames/0000.png" not in studio.out


def test_the_time_left_counts_only_what_was_painted_now(tree: Tree) -> None:
    """After a resume neither the pace nor the ETA is flattered by the iterations of the last run."""
    studio = Studio(tree, iterations=10)
    with Clock().attached() as clock:

        def change(step: Step) -> Step:
            clock.sleep(0.0 if step.iteration < 8 else 3.0)
            return replace(step, is_replayed=step.iteration < 8)

        studio.paint(Replaying(change))
    paces = [(shown.iteration, shown.elapsed_s, shown.iteration_s, shown.eta_s) for shown in studio.shown]
    assert paces == [(8, 3.0, None, None), (9, 6.0, 3.0, 3.0), (10, 9.0, 3.0, 0.0)]


def test_a_fresh_painting_is_not_called_resumed(tree: Tree) -> None:
    """From iteration 0 on there is nothing to go on from."""
    with capture_logs() as records:
        Studio(tree).paint(FakeEngine())
    assert _named(records, "job.resumed") == []
    assert len(_named(records, "job.started")) == 1


def test_steps_back_and_troubles_are_told_as_often_as_they_come(tree: Tree) -> None:
    """Each further step back is one record, not one for every iteration after it; each trouble is one."""
    back = {0: 0, 1: 0, 2: 1, 3: 1, 4: 2, 5: 2}

    def change(step: Step) -> Step:
        trouble = "no room for a checkpoint" if step.iteration == 3 else ""
        return replace(step, steps_back=back[step.iteration], trouble=trouble)

    with capture_logs() as records:
        Studio(tree, iterations=5).paint(Replaying(change))
    assert [record["iteration"] for record in _named(records, "job.damped")] == [2, 4]
    assert [record["message"] for record in _named(records, "job.troubled")] == ["no room for a checkpoint"]


def test_what_an_earlier_attempt_left_is_cleared_and_its_frames_only_where_they_serve(tree: Tree) -> None:
    """Without a checkpoint everything goes; with one the frames stay, and the film of them is made anew."""
    studio = Studio(tree, iterations=4, frames={"every": 2})
    out, checkpoints = studio.claim.entry.out, studio.claim.entry.checkpoints
    for has_checkpoint in (False, True):
        (out / "frames").mkdir(parents=True, exist_ok=True)
        for name in ("result.jpg", "frames/0002.png", "frames/0009.png", "frames/animation.gif"):
            save(out / "x.png", 1).rename(out / name)
        if has_checkpoint:
            checkpoints.mkdir(exist_ok=True)
            (checkpoints / "0000003.ckpt").write_bytes(b"x")
        seen: list[set[str]] = []
        studio.paint(FakeEngine(on_step=lambda _step: seen.append(studio.out)))  # noqa: B023
        assert seen[0] == ({f"frames/{number:04d}.png" for number in (0, 2, 4, 9)} if has_checkpoint else set())
        for path in checkpoints.glob("*"):
            path.unlink()


def test_an_attempt_that_ran_out_of_memory_is_followed_by_a_smaller_one(tree: Tree) -> None:
    """The engine goes down one tile size more after each such attempt; a retry begins anew."""
    studio, engine = Studio(tree, iterations=1), Replaying(lambda step: step)
    record = studio.claim.entry.folder / "attempts.jsonl"
    for events in ([], ["exhausted"], ["crashed", "exhausted"], ["retried"], ["exhausted"]):
        with record.open("a") as file:
            file.writelines(f'{{"event": "{event}"}}\n' for event in events)
        studio.paint(engine)
    assert [request.smaller for request in engine.requests] == [0, 1, 2, 0, 1]


def test_memory_that_may_run_out_is_logged_before_the_first_step(tree: Tree) -> None:
    """Right after `job.started`, with what the plan estimates; not where there is room."""
    studio, engine = Studio(tree, iterations=1), FakeEngine()
    for warning in ("memory may run out", ""):
        engine.plan = replace(PLAN, memory_estimate_mb=1234, warning=warning)
        with capture_logs() as records:
            document, facts = studio.paint(engine)
        events = [record["event"] for record in records[:2]]
        assert (events == ["job.started", "job.troubled"]) is bool(warning)
        assert records[0]["memory_estimate_mb"] == facts["memory_estimate_mb"] == 1234
        assert safe_yaml.parse(document)["result"]["memory"]["estimate_mb"] == 1234


def test_frames_of_another_way_are_not_published(tree: Tree) -> None:
    """A frame that an earlier attempt left, whose number is no step of this painting, is in no film."""
    studio = Studio(tree, iterations=4, frames={"every": 2})
    frames = studio.claim.entry.out / "frames"

    def stray(_: Step) -> None:
        frames.mkdir(exist_ok=True)
        save(frames / "0003.png", 1)

    studio.paint(FakeEngine(on_step=stray))
    assert {path.name for path in frames.glob("*.png")} == {"0000.png", "0002.png", "0004.png"}


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
    every: int, present: list[int], passed: Iterable[int], *, is_whole: bool, tree: Tree
) -> None:
    """The engine is told which frames are there, and goes on from no picture past one that is missing."""
    studio = Studio(tree, iterations=6, frames={"every": every})
    frames = studio.claim.entry.out / "frames"
    frames.mkdir(parents=True)
    for number in present:
        (frames / f"{number:04d}.png").write_bytes(b"x")
    (frames / "animation.webp").write_bytes(b"x")
    request = request_for(studio.claim.entry, studio.claim.job)
    assert request.has_frames(passed) is is_whole


# The room a job needs


def _job(tree: Tree, settings: Settings | None) -> Job:
    job = Studio(tree).claim.job
    failure = None if settings else Failure(Reason.BAD_SIDECAR, "x")
    return type(job)(**{**vars(job), "settings": settings, "failure": failure})


def test_the_room_estimated_is_enough_for_what_is_written(tree: Tree) -> None:
    """Bytes and files of a finished painting stay below what was asked for before its start."""
    studio = Studio(tree, size=64, iterations=10, frames={"every": 1})
    shown, kept, entries = room_needed(studio.claim.job)
    studio.paint(FakeEngine())
    used = sum(path.stat().st_size for path in studio.claim.entry.out.rglob("*") if path.is_file())
    dropped = sum(path.stat().st_size for path in studio.claim.entry.inputs.iterdir())
    assert used + dropped < shown < kept
    assert len(studio.out) + len(list(studio.claim.entry.inputs.iterdir())) < entries


def test_the_room_grows_with_size_and_frames(tree: Tree) -> None:
    """Twice the side is about four times the bytes; every frame costs a file; `original` is as dropped."""
    base = Settings(size=512, iterations=100, scales="none", frames=Frames(every=0))
    job = _job(tree, base)
    small = room_needed(job)
    large = room_needed(replace(job, settings=base.model_copy(update={"size": 1024})))
    assert 3.5 < large[1] / small[1] < 4.5
    filmed = room_needed(replace(job, settings=base.model_copy(update={"frames": Frames(every=10)})))
    assert filmed[2] == small[2] + 11
    assert filmed[0] > small[0] + 10 * 512 * 512
    original = room_needed(replace(job, settings=base.model_copy(update={"size": "original"})))
    assert original == room_needed(replace(job, settings=base.model_copy(update={"size": 32})))
    assert original[1] < small[1]


def test_a_faulty_job_needs_room_for_what_was_dropped(tree: Tree) -> None:
    """Its failure is shown with the files, and nothing is painted."""
    job = _job(tree, None)
    shown, kept, entries = room_needed(job)
    assert shown == sum(part.size for part in job.parts)
    assert (kept, entries) == (0, len(job.parts) + 4)
