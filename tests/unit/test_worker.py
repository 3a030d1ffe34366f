"""One job, one ending: what the worker writes, shows and logs on the way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from fakes import FakeEngine
from structlog.testing import capture_logs
from trees import Stepper, Tree, wait_for

from daemon import documents, images
from daemon import service as service_module
from daemon.errors import NotReady
from daemon.job import State
from daemon.worker import Ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import Config
    from daemon.job import Step


@pytest.fixture
def tree(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Make a tree that settles at once."""
    monkeypatch.setattr(service_module, "_PAUSE_S", 0.001)
    made = Tree(make_config(inbox={"settle_s": 0.001, "rescan_s": 0.002}))
    made.inbox.mkdir()
    return made


def test_a_preview_that_cannot_be_written_does_not_fail_the_job(tree: Tree) -> None:
    """A job whose progress the outbox does not take is warned about once, painted and published."""
    tree.drop("sea")
    stepper = Stepper(tree.config, FakeEngine())
    (tree.outbox / "_running").write_text("a file in the place of the folder")
    with capture_logs() as records:
        assert stepper.until_quiet() == [Ending.COMPLETED]
    assert [record["event"] for record in records].count("outbox.preview_failed") == 1
    tree.check()


def test_the_canonical_line_has_what_an_operator_filters_by(tree: Tree) -> None:
    """job.completed carries attempt, preset, sizes, losses, times, device and weights, all as plain values."""
    stepper = Stepper(tree.config, FakeEngine())
    tree.drop("sea")
    with capture_logs() as records:
        stepper.until_quiet()
    (line,) = [record for record in records if record["event"] == "job.completed"]
    facts = {
        *("attempt", "preset", "size", "height_px", "width_px", "iterations", "best_iteration", "styles"),
        *("first_loss", "best_loss", "last_loss", "target_s", "loop_s", "elapsed_s"),
        *("device", "precision", "weights_sha256", "path"),
    }
    assert facts <= line.keys()
    assert json.loads(json.dumps(line)) == line
    assert (line["height_px"], line["width_px"], line["first_loss"], line["best_loss"]) == (24, 32, 3.0, 0.75)


def test_the_record_repeats_as_a_sidecar(tree: Tree) -> None:
    """result.yaml names the drop's pictures and every setting, beside the record of what was done."""
    tree.drop("sea", seed=4, strength=None)
    Stepper(tree.config, FakeEngine()).until_quiet()
    document = documents.parse((tree.result("sea") / "result.yaml").read_bytes())
    assert (document["content"], document["style"], document["size"]) == ("sea.jpg", "sea-style.png", 32)
    assert document["result"]["weights"] == {"source": "fake", "sha256": "0" * 64}
    assert {item["role"] for item in document["result"]["inputs"]} == {"sidecar", "content", "style"}


def test_the_film_shows_its_frames_in_the_order_of_the_iterations(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frame 10000 comes after frame 5000, though its name sorts before."""
    shown: list[str] = []
    monkeypatch.setattr(
        images, "animate", lambda frames, _format: shown.extend(path.stem for path in frames) or b""
    )
    tree.drop("sea", iterations=10_000, frames={"every": 5_000})
    Stepper(tree.config, FakeEngine()).until_quiet(deadline_s=60)
    assert shown == ["0000", "5000", "10000"]


def test_progress_is_there_while_a_job_runs_and_only_then(tree: Tree) -> None:
    """`progress` counts the iterations of the running job and is gone with it."""
    seen = []

    def look(_step: Step) -> None:
        seen.append(stepper.service._worker.progress)

    stepper = Stepper(tree.config, FakeEngine(on_step=look))
    tree.drop("sea")
    stepper.until_quiet()
    assert seen[0] is None
    assert [progress.iteration for progress in seen[1:] if progress] == [0, 1, 2]
    assert stepper.service._worker.progress is None


def test_an_engine_that_is_not_ready_costs_no_attempt(tree: Tree) -> None:
    """While the device is busy nothing is claimed and the service pauses; later the job is painted."""

    class Busy(FakeEngine):
        def start(self) -> object:  # type: ignore[override]
            if self.script:
                self.script.popleft()
                raise NotReady("the GPU is busy")
            return super().start()

    stepper = Stepper(tree.config, Busy("busy", "busy"))
    tree.drop("sea")
    wait_for(lambda: stepper.look() or stepper.service.counts.accepted, "the drop to be accepted")
    with capture_logs() as records:
        wait_for(lambda: stepper.turn() is Ending.INTERRUPTED, "the first try")
        (entry,) = tree.spool.entries(State.QUEUED)
        assert entry.attempts_used == 0
        assert stepper.until_quiet()[-1] is Ending.COMPLETED
    reasons = [record["reason"] for record in records if record["event"] == "service.paused"]
    assert reasons == ["the GPU is busy"]
    record = documents.parse((tree.result("sea") / "result.yaml").read_bytes())["result"]
    assert record["attempt"] == 1
    tree.check(is_quiet=True)
