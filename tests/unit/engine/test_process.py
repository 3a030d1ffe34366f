"""The engine in a child process: equal to the local one, patient, and replaced when it dies.

One real engine serves the tests that leave it alive; where a child is killed, a light one does.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import structlog
from structlog.testing import capture_logs
from support import light_engine
from support.fakes import AskedLife, steps_of
from support.programs import is_gone
from support.trees import named, save, wait_for

from daemon import config as config_module
from daemon.engine import child, limits, process
from daemon.engine.local import LocalEngine
from daemon.engine.process import ProcessEngine
from daemon.errors import EngineError, JobError, NotReady, PauseKind, Reason
from daemon.job import Request, Style
from daemon.lifeline import Lifeline
from daemon.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from daemon.config import Config
    from daemon.job import Step

    Ask = Callable[..., Request]
    Make = Callable[..., ProcessEngine]

LONG = 100_000  # iterations that no test waits for
MOMENT_S = 5.0


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """Logs as they are before anything configures them, so that every level can be caught."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def config_for(folder: Path, **engine: Any) -> Config:
    """Make a config for the CPU; keywords are of its section engine."""
    chosen = {"device": "cpu", "precision": "float32", **engine}
    return config_module.build({"engine": chosen}, folder, environment={})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessEngine]:
    """One started engine for all tests that leave it alive."""
    config = config_for(tmp_path_factory.mktemp("engine"))
    config.folders.spool.mkdir()  # as a service has made it
    engine = ProcessEngine(config)
    engine.start(Lifeline())
    yield engine
    engine.stop()


@pytest.fixture
def engine(shared: ProcessEngine) -> Iterator[ProcessEngine]:
    """The shared engine; a test that lost its child fails, so that it does not pass for alive."""
    pid = shared.pid
    yield shared
    assert shared.pid == pid
    assert not is_gone(pid)


@pytest.fixture(scope="module")
def local(shared: ProcessEngine) -> LocalEngine:
    """The same engine in this process."""
    made = LocalEngine(shared.config, shared.config.folders.spool)
    made.start()
    return made


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Make]:
    """Make engines of a test's own; keywords are of the config's section engine."""
    made: list[ProcessEngine] = []

    def make(**options: Any) -> ProcessEngine:
        made.append(ProcessEngine(config_for(tmp_path, **options)))
        return made[-1]

    yield make
    for engine in made:
        engine.stop()


@pytest.fixture
def light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every child that is started be a light one."""
    monkeypatch.setenv("PYTHONPATH", light_engine.planted(tmp_path / "light"))
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")


@pytest.fixture
def request_for(tmp_path: Path) -> Ask:
    """Make a request for two small pictures; keywords are settings."""
    content, style = save(tmp_path / "content.png", 1, 24, 32), save(tmp_path / "style.png", 2, 32, 28)

    def make(**settings: Any) -> Request:
        chosen = Settings.model_validate({"size": 32, "iterations": 3, "frames": {"every": 1}, **settings})
        return Request(content, (Style(style),), None, chosen)

    return make


@pytest.fixture
def started(light: None, make_engine: Make) -> ProcessEngine:
    """An engine of a test's own whose light child has started."""
    engine = make_engine()
    engine.start(Lifeline())
    return engine


class Running(NamedTuple):
    """An engine in the middle of a long picture."""

    engine: ProcessEngine
    steps: Generator[Step, None, None]
    pid: int


@pytest.fixture
def running(started: ProcessEngine, request_for: Ask) -> Running:
    """A light child that has taken the first step of a picture."""
    steps = steps_of(started, request_for(iterations=LONG))
    next(steps)
    return Running(started, steps, started.pid)


def paint(engine: ProcessEngine | LocalEngine, request: Request) -> list[Step]:
    """Paint without ever stopping."""
    return list(steps_of(engine, request))


def facts(steps: list[Step]) -> list[tuple[Any, ...]]:
    """Everything of some steps but how long they took."""
    return [
        (step.iteration, step.iterations, step.size_px, step.losses, step.picture.tobytes(), not step.painting)
        for step in steps
    ]


# Painting


