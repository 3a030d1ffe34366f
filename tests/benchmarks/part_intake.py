"""An inbox with ten thousand pairs: seconds of a scan, and memory of the service's main process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from processes import NoAnswerError, environment, memory_mb
from tables import Table, median

from daemon import files
from daemon.pictures import encoding

if TYPE_CHECKING:
    from pathlib import Path

    from bench import Bench

PAIRS: Final = 10_000
QUICK_PAIRS: Final = 500
SCANS: Final = 3
DEADLINE_S: Final = 600
CONFIG: Final[dict[str, Any]] = {
    "inbox": {"settle_s": 3600, "rescan_s": 3},
    "log": {"level": "debug", "format": "json"},
}


def run(bench: Bench) -> list[Table]:
    """Start the service on a full inbox in which nothing settles, and wait for some scans."""
    pairs = QUICK_PAIRS if bench.options.quick else PAIRS
    answers = [_scan(bench, pairs) for _ in range(bench.options.repeats)]
    keys = ("first_s", "scan_s", "peak_mb", "now_mb")
    row = tuple(median([answer[key] for answer in answers]) for key in keys)
    return [
        Table(
            f"An inbox with {pairs} pairs ({3 * pairs} files)",
            ("first scan s", "later scans s", "main process peak MB", "main process after the scans MB"),
            [row],
            ["`elapsed_s` of `inbox.rescanned`: the first after the start, and the median of the later ones"],
            {"answers": answers},
        )
    ]


def _scan(bench: Bench, pairs: int) -> dict[str, Any]:
    home = bench.work / "intake"
    shutil.rmtree(home, ignore_errors=True)
    _drop(home / "inbox", pairs)
    files.replace(home / "config.yaml", json.dumps(CONFIG).encode())
    bench.say(f"intake: {pairs} pairs")
    log = home / "log.jsonl"
    command = [sys.executable, "-m", "daemon", "run", "--config", str(home / "config.yaml")]
    with log.open("wb") as stdout:
        service = subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL, env=environment())
    try:
        scans = _await_scans(service, log, home / "spool" / "status.json", 3 * pairs)
        found = {"peak_mb": memory_mb(service.pid, "VmHWM"), "now_mb": memory_mb(service.pid, "VmRSS")}
    finally:
        service.terminate()
        service.wait()
        shutil.rmtree(home / "inbox")
    return {**found, "first_s": scans[0], "scan_s": median(scans[1:]), "scans": scans}


def _drop(inbox: Path, pairs: int) -> None:
    """Write the smallest possible content, style and sidecar for each pair."""
    inbox.mkdir(parents=True)
    random = np.random.default_rng(0)
    content, style = (encoding.encode(random.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(2))
    for number in range(pairs):
        for suffix, data in ((".png", content), ("-style.png", style)):
            (inbox / f"p{number}{suffix}").write_bytes(data)
        (inbox / f"p{number}.yaml").write_text(
            f"content: p{number}.png\nstyle: p{number}-style.png\nsize: 32\n"
        )


def _await_scans(service: subprocess.Popen[bytes], log: Path, status: Path, file_count: int) -> list[float]:
    """Wait until every file is known and some scans have ended; returns the scans' seconds."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and service.poll() is None:
        scans = _scans(log)
        if len(scans) >= SCANS and _waiting(status) == file_count:
            return scans
        time.sleep(0.5)
    raise NoAnswerError(f"intake: not every file was known, exit code {service.poll()}: {log}")


def _scans(log: Path) -> list[float]:
    lines = log.read_bytes().split(os.linesep.encode())[:-1]
    return [json.loads(line)["elapsed_s"] for line in lines if b'"inbox.rescanned"' in line]


def _waiting(status: Path) -> int:
    try:
        return int(json.loads(status.read_bytes())["waiting_count"])
    except (OSError, ValueError, KeyError):
        return -1
