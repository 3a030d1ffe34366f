"""Throughput on a queue of pairs: the resident service, one process for each job, the gap between jobs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import picture_files
from processes import NoAnswerError, environment, last_line
from tables import Table, median, ratio

from daemon import files

if TYPE_CHECKING:
    from pathlib import Path

    from bench import Bench


JOBS: Final = 20
QUICK_JOBS: Final = 4
PAINTINGS: Final = 2
PRESET: Final = "preview"
CROP_PX: Final = 4


def run(bench: Bench) -> list[Table]:
    """Paint the same pairs both ways: one half in single processes, all by the service, the other half."""
    count = QUICK_JOBS if bench.options.quick else JOBS
    drop = _make_drop(bench, count)
    batches: list[dict[str, Any]] = []
    single: list[float] = []
    for number in range(bench.options.repeats):
        first = _single(bench, drop, range(count // 2))
        batches.append(_resident(bench, drop, count, number))
        single.append(first + _single(bench, drop, range(count // 2, count)))
    return [_rates(count, batches, single), _gaps(batches)]


def _make_drop(bench: Bench, count: int) -> Path:
    """Make contents that all differ, two paintings in a library, and sidecars."""
    drop = bench.work / "throughput-drop"
    shutil.rmtree(drop, ignore_errors=True)
    (drop / "styles").mkdir(parents=True)
    for number in range(PAINTINGS):
        painting = picture_files.read(bench.pairs[number % len(bench.pairs)].style)
        picture_files.write(
            drop / "styles" / f"painting-{number}.png", painting if number == 0 else painting[::-1, ::-1]
        )
    for number in range(count):
        photo = picture_files.read(bench.pairs[number % len(bench.pairs)].content)
        cut = CROP_PX * number
        picture_files.write(
            drop / f"photo-{number:02}.png", photo[:, cut : photo.shape[1] - CROP_PX * count + cut]
        )
        text = f"content: photo-{number:02}.png\nstyle: painting-{number % PAINTINGS}.png\npreset: {PRESET}\n"
        files.replace(drop / f"photo-{number:02}.yaml", text.encode())
    return drop


def _config(bench: Bench, home: Path) -> Path:
    path = home / "config.yaml"
    text = {
        "folders": {"styles": "./styles"},
        "engine": {"precision": bench.options.precision},
        "log": {"format": "json"},
    }
    files.replace(path, json.dumps(text).encode())
    return path


def _resident(bench: Bench, drop: Path, count: int, number: int) -> dict[str, Any]:
    """Run the service on a full inbox until the queue is empty."""
    home = bench.work / f"throughput-{number}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    shutil.copytree(drop, home / "inbox", ignore=shutil.ignore_patterns("styles"))
    shutil.copytree(drop / "styles", home / "styles")
    log = home / "log.jsonl"
    bench.say(f"throughput: service, {count} jobs")
    begun = time.perf_counter()
    with log.open("wb") as stdout:
        done = _command(["run", "--drain", "--config", str(_config(bench, home))], stdout)
    seconds = time.perf_counter() - begun
    records = [json.loads(line) for line in log.read_bytes().splitlines()]
    completed = [record for record in records if record["event"] == "job.completed"]
    if done.returncode or len(completed) != count:
        how = f"exit code {done.returncode}, {last_line(done.stderr)}"
        raise NoAnswerError(f"{len(completed)} of {count} jobs completed, {how}: {log}")
    started = [record for record in records if record["event"] == "job.started"]
    shutil.rmtree(home / "spool")
    return {"seconds": seconds, "completed": completed, "started": started}


def _single(bench: Bench, drop: Path, numbers: range) -> float:
    """Paint some of the pairs, each in its own process; returns the seconds."""
    bench.say(f"throughput: single processes, jobs {numbers.start} to {numbers.stop - 1}")
    home = bench.work / "throughput-single"
    home.mkdir(exist_ok=True)
    config = _config(bench, home)
    begun = time.perf_counter()
    for number in numbers:
        style = drop / "styles" / f"painting-{number % PAINTINGS}.png"
        output = home / f"photo-{number:02}.png"
        names = [str(drop / f"photo-{number:02}.png"), str(style), "-o", str(output)]
        done = _command(["stylize", *names, "--set", f"preset={PRESET}", "--config", str(config)])
        if done.returncode:
            raise NoAnswerError(f"stylize: exit code {done.returncode}: {last_line(done.stderr)}")
    return time.perf_counter() - begun


def _command(arguments: list[str], stdout: Any = subprocess.DEVNULL) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "daemon", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, check=False, env=environment())


def _rates(count: int, batches: list[dict[str, Any]], single: list[float]) -> Table:
    resident_s, single_s = median([batch["seconds"] for batch in batches]), median(single)
    rates = {"resident service": resident_s, "one process for each job": single_s}
    return Table(
        f"{count} pairs with {PAINTINGS} paintings, preset {PRESET}",
        ("run by", "seconds", "jobs an hour", "speedup"),
        [
            (name, seconds, ratio(3600.0 * count, seconds), ratio(single_s, seconds))
            for name, seconds in rates.items()
        ],
        ["seconds of `run --drain` and of all `stylize` commands: start, model and settling included"],
        {"batches": batches, "single_s": single},
    )


def _gaps(batches: list[dict[str, Any]]) -> Table:
    logged = [record.get("gap_s") for batch in batches for record in batch["completed"][1:]]
    stamped = [gap for batch in batches for gap in _stamped_gaps(batch)]
    table = Table(
        "The gap between two jobs of the service",
        ("measured", "jobs", "median s", "longest s"),
        [
            _gap_row("gap_s of job.completed", logged),
            _gap_row("job.completed to the next job.started", stamped),
        ],
    )
    if not any(gap is not None for gap in logged):
        table.notes.append("this version logs no gap_s")
    return table


def _gap_row(name: str, gaps: list[float | None]) -> tuple[Any, ...]:
    measured = [float(gap) for gap in gaps if gap is not None]
    return name, len(measured), median(measured), max(measured, default=None)


def _stamped_gaps(batch: dict[str, Any]) -> list[float]:
    """Compute the seconds from each job's end to the next one's start, by the log's timestamps."""
    ends, starts = ([_time(record) for record in batch[name]] for name in ("completed", "started"))
    return [(start - end).total_seconds() for end, start in zip(ends, starts[1:], strict=False)]


def _time(record: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(record["timestamp"])
