"""Tens of thousands of files: found within one rescan, with a small parent and a quick `status`."""

from __future__ import annotations

import json
import math
import signal
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from support.fakes import FakeEngine
from support.trees import Stepper, folder_in_memory, save, wait_for

from daemon.job import State

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Live

MAX_MB = 200
STATUS_S = 0.5
STARTS = 1.5  # or so many times what a command takes that only reads the config, on a slow machine
TRIES = 25  # the machine may have other things to do
PAIRS = [pytest.param(1000, marks=pytest.mark.nightly), pytest.param(10_000, marks=pytest.mark.slow)]


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """Give a folder on a disk on which a sync costs nothing."""
    with folder_in_memory() as folder:
        yield folder


def _drop(inbox: Path, groups: int) -> int:
    """Drop groups of three tiny files; returns the number of files."""
    inbox.mkdir(exist_ok=True)
    content, style = (save(inbox / f".{seed}.png", seed, 8, 8).read_bytes() for seed in (1, 2))
    for number in range(groups):
        (inbox / f"p{number}.png").write_bytes(content)
        (inbox / f"p{number}-style.png").write_bytes(style)
        text = yaml.safe_dump({"content": f"p{number}.png", "style": f"p{number}-style.png", "size": 32})
        (inbox / f"p{number}.yaml").write_text(text)
    return 3 * groups


def _memory_mb(live: Live, key: str) -> float:
    """Read a size from the kernel's account of the parent: `VmRSS` now, `VmHWM` the highest so far."""
    with open(f"/proc/{live.process.pid}/status", encoding="ascii") as lines:
        (kilobytes,) = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(kilobytes) / 1000


def _status(live: Live) -> tuple[dict[str, Any], float, float]:
    """Ask for the status until it comes quickly; returns an answer, and the least and the allowed seconds."""
    least_s = start_s = math.inf
    for _ in range(TRIES):
        seconds, answer = _asked(live, "status", "--json")
        least_s, start_s = min(least_s, seconds), min(start_s, _asked(live, "check")[0])
        if least_s < max(STATUS_S, STARTS * start_s):
            break
    return json.loads(answer.stdout), least_s, max(STATUS_S, STARTS * start_s)


def _asked(live: Live, *arguments: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    begun = time.perf_counter()
    answer = live.ask(*arguments)
    assert answer.returncode == 0, answer.stderr
    return time.perf_counter() - begun, answer


def _assert_small_and_quick(live: Live, what: str) -> dict[str, Any]:
    document, status_s, allowed_s = _status(live)
    peak_mb = _memory_mb(live, "VmHWM")
    print(f"{what}: parent {_memory_mb(live, 'VmRSS'):.0f} MB now, {peak_mb:.0f} MB at most; ", end="")  # noqa: T201
    print(f"status in {status_s:.2f} s")  # noqa: T201
    assert peak_mb < MAX_MB
    assert status_s < allowed_s
    return document


@pytest.mark.parametrize("groups", [666, pytest.param(6666, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_files_dropped_while_it_was_stopped_are_all_found_within_one_rescan(
    groups: int, make_live: Callable[..., Live]
) -> None:
    """After SIGSTOP, a flood of files and SIGCONT, each is known within a rescan and the time of a scan."""
    rescan_s = 3.0
    live = make_live(inbox={"settle_s": 3600, "rescan_s": rescan_s}).start().until_ready()
    live.send(signal.SIGSTOP)
    files = _drop(live.tree.inbox, groups)
    live.send(signal.SIGCONT)
    begun = time.monotonic()
    noticed = b'"inbox.noticed"'
    wait_for(lambda: live.log.read_bytes().count(noticed) == groups, "all to be noticed", 120)
    noticed_s = time.monotonic() - begun
    wait_for(lambda: live.status()["waiting_count"] == files, "all to be in the status")
    scan_s = max(record["elapsed_s"] for record in live.records("inbox.rescanned"))
    print(f"{files} files: noticed after {noticed_s:.2f} s, a scan takes {scan_s:.2f} s")  # noqa: T201
    assert noticed_s < rescan_s + 3 * scan_s + 2
    _assert_small_and_quick(live, f"{files} files waiting")


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.timeout(1200)
def test_a_start_on_a_full_inbox_stays_small_and_quick(pairs: int, make_live: Callable[..., Live]) -> None:
    """With a thousand pairs and more in the inbox at the start, the parent stays small and `status` quick."""
    live = make_live(inbox={"settle_s": 3600, "rescan_s": 3})
    files = _drop(live.tree.inbox, pairs)
    live.start().until_ready()
    wait_for(lambda: live.status()["waiting_count"] == files, "all to be in the status")
    document = _assert_small_and_quick(live, f"{pairs} pairs in the inbox")
    assert document["waiting_count"] == files


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.timeout(1200)
def test_a_start_on_a_full_spool_stays_small_and_quick(
    pairs: int, in_memory: Path, make_live: Callable[..., Live]
) -> None:
    """With a thousand jobs and more queued at the start, the parent stays small and `status` quick."""
    spool = {"spool": str(in_memory / "spool"), "inbox": str(in_memory / "inbox")}
    closed = datetime.now().astimezone() + timedelta(hours=2)
    window = f"{closed:%H:%M}-{closed + timedelta(hours=1):%H:%M}"
    live = make_live(folders=spool, inbox={"settle_s": 0.01, "rescan_s": 3}, schedule={"window": window})
    _drop(live.tree.inbox, pairs)
    stepper = Stepper(live.tree.config, FakeEngine())
    wait_for(
        lambda: stepper.look() or stepper.service.status.counts.accepted == pairs, "all to be accepted", 900
    )
    live.start().until_ready()
    document = _assert_small_and_quick(live, f"{pairs} pairs in the spool")
    assert document["counts"][State.QUEUED.value] == pairs
