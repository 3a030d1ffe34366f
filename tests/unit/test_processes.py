"""Child processes: their pipe, their limits, and that they end with the thread that started them."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.programs import is_gone
from support.trees import wait_for

from daemon import processes
from daemon.lifeline import Lifeline
from daemon.processes import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Spawn = Callable[..., Child]

ANSWER_S = 30


def module(folder: Path, code: str) -> dict[str, str]:
    """Write the module `errand`; gives an environment in which it is found."""
    (folder / "errand.py").write_text(f"from daemon import processes\npipe = processes.adopt()\n{code}\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Run a few lines of code as a child that has been adopted; what is left of it is ended."""
    made: list[Child] = []

    def start(code: str, *arguments: str) -> Child:
        made.append(Child("errand", arguments, environment=module(tmp_path, code)))
        return made[-1]

    yield start
    for child in made:
        child.end(Lifeline())


def answer(child: Child) -> object:
    """Wait for one message."""
    assert child.await_message(Lifeline(), ANSWER_S)
    return child.pipe.recv()


def test_a_child_has_its_arguments_and_a_pipe_both_ways(spawn: Spawn) -> None:
    """What is sent comes back with the arguments, and a closed pipe is an end of file on either side."""
    child = spawn("import sys; pipe.send((pipe.recv(), sys.argv[3:]))", "one", "two words")
    child.pipe.send({"a": 1})
    assert answer(child) == ({"a": 1}, ["one", "two words"])
    assert child.has_message(Lifeline())
    with pytest.raises(EOFError):
        child.pipe.recv()
    assert child.end(Lifeline(), ANSWER_S) == 0


