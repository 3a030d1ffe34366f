"""SIGKILL of the whole service while one thread ends jobs and another paints the next ones: nothing is lost.

The kill matrix steps through one thread's operations in their order; here both threads work as they do in
life, in a process of its own, and the moment is random. Everything but the engine and the decoder is real.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.fakes import FakeEngine
from support.trees import NearDecoder, Tree, wait_for

from daemon import config as config_module
from daemon import logs
from daemon.outbox import loss_table
from daemon.service.service import Service

END_S = 60
JOBS = 3
KEYS = {"iterations": 6, "frames": {"every": 1}}
WHOLE = {
    *("manifest.json", "result.yaml", "result.png", "losses.csv", "losses.png", "frames/animation.webp"),
    *("report.html", "report/content.jpg", "report/style-1.jpg", "contact.png"),
    *(f"frames/{number:04d}.png" for number in range(7)),
}


def _tree(base: Path) -> Tree:
    raw = {"inbox": {"settle_s": 0.01, "rescan_s": 0.05, "observer": "off"}}
    return Tree(config_module.build(raw, base, environment={}))


class Mortal:
    """A service in a process of its own."""

    def __init__(self, base: Path, *options: str) -> None:
        here = Path(__file__).parent
        paths = [str(here.parents[1]), str(here.parent)]
        self._log = base.with_name("stdout.log")
        with self._log.open("wb") as stdout:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(base), *options],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdout=stdout,
            )

    def under_way(self) -> int:
        """How many jobs were begun and are not done."""
        log = self._log.read_bytes()
        return log.count(b'"job.started"') - log.count(b'"job.completed"')

    def kill_after(self, delay_s: float) -> int:
        """End it so long after it began a job; tells how many were under way."""
        try:
            wait_for(lambda: self.under_way() or self._process.poll() is not None, "the first job", END_S)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(delay_s)
        finally:
            self._process.kill()
            self._process.wait()
        return self.under_way()

    def wait(self) -> int:
        """Wait for its own end."""
        return self._process.wait(END_S)


def _live_through(base: Path, kills: int, seed: int) -> list[int]:
    """Kill a service again and again, with new drops each time, and let the last one work everything off.

    Returns:
        How many jobs were under way at each kill.
    """
    tree, moments, hits = _tree(base), np.random.default_rng(seed), []
    tree.inbox.mkdir(parents=True)
    for number in range(kills):
        for job in range(JOBS):
            tree.drop(f"p{number}-{job}", **KEYS)
        hits.append(Mortal(base).kill_after(moments.uniform(0.0, 0.3)))
        tree.check()
    assert Mortal(base, "drain").wait() == 0
    tree.check(is_quiet=True)
    assert len(tree.results()) == kills * JOBS
    for entry in map(tree.outbox.joinpath, tree.results()):
        assert {str(path.relative_to(entry)) for path in entry.rglob("*") if path.is_file()} == WHOLE
    return hits


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_a_kill_while_jobs_are_published_and_painted_loses_nothing(tmp_path: Path, seed: int) -> None:
    """At random moments the service dies; the invariant holds, and every drop gets its one result, whole."""
    assert any(_live_through(tmp_path / "tree", kills=3, seed=seed))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10, 30))
def test_many_kills_while_jobs_are_published_and_painted_lose_nothing(tmp_path: Path, seed: int) -> None:
    """The same for hundreds of kills, some of them with several jobs under way."""
    assert max(_live_through(tmp_path / "tree", kills=10, seed=seed)) > 1


def main() -> None:
    """Be the service, which may be killed."""
    base, *options = sys.argv[1:]
    logs.configure("info", "json")
    loss_table.curve = lambda _rows, _title: b"a curve"
    config = _tree(Path(base)).config
    config = config.model_copy(update={"engine": config.engine.model_copy(update={"max_attempts": 99})})
    service = Service(config, drains="drain" in options, engine=FakeEngine(), decoder=NearDecoder())
    sys.exit(service.run())


if __name__ == "__main__":
    main()
