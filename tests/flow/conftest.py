"""The service in a process of its own: with the real engine on small pictures, or quick, with a fake one."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.running import Runs
from support.trees import Tree, hasten, wait_for

from daemon import config as config_module
from daemon.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.config import Config

TESTS = Path(__file__).parents[1]
START_S = 90  # on a machine with other things to do
QUICK = "support.quick_daemon"
CONFIG: dict[str, Any] = {
    "inbox": {"settle_s": 0.3, "rescan_s": 0.5},
    "engine": {"device": "cpu", "precision": "float32"},
    "defaults": {"size": 64, "iterations": 4, "frames": {"every": 2}},
    "log": {"level": "debug"},
}


@pytest.fixture
def tree(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Make a tree where everything goes quickly."""
    hasten(monkeypatch)
    made = Tree(make_config(inbox={"settle_s": 0.05, "rescan_s": 0.1, "observer": "off"}))
    made.inbox.mkdir()
    return made


@pytest.fixture
def run() -> Iterator[Runs]:
    """Start services; those that still run are ended."""
    with Runs() as runs:
        yield runs


class Live:
    """A service that is, was, or will be running on a tree."""

    def __init__(self, base: Path, module: str = "daemon", **sections: dict[str, Any]) -> None:
        base.mkdir(parents=True, exist_ok=True)
        raw = {**CONFIG, **{key: {**CONFIG.get(key, {}), **value} for key, value in sections.items()}}
        self.base = base
        self._module = module
        self.config_file = base / "config.yaml"
        self.config_file.write_text(json.dumps(raw))
        self.tree = Tree(config_module.build(raw, base, environment={}))
        self.tree.inbox.mkdir(exist_ok=True)
        self.log = base / "stdout.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> Live:
        """Start it with an empty log."""
        with self.log.open("wb") as stdout, (self.base / "stderr.log").open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._module, "run", "--config", str(self.config_file), *options],
                stdout=stdout,
                stderr=stderr,
                env=_environment(),
            )
        return self

    def until_ready(self) -> Live:
        """Wait for READY."""
        self.until("service.ready", deadline_s=START_S)
        return self

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command on the same config, in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", self._module, *arguments, "--config", str(self.config_file)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=_environment(),
        )

    def ask_here(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command on the same config, in this process, which takes no start of one."""
        words = [*arguments, "--config", str(self.config_file)]
        stdout, stderr, code = io.StringIO(), io.StringIO(), 0
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            patch.setattr(sys, "argv", ["styletransferd", *words])
            try:
                main()
            except SystemExit as end:
                code = int(end.code or 0)
        return subprocess.CompletedProcess(words, code, stdout.getvalue(), stderr.getvalue())

    def send(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, deadline_s: float = 30) -> int:
        """Wait for the end and give the exit code."""
        return self.process.wait(timeout=deadline_s)

    def end(self) -> None:
        """End it, if it still runs, however it takes."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def records(self, *events: str, job: str = "") -> list[dict[str, Any]]:
        """Give the log's records so far, of some events and of the jobs whose name begins so."""
        *lines, _unfinished = self.log.read_bytes().split(b"\n")
        records = [json.loads(line) for line in lines]
        return [
            record
            for record in records
            if (not events or record["event"] in events)
            and (not job or str(record.get("name", "")).rpartition("-")[0] == job)
        ]

    def until(
        self, *events: str, job: str = "", count: int = 1, deadline_s: float = 60
    ) -> list[dict[str, Any]]:
        """Wait for records; fail early where the service has ended."""

        def found() -> list[dict[str, Any]] | None:
            records = self.records(*events, job=job)
            is_over = self.process is not None and self.process.poll() is not None
            assert len(records) >= count or not is_over, (self.base / "stderr.log").read_text()
            return records if len(records) >= count else None

        result: list[dict[str, Any]] = wait_for(found, f"{events} {job}", deadline_s)
        return result

    def completed(self, job: str) -> Path:
        """Wait until a job is done; gives its entry."""
        self.until("job.completed", job=job)
        return self.tree.result(job)

    def status(self) -> dict[str, Any]:
        """Read the service's own state."""
        document: dict[str, Any] = json.loads((self.tree.config.folders.spool / "status.json").read_bytes())
        return document


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("STYLETRANSFERD")}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}


@pytest.fixture
def make_live(tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """Make real services; those that still run are ended."""
    with _making(tmp_path) as make:
        yield make


@pytest.fixture
def make_quick(tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """Make services with a fake engine; those that still run are ended."""
    with _making(tmp_path) as make:
        yield functools.partial(make, module=QUICK)


@contextlib.contextmanager
def _making(base: Path) -> Iterator[Callable[..., Live]]:
    made: list[Live] = []

    def make(module: str = "daemon", **sections: dict[str, Any]) -> Live:
        made.append(Live(base / f"live-{len(made)}", module, **sections))
        return made[-1]

    try:
        yield make
    finally:
        for live in made:
            live.end()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Run one real service for all tests of a file."""
    yield from _running(Live(tmp_path_factory.mktemp("live")))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Run one service with a fake engine for all tests of a file."""
    yield from _running(Live(tmp_path_factory.mktemp("quick"), QUICK))


def _running(live: Live) -> Iterator[Live]:
    try:
        yield live.start().until_ready()
    finally:
        live.end()