def test_child_paints_what_the_local_engine_paints(
    engine: ProcessEngine, local: LocalEngine, request_for: Ask
) -> None:
    """The same request gives the same steps, losses and pictures in both engines, to the bit."""
    request = request_for(size=36, scales=[{"size": 24, "iterations": 2}])
    ours, theirs = paint(engine, request), paint(local, request)
    assert len(ours) == 7
    assert facts(ours) == facts(theirs)
    assert np.array_equal(ours[-1].painting.picture, theirs[-1].painting.picture)
    assert ours[-1].painting.best == theirs[-1].painting.best
    info = engine.start(Lifeline())
    assert (info.device, info.weights_sha256) == (local.start().device, local.start().weights_sha256)


@pytest.mark.usefixtures("light")
def test_the_model_is_loaded_once_for_several_pictures(make_engine: Make, request_for: Ask) -> None:
    """Started once and asked three times, it starts one child and loads one model, and says so once each."""
    engine = make_engine()
    with capture_logs() as records:
        info = engine.start(Lifeline())
        pids = {engine.pid}
        for size in (24, 32, 24):
            assert paint(engine, request_for(size=size))[-1].painting is not None
            pids.add(engine.pid)
    assert len(pids) == 1
    (started,), (loaded,) = named(records, "engine.started"), named(records, "engine.model_loaded")
    assert started["engine_pid"] in pids
    assert loaded["weights_sha256"] == info.weights_sha256
    assert (loaded["device"], loaded["precision"]) == (info.device, "float32")
    engine.stop()
    assert is_gone(started["engine_pid"])


def test_a_second_picture_starts_at_once(engine: ProcessEngine, request_for: Ask) -> None:
    """Once a size was painted, the next picture's first step comes within a second: nothing is loaded again."""
    paint(engine, request_for())
    begun = time.monotonic()
    first = next(iter(steps := steps_of(engine, request_for())))
    assert time.monotonic() - begun < 1
    assert first.iteration == 0
    assert list(steps)[-1].painting is not None


# Ending early


def test_stop_ends_the_picture_and_keeps_the_child(engine: ProcessEngine, request_for: Ask) -> None:
    """Asked to stop between fast steps, it ends without a painting, and paints the next one whole."""
    steps = []
    for step in steps_of(engine, request_for(iterations=LONG), AskedLife(lambda: len(steps) >= 3)):
        steps.append(step)
        if len(steps) == 3:
            asked = time.monotonic()
    assert time.monotonic() - asked < MOMENT_S
    assert all(step.painting is None for step in steps)
    assert [step.iteration for step in paint(engine, request_for())] == [0, 1, 2, 3]


def test_stop_before_the_first_step_keeps_the_child(engine: ProcessEngine, request_for: Ask) -> None:
    """Asked to stop from the beginning, it ends in a moment; the next picture is not mistaken for it."""
    begun = time.monotonic()
    steps = steps_of(engine, request_for(iterations=LONG), AskedLife(lambda: True))
    assert all(step.painting is None for step in steps)
    assert time.monotonic() - begun < MOMENT_S
    steps = paint(engine, request_for(iterations=2))
    assert {step.iterations for step in steps} == {2}
    assert steps[-1].painting is not None


@pytest.mark.parametrize("taken", [1, 4])
def test_steps_nobody_takes_any_more_are_ended(engine: ProcessEngine, request_for: Ask, taken: int) -> None:
    """A picture left midway, as after a full disk, is ended; none of its steps reach the next request."""
    steps = steps_of(engine, request_for(iterations=LONG))
    for _ in range(taken):
        next(steps)
    steps.close()
    again = paint(engine, request_for(iterations=2))
    assert [(step.iteration, step.iterations) for step in again] == [(0, 2), (1, 2), (2, 2)]
    assert again[-1].painting is not None