def test_a_child_stands_apart(spawn: Spawn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A child has a session of its own, no stdin, and does not import from the folder it was started in."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "json.py").write_text("raise RuntimeError('the wrong one')")
    monkeypatch.chdir(tmp_path / "elsewhere")
    child = spawn("import json, os, sys; pipe.send((os.getsid(0) == os.getpid(), sys.stdin.read()))")
    assert answer(child) == (True, "")


def test_the_kernel_ends_the_child_first(spawn: Spawn) -> None:
    """A child raises its own score with the kernel's out-of-memory killer, and leaves the daemon's alone."""
    before = Path("/proc/self/oom_score_adj").read_text()
    child = spawn("pipe.send(None); pipe.recv()")
    answer(child)
    assert int(Path(f"/proc/{child.pid}/oom_score_adj").read_text()) == processes.OOM_SCORE
    assert Path("/proc/self/oom_score_adj").read_text() == before


def test_a_child_leaves_no_core(spawn: Spawn) -> None:
    """However much core the daemon may dump, a child may dump a byte at most, which Linux takes for none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        child = spawn("import resource; pipe.send(resource.getrlimit(resource.RLIMIT_CORE))")
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    byte = 0 if hard == 0 else 1
    assert answer(child) == (byte, byte)


def test_a_child_ends_with_the_thread_that_started_it(spawn: Spawn) -> None:
    """A child that hangs is ended by the kernel when its starter's thread ends, though the process lives."""
    found: list[Child] = []

    def start() -> None:
        child = spawn("import time; pipe.send(None); time.sleep(600)")
        answer(child)
        found.append(child)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert found[0].end(Lifeline(), ANSWER_S) == -signal.SIGKILL


PARENT = """
import os, time
from daemon import processes
child = processes.Child("errand", environment=dict(os.environ))
child.pipe.recv()
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_child_ends_with_a_killed_parent(tmp_path: Path) -> None:
    """SIGKILL of the parent leaves no child, not even a stopped one that reads no pipe."""
    environment = module(tmp_path, "import time; pipe.send(None); time.sleep(600)")
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
        assert not is_gone(pid)
        parent.kill()
    wait_for(lambda: is_gone(pid), "the child's end", ANSWER_S)


def test_a_child_whose_parent_is_gone_already_ends(tmp_path: Path) -> None:
    """A child that finds itself with another parent ends before it does anything."""
    command = [sys.executable, "-m", "errand", str(os.getpid() + 1), "0"]
    environment = module(tmp_path, "print('it lives')")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_a_message_that_stops_midway_does_not_hold_the_reader(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that stops after the head of a message costs the reader a limited time, and an OSError."""
    monkeypatch.setattr(processes, "HALF_MESSAGE_S", 1)
    child = spawn("import os, time; os.write(pipe.fileno(), b'\\0\\0\\1\\0half'); time.sleep(600)")
    assert child.await_message(Lifeline(), ANSWER_S)
    with pytest.raises(BlockingIOError):
        child.pipe.recv()


def test_a_start_that_fails_leaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process can be started it says so with an OSError, and no descriptor is left open."""
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError):
        Child("errand", environment={})
    assert len(os.listdir("/proc/self/fd")) == before


# Waiting for it, and its end


def test_a_wait_for_a_message_ends_with_the_time_or_a_stop(spawn: Spawn) -> None:
    """A silent child is waited for no longer than that, and not at all once asked to stop."""
    child, stop = spawn("pipe.recv()"), threading.Event()
    begun = time.monotonic()
    assert not child.await_message(Lifeline(), 0.3)
    assert time.monotonic() - begun >= 0.3
    stop.set()
    assert not child.await_message(Lifeline(stop), ANSWER_S)
    assert time.monotonic() - begun < ANSWER_S
    assert child.is_running


def test_a_wait_has_heartbeats(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several a second, for a message as for the end."""
    child, life, beats = spawn("import time; time.sleep(600)"), Lifeline(), []
    monkeypatch.setattr(life, "beat", lambda: beats.append(time.monotonic()))
    child.await_message(life, 1.0)
    assert len(beats) >= 4
    beats.clear()
    assert child.end(life, 1.0) is None
    assert len(beats) >= 4


def test_a_child_that_does_not_end_is_killed(spawn: Spawn) -> None:
    """The code is None then; its pipe is closed, and to end it once more changes nothing."""
    child = spawn("import time; pipe.send(None); time.sleep(600)")
    answer(child)
    assert child.end(Lifeline(), 0.2) is None
    assert is_gone(child.pid)
    assert not child.is_running
    assert child.end(Lifeline()) == -signal.SIGKILL


def test_a_child_that_died_is_not_running(spawn: Spawn) -> None:
    """Its end is noticed without a message, and given as a return code."""
    child = spawn("pipe.recv()")
    os.kill(child.pid, signal.SIGTERM)
    wait_for(lambda: not child.is_running, "the child's end", ANSWER_S)
    assert child.end(Lifeline()) == -signal.SIGTERM


@pytest.mark.parametrize(
    "code",
    [
        "pipe.send(None)\ntry: pipe.recv()\nexcept EOFError: pass",
        "import time; pipe.send(None); time.sleep(600)",
    ],
)
def test_a_stop_closes_the_pipe_first(spawn: Spawn, code: str) -> None:
    """A child that listens ends by itself, with its own exit code; one that does not is killed."""
    child = spawn(code)
    answer(child)
    child.stop()
    assert child.end(Lifeline()) == (-signal.SIGKILL if "sleep" in code else 0)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-11, "signal SIGSEGV"),
        (-9, "signal SIGKILL"),
        (-40, "signal 40"),
    ],
)
def test_an_ending_in_words(code: int, words: str) -> None:
    """A return code is given as an exit code, a signal's name, or a real-time signal's number."""
    assert processes.ending(code) == words


def test_one_thread_has_a_lower_priority_and_no_other() -> None:
    """The calling thread is nice to others; the rest of the process keeps its priority."""
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    found: list[int] = []

    def work() -> None:
        processes.yield_to_others(19)
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [19]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
