"""Jobs that are poison for the real engine's process: each costs its attempts, and the next one is painted.

The poison is a `sitecustomize` on the path of the child: it strikes at the first iteration, by the job's seed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import structlog
from structlog.testing import capture_logs
from support.programs import is_gone
from support.trees import Stepper, Tree, save, wait_for

from daemon import config as config_module
from daemon import safe_yaml
from daemon.engine.process import ProcessEngine
from daemon.outbox import loss_table
from daemon.worker.outcomes import Ending

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEDS: Final = {"segfault": 9001, "exit": 9002, "eat": 9003, "loop": 9004}
MEMORY_LIMIT_MB: Final = 1600  # TensorFlow and VGG19 take about 800
TIMEOUT_S: Final = 10  # enough for the good job, also beside other work
ENGINE: Final[dict[str, Any]] = {"device": "cpu", "max_attempts": 2, "memory_limit_mb": MEMORY_LIMIT_MB}
POISON: Final = """
import sys
if "daemon.engine.child" in sys.orig_argv:
    import ctypes, os, time
    from daemon.engine.local import LocalEngine

    def segfault():
        print("about to fall", flush=True)
        ctypes.string_at(0)

    def eat():
        held = []
        while True:
            held.append(b"x" * (50 << 20))
            time.sleep(0.02)

    def loop():
        while True:
            pass

    strikes = {9001: segfault, 9002: lambda: os._exit(0), 9003: eat, 9004: loop}
    real = LocalEngine.stylize

    def stylize(self, request, life):
        for item in real(self, request, life):
            if getattr(item, "iteration", 0) == 1 and request.settings.seed in strikes:
                strikes[request.settings.seed]()
            yield item

    LocalEngine.stylize = stylize
"""


def _poisoned(folder: Path) -> str:
    """Write the poison; gives the search path that brings it in."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(POISON)
    return str(folder)


@dataclass
class Night:
    """What became of a poisonous job, and of a good one after it."""

    kind: str
    tree: Tree
    endings: dict[str, list[Ending]] = field(default_factory=dict)
    children: dict[str, list[int]] = field(default_factory=dict)  # the engine's, started while each job lasted
    died: dict[str, list[str]] = field(default_factory=dict)  # how the engine ended, for each job

    @property
    def error(self) -> dict[str, Any]:
        """The record of the failure."""
        (entry,) = self.tree.outbox.glob(f"{self.kind}-*.failed")
        document: dict[str, Any] = safe_yaml.parse((entry / "error.yaml").read_bytes())
        return document

    def work_off(self, stepper: Stepper, name: str, seed: int) -> None:
        """Drop a job and see it through."""
        _drop(self.tree, name, seed)
        with capture_logs() as records:
            self.endings[name] = stepper.until_quiet(deadline_s=200)
        self.children[name] = [r["engine_pid"] for r in records if r["event"] == "engine.started"]
        self.died[name] = [r["ended_by"] for r in records if r["event"] == "engine.died"]