def test_a_look_at_a_limit_that_fails_ends_the_picture(
    running: Running, request_for: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a free descriptor /proc cannot be read; no step of that picture reaches the next request."""

    def fail(_watch: limits.Watch) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(limits.Watch, "excess", fail)
        with pytest.raises(OSError, match="Too many open files"):
            list(running.steps)
    again = paint(running.engine, request_for(iterations=2))
    assert [(step.iteration, step.iterations) for step in again] == [(0, 2), (1, 2), (2, 2)]


def test_steps_may_be_left_after_the_engine_was_stopped(running: Running) -> None:
    """Steps that are dropped only after the engine itself was stopped are dropped in silence."""
    running.engine.stop()
    running.steps.close()
    assert is_gone(running.pid)
    running.engine.stop()  # once more changes nothing


# The next request, announced


def test_a_hint_during_a_picture_changes_nothing_of_either(engine: ProcessEngine, request_for: Ask) -> None:
    """The running picture is painted to its end, and the announced one is the same as without a hint."""
    first, second = request_for(iterations=6), request_for(size=40, style_weight=0.02)
    expected = facts(paint(engine, first)), facts(paint(engine, second))
    steps = []
    for step in steps_of(engine, first):
        steps.append(step)
        engine.prepare(second)
    assert (facts(steps), facts(paint(engine, second))) == expected


@pytest.mark.parametrize("order", ["hint first", "stop first"])
def test_a_hint_and_a_stop_may_cross(engine: ProcessEngine, request_for: Ask, order: str) -> None:
    """Whichever comes first, the picture ends, the child lives on, and the next picture is whole."""
    asked: list[bool] = []
    steps = steps_of(engine, request_for(iterations=LONG), AskedLife(lambda: bool(asked)))
    next(steps)
    if order == "hint first":
        engine.prepare(request_for(size=40))
    asked.append(True)
    begun = time.monotonic()
    assert all(step.painting is None for step in steps)
    assert time.monotonic() - begun < MOMENT_S
    if order == "stop first":
        engine.prepare(request_for(size=40))
    assert [step.iteration for step in paint(engine, request_for(size=40))] == [0, 1, 2, 3]


def test_hints_that_lead_nowhere_are_forgotten(engine: ProcessEngine, request_for: Ask, tmp_path: Path) -> None:
    """A hint at files that are gone, or at a request that can never be painted, is no error."""
    request = request_for()
    for hint in (
        Request(tmp_path / "gone.png", request.styles, None, request.settings),
        Request(request.content, request.styles, None, None),
    ):
        engine.prepare(hint)
        assert paint(engine, request)[-1].painting is not None


@pytest.mark.usefixtures("light")
def test_a_hint_without_a_child_is_passed_over(make_engine: Make, request_for: Ask) -> None:
    """An engine that is not started, or whose child has died, ignores a hint without an error."""
    engine = make_engine()
    engine.prepare(request_for())
    assert engine.pid is None
    engine.start(Lifeline())
    os.kill(engine.pid, signal.SIGKILL)
    wait_for(lambda: engine.pid is None, "the child's end")
    for _ in range(3):
        engine.prepare(request_for())
    assert paint(engine, request_for())[-1].painting is not None


def test_the_child_reads_all_that_came_up_to_a_stop() -> None:
    """Between two steps every hint is taken; only a stop ends the picture."""
    ours, theirs = Pipe()
    hints: list[Any] = []
    listener, stop = SimpleNamespace(prepare=hints.append), threading.Event()
    child.read_notes(listener, theirs, stop)
    ours.send(("prepare", "a"))
    ours.send(("prepare", "b"))
    child.read_notes(listener, theirs, stop)
    assert not stop.is_set()
    assert hints == ["a", "b"]
    ours.send(("prepare", "c"))
    ours.send(("stop", None))
    ours.send(("paint", "the next one"))
    child.read_notes(listener, theirs, stop)
    assert stop.is_set()
    assert hints == ["a", "b", "c"]
    assert theirs.recv() == ("paint", "the next one")
    ours.close()
    theirs.close()


# Errors that cross the pipe


def test_job_errors_cross_the_pipe_whole(
    engine: ProcessEngine, local: LocalEngine, request_for: Ask, tmp_path: Path
) -> None:
    """A job that cannot be done fails with the very failure of the local engine; the child lives on."""
    narrow = request_for()
    narrow = Request(save(tmp_path / "narrow.png", 3, 20, 200), narrow.styles, None, narrow.settings)
    words = tmp_path / "words.jpg"
    words.write_text("no picture")
    for request in (narrow, Request(words, narrow.styles, None, narrow.settings)):
        failures = []
        for painter in (engine, local):
            with pytest.raises(JobError) as caught:
                paint(painter, request)
            failures.append(caught.value.failure)
        assert failures[0] == failures[1]
    assert failures[0].reason is Reason.NOT_A_PICTURE
    assert paint(engine, request_for())[-1].painting is not None


def test_a_defect_under_a_job_is_an_engine_error(
    engine: ProcessEngine, request_for: Ask, capfd: pytest.CaptureFixture[str]
) -> None:
    """An unforeseen exception in the child is raised, its traceback is logged, and the child lives on.

    Nothing of it reaches this process's own stdout or stderr.
    """
    request = request_for()
    with capture_logs() as records:
        with pytest.raises(EngineError) as caught:
            paint(engine, Request(request.content, request.styles, None, None))
        wait_for(
            lambda: any(caught.value.message in line for line in printed(records)), "the traceback's last line"
        )
    assert caught.value.reason is Reason.ENGINE_CRASHED
    assert caught.value.message.startswith("AttributeError: ")
    assert any("Traceback" in line for line in printed(records))
    assert capfd.readouterr() == ("", "")
    assert paint(engine, request)[-1].painting is not None


def printed(records: list[Any]) -> list[str]:
    """What the child printed, line by line."""
    return [record["line"] for record in named(records, "engine.printed")]


@pytest.mark.usefixtures("light")
def test_what_the_child_prints_becomes_log_records(
    make_engine: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    """Lines on stdout and stderr arrive as records, by level, and nowhere else."""
    engine = make_engine()
    with capture_logs() as records:
        engine.start(Lifeline())
        wait_for(lambda: len(printed(records)) == 2, "both lines")
    levels = {record["line"]: record["log_level"] for record in named(records, "engine.printed")}
    assert levels["printed on stdout"] == "info"
    assert levels["I0000 00:00:1700000000.000000    1 port.cc:153] on stderr"] == "debug"
    assert capfd.readouterr() == ("", "")


@pytest.mark.nightly
def test_what_tensorflow_and_keras_print_becomes_log_records(
    make_engine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """TensorFlow's lines on stderr and Keras' on stdout arrive as records, by level, and nowhere else.

    Keras prints where it downloads from before it tries; the network is closed here, so it is not ready either.
    """
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    for scheme in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    engine = make_engine(weights="imagenet")
    with capture_logs() as records:
        with pytest.raises(NotReady, match="weights imagenet: cannot download https://"):
            engine.start(Lifeline())
        wait_for(lambda: any("Downloading data" in line for line in printed(records)), "Keras' line on stdout")
    lines = [(record["line"], record["log_level"]) for record in named(records, "engine.printed")]
    levels = {level for line, level in lines if line.startswith("I0") and ".cc:" in line}
    assert levels == {"debug"}  # TensorFlow's I is no operator's info
    assert capfd.readouterr() == ("", "")


# Deaths


def test_a_killed_child_is_reported_and_replaced(running: Running, request_for: Ask) -> None:
    """`kill -9` in the middle of a picture names the signal; the next picture gets a new child and is whole."""
    os.kill(running.pid, signal.SIGKILL)
    with capture_logs() as records, pytest.raises(EngineError) as caught:
        list(running.steps)
    assert caught.value.reason is Reason.ENGINE_CRASHED
    assert "SIGKILL" in caught.value.message
    (died,) = named(records, "engine.died")
    assert (died["ended_by"], died["log_level"]) == ("signal SIGKILL", "error")
    assert paint(running.engine, request_for())[-1].painting is not None
    assert running.engine.pid != running.pid


def test_last_lines_of_a_child_are_kept(running: Running) -> None:
    """The last lines that a crashing child printed are in the error, for the job's `error.yaml`."""
    os.kill(running.pid, signal.SIGABRT)
    with pytest.raises(EngineError) as caught:
        list(running.steps)
    assert "SIGABRT" in caught.value.message
    assert caught.value.reason is Reason.ENGINE_CRASHED
    assert any("engine/child.py" in line for line in caught.value.last_lines)
    assert caught.value.last_lines[-1].startswith("Extension modules: ")  # faulthandler's last line


def test_a_child_that_died_between_jobs_costs_no_job(started: ProcessEngine, request_for: Ask) -> None:
    """A child that died while idle is replaced before the next request, which is painted at once."""
    os.kill(started.pid, signal.SIGTERM)
    wait_for(lambda: started.pid is None, "the child's end")
    assert paint(started, request_for())[-1].painting is not None


@pytest.mark.usefixtures("light")
def test_the_time_limit_ends_a_job(make_engine: Make, request_for: Ask) -> None:
    """Past `job_timeout_s` the child is ended and the job has timed out; the next one gets a new child."""
    engine = make_engine(job_timeout_s=1.0)
    engine.start(Lifeline())
    pid, begun = engine.pid, time.monotonic()
    os.kill(pid, signal.SIGSTOP)  # it hangs
    with pytest.raises(EngineError) as caught:
        paint(engine, request_for(iterations=LONG))
    assert caught.value.reason is Reason.TIMED_OUT
    assert 1 <= time.monotonic() - begun < 1 + MOMENT_S
    assert is_gone(pid)
    engine.config = config_for(engine.config.folders.inbox.parent)
    assert paint(engine, request_for())[-1].painting is not None
    assert engine.pid != pid


def test_the_time_limit_ends_a_job_that_makes_steps(started: ProcessEngine, request_for: Ask) -> None:
    """The limit is for the whole job: steps that keep coming do not put it off."""
    started.config = config_for(started.config.folders.inbox.parent, job_timeout_s=0.5)
    begun, taken = time.monotonic(), []
    with pytest.raises(EngineError) as caught:
        taken.extend(step.iteration for step in steps_of(started, request_for(iterations=LONG)))
    assert caught.value.reason is Reason.TIMED_OUT
    assert time.monotonic() - begun < 0.5 + MOMENT_S
    assert len(taken) > 1


@pytest.mark.usefixtures("light")
def test_memory_beyond_the_limit_ends_a_job_on_the_cpu(make_engine: Make, request_for: Ask) -> None:
    """On a CPU a child larger than `memory_limit_mb` is ended: the job is out of memory; a GPU's is not."""
    on_gpu = make_engine(memory_limit_mb=10, weights="gpu.h5")
    assert paint(on_gpu, request_for())[-1].painting is not None
    engine = make_engine(memory_limit_mb=10)
    engine.start(Lifeline())
    pid = engine.pid
    with capture_logs() as records, pytest.raises(EngineError) as caught:
        paint(engine, request_for(iterations=LONG))
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    found = re.fullmatch(
        r"the engine used (\d+) MB of memory, engine\.memory_limit_mb is 10", caught.value.message
    )
    assert 10 < int(found[1]) < 10_000
    (died,) = named(records, "engine.died")
    assert died["ended_by"] == "memory limit"
    assert is_gone(pid)


def beating(monkeypatch: pytest.MonkeyPatch) -> tuple[Lifeline, list[float]]:
    """Make a lifeline that notes when it beats."""
    life, beats = Lifeline(), []
    monkeypatch.setattr(life, "beat", lambda: beats.append(time.monotonic()))
    return life, beats


def test_a_child_that_falls_silent_is_ended(
    started: ProcessEngine, request_for: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any time limit, a child that makes no step for long is ended, and the job has timed out.

    Meanwhile the caller's thread gives heartbeats, since a watchdog depends on them.
    """
    pid = started.pid
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(limits, "STALL_S", 1.5)
    life, beats = beating(monkeypatch)
    with pytest.raises(EngineError) as caught:
        list(started.stylize(request_for(), life))
    assert caught.value.reason is Reason.TIMED_OUT
    assert caught.value.message.startswith("the engine made no step for ")
    assert is_gone(pid)
    assert len(beats) >= 4  # 15, on a machine with nothing else to do


def test_the_wait_for_a_hanging_child_has_heartbeats(
    started: ProcessEngine, request_for: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that does not come to its next step is given its time, with heartbeats, and then ended."""
    monkeypatch.setattr(process, "STOP_S", 1.5)
    pid = started.pid
    os.kill(pid, signal.SIGSTOP)
    life, beats = beating(monkeypatch)
    life.ask_stop()
    assert list(started.stylize(request_for(), life)) == []
    assert len(beats) >= 4
    assert beats[-1] - beats[0] > 1
    assert is_gone(pid)


def test_a_child_that_the_kernel_killed_was_out_of_memory(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SIGKILL after which the kernel counts one more of its own means that the job ran out of memory."""
    count = limits.oom_kills()
    monkeypatch.setattr(process, "oom_kills", lambda: count + 1)
    os.kill(running.pid, signal.SIGKILL)
    with pytest.raises(EngineError) as caught:
        list(running.steps)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert caught.value.message == "the kernel ended the engine's process because memory ran out"


PARENT = """
import sys
from pathlib import Path
from daemon import config
from daemon.engine.process import ProcessEngine
from daemon.lifeline import Lifeline
options = {"device": "cpu", "weights": "hangs.h5"}
engine = ProcessEngine(config.build({"engine": options}, Path(sys.argv[1]), environment={}))
engine.start(Lifeline())
"""


@pytest.mark.usefixtures("light")
def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    """Nothing is left when the daemon is killed with SIGKILL, not even a child that hangs while it loads."""
    command = [sys.executable, "-c", PARENT, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        try:
            started = next(line for line in parent.stdout if "engine.started" in line)
            pid = int(re.search(r"engine_pid=(\d+)", started)[1])
            next(line for line in parent.stdout if "printed on stdout" in line)
            assert not is_gone(pid)
        finally:
            parent.kill()
    wait_for(lambda: is_gone(pid), "the child's end", MOMENT_S)


# Not ready


@pytest.mark.usefixtures("light")
def test_missing_weights_are_not_ready(make_engine: Make) -> None:
    """The child's own message on missing weights reaches the caller, and no child is left."""
    engine = make_engine(weights="none.h5")
    with pytest.raises(NotReady, match=r"none\.h5: not a readable weights file \(No such file or directory\)"):
        engine.start(Lifeline())
    assert engine.pid is None


@pytest.mark.nightly
def test_a_gpu_that_is_missing_is_not_ready(make_engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """`device: gpu` without a GPU is never painted on the CPU: it is not ready, and no child is left."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    engine = make_engine(device="gpu")
    with pytest.raises(NotReady, match=r"engine\.device is gpu, but TensorFlow sees no such GPU"):
        engine.start(Lifeline())
    assert engine.pid is None


@pytest.mark.usefixtures("light")
def test_stop_while_the_model_loads_is_obeyed(make_engine: Make) -> None:
    """Asked to stop while the child still loads, it does not wait for the model, and ends the child."""
    engine = make_engine()
    begun = time.monotonic()
    with capture_logs() as records, pytest.raises(NotReady, match="asked to stop"):
        engine.start(AskedLife(lambda: True))
    assert time.monotonic() - begun < MOMENT_S
    (started,) = named(records, "engine.started")
    assert is_gone(started["engine_pid"])


@pytest.mark.usefixtures("light")
def test_a_child_killed_while_it_loads_is_not_ready(make_engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that ends before its model is loaded means not ready, and says how it ended."""
    engine, life = make_engine(), Lifeline()
    with capture_logs() as records:
        monkeypatch.setattr(life, "beat", lambda: os.kill(records[0]["engine_pid"], signal.SIGKILL))
        with pytest.raises(NotReady, match="SIGKILL"):
            engine.start(life)


# At which level its output is logged


CHATTER = (
    "2026-01-01 00:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on.",
    "2026-01-01 00:00:00.123456: W tensorflow/compiler/tf2tensorrt/utils/py_utils.cc:38] TF-TRT Warning",
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "E0000 00:00:1700000000.000000    1 cuda_executor.cc:1] failed call to cuInit: INTERNAL: CUDA error",
    "2026-01-01 00:00:00.1: E external/xla/cuda_platform.cc:51] cuInit: CUDA_ERROR_NO_DEVICE",
    "This TensorFlow binary is optimized to use available CPU instructions where it counts.",
    "W0000 00:00:1700000000.000000    1 computation_placer.cc:177] computation placer already registered.",
    "I0000 00:00:1700000000.000000    1 port.cc:153] whatever it says",
)


@pytest.mark.parametrize(
    ("line", "level"),
    [
        *((line, "debug") for line in CHATTER),
        ("E0000 00:00:1700000000.000000    1 bfc_allocator.cc:1] out of memory", "info"),
        ("2026-01-01 00:00:00.123456: E tensorflow/core/a.cc:1] broken", "info"),
        ("F0000 00:00:1700000000.000000    1 a.cc:1] Check failed", "error"),
        ("2026-01-01 00:00:00.123456: F tensorflow/core/a.cc:1] Check failed", "error"),
        ("Traceback (most recent call last):", "info"),
        ("Fatal Python error: Aborted", "info"),
        ("I was printed by a library", "info"),
        ("Downloading data from https://example.org", "info"),
    ],
)
def test_chatter_is_logged_at_debug_and_errors_and_plain_lines_stay_visible(line: str, level: str) -> None:
    """A missing GPU and TensorFlow's remarks are at debug; errors, crash reports and other lines are not."""
    assert process.level(line) == level


def test_a_disk_that_fails_in_the_child_is_named_by_its_kind() -> None:
    """What the environment lacks reaches the daemon's metrics, though the error itself stays behind."""

    def steps() -> Iterator[Step]:
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    ours, theirs = Pipe()
    ours.send(child._next(steps()))
    kind, error = theirs.recv()
    assert (kind, str(error)) == ("error", "[Errno 28] No space left on device")
    assert error.kind is PauseKind.NO_SPACE