@pytest.fixture(
    scope="module",
    params=["segfault", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("exit", "eat", "loop"))],
)
def night(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """Work through a kind of poison, and a good job after it, with one engine."""
    kind, base = request.param, tmp_path_factory.mktemp("night")
    structlog.reset_defaults()
    options = {**ENGINE, "job_timeout_s": TIMEOUT_S} if kind == "loop" else ENGINE
    raw = {"inbox": {"settle_s": 0.01, "rescan_s": 0.02}, "engine": options}
    config = config_module.build(raw, base, environment={})
    config.folders.inbox.mkdir()
    engine, found = ProcessEngine(config), Night(kind, Tree(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", _poisoned(base / "poison") + os.pathsep + os.environ.get("PYTHONPATH", ""))
        patch.setattr(loss_table, "curve", lambda _rows, _title: b"a curve")
        stepper = Stepper(config, engine)
        try:
            found.work_off(stepper, kind, SEEDS[kind])
            found.work_off(stepper, "good", 1)
            yield found
        finally:
            engine.stop()


def _drop(tree: Tree, name: str, seed: int) -> None:
    """Drop a job whose seed says whether the poison strikes."""
    content, style = save(tree.inbox / f"{name}.jpg", len(tree.drops)), save(tree.inbox / f"{name}-s.png", seed)
    sidecar = tree.inbox / f"{name}.yaml"
    keys = {"content": content.name, "style": style.name, "size": 64, "iterations": 2, "seed": seed}
    sidecar.write_text(json.dumps(keys))
    tree.note(sidecar, content, style)


@pytest.mark.timeout(600)
def test_poison_costs_its_attempts_and_fails_for_its_own_reason(night: Night) -> None:
    """Each kind is tried twice, each time with an engine that dies of it, and fails with what it died of."""
    reason, message, died = {
        "segfault": ("engine_crashed", "the engine's process ended by signal SIGSEGV", "signal SIGSEGV"),
        "exit": ("engine_crashed", "the engine's process ended by exit code 0", "exit code 0"),
        "eat": ("out_of_memory", f"engine.memory_limit_mb is {MEMORY_LIMIT_MB}", "memory limit"),
        "loop": ("timed_out", f"engine.job_timeout_s passed: {TIMEOUT_S} s", "time limit"),
    }[night.kind]
    assert night.endings[night.kind] == [Ending.CRASHED, Ending.FAILED]
    assert night.died[night.kind] == [died, died]
    error = night.error
    assert (error["reason"], error["attempt"]) == (reason, 2)
    assert message in error["message"]
    assert error["hint"]
    assert ("engine.memory_limit_mb" in error["hint"]) is (night.kind == "eat")


def test_the_last_lines_of_a_crash_are_kept(night: Night) -> None:
    """The failure of a segfault has what the process printed last, with the place in the program."""
    if night.kind != "segfault":
        pytest.skip("nothing is printed")
    lines = night.error["last_lines"]
    assert "about to fall" in lines
    assert any("Fatal Python error: Segmentation fault" in line for line in lines)
    assert any("in segfault" in line for line in lines)


def test_the_next_good_job_is_painted_by_a_fresh_child(night: Night) -> None:
    """After the poison the next job is painted at its first attempt, by a child that was started for it."""
    assert night.endings["good"] == [Ending.COMPLETED]
    assert night.died["good"] == []
    assert len(night.children[night.kind]) + len(night.children["good"]) == 3  # two of them died
    record = safe_yaml.parse((night.tree.result("good") / "result.yaml").read_bytes())["result"]
    assert record["attempt"] == 1


def test_nothing_is_lost_to_poison(night: Night) -> None:
    """Every drop has come to its one ending, and the invariant holds."""
    night.tree.check(is_quiet=True)
    assert len(night.tree.results()) == 2


# A dead parent


def _children(pid: int) -> dict[str, int]:
    """The living children of a process: module -> process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == str(pid) and state != "Z" and b"-m" in words:
            found[words[words.index(b"-m") + 1].decode()] = int(folder.name)
    return found


@pytest.mark.parametrize("moment", ["painting", pytest.param("stopped", marks=pytest.mark.nightly)])
def test_a_dead_service_leaves_no_child(moment: str, tmp_path: Path) -> None:
    """SIGKILL of the whole service in the middle of a job that loops for ever ends engine and decoder too.

    So it does where both are stopped and deaf to their pipes.
    """
    file = tmp_path / "config.yaml"
    raw = {"inbox": {"settle_s": 0.1, "rescan_s": 0.2}, "engine": ENGINE, "log": {"level": "debug"}}
    file.write_text(json.dumps(raw))
    tree = Tree(config_module.build(raw, tmp_path, environment={}))
    tree.inbox.mkdir()
    _drop(tree, "loop", SEEDS["loop"])
    environment = {**os.environ, "PYTHONPATH": _poisoned(tmp_path / "poison")}
    log = tmp_path / "log"
    command = [sys.executable, "-m", "daemon", "run", "--config", str(file)]
    with log.open("wb") as stdout, subprocess.Popen(command, stdout=stdout, env=environment) as service:
        try:
            wait_for(lambda: b'"job.progressed"' in log.read_bytes(), "the first picture", 120)
            children = _children(service.pid)
            for pid in children.values() if moment == "stopped" else ():
                os.kill(pid, signal.SIGSTOP)
        finally:
            service.kill()
    assert children.keys() == {"daemon.engine.child", "daemon.sandbox.child"}
    try:
        wait_for(lambda: all(is_gone(pid) for pid in children.values()), "the children's end", 10)
    finally:
        for pid in children.values():
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)
