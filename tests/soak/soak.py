"""Runs the real service for a chosen time, drops pairs, injects faults, and checks the invariant each minute.

    python tests/soak/soak.py --minutes 60 [--seed N] [--dir D] [--reload]

It needs what the tests need, and runs by hand from the root of a clone. A line a minute says how it goes, and a
table at the end what was done; the same is in `soak.json` in the folder that is printed. Exit 1, and the whole
tree is kept, if anything was violated. In the last third of the time the service is not killed any more, so
that memory, open files and threads of one long run can be compared.

All drops are written by this one thread (`scenario.py`), and for each check the service and its children are
stopped (SIGSTOP): a check sees one instant, as a power cut would leave it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from service_process import ROOT, ServiceProcess, Violations, say, until

sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import scenario  # noqa: E402 - needs the path above
from scenario import STOP_S, Folders, Stage, hashes  # noqa: E402 - the same
from support.trees import check_invariant, digest  # noqa: E402 - the same

if TYPE_CHECKING:
    from scenario import Jobs, Script

STUCK_S: Final = 300
CALM_SHARE: Final = 1 / 3


class Soak:
    """One soak: its scripts, a check each minute, and the verdict."""

    def __init__(self, base: Path, minutes: float, seed: int, *, has_reloads: bool) -> None:
        violations = Violations()
        self.stage = Stage(
            Folders(base),
            violations,
            ServiceProcess(base, violations),
            random.Random(seed),  # noqa: S311 - chance, not secrets
            itertools.count(seed * 1_000_000),
            has_reloads,
        )
        self._samples: list[dict[str, Any]] = []
        self._seconds = minutes * 60
        self._begun = time.monotonic()

    def run(self) -> bool:
        """Soak for the time, come to rest, and check everything; returns whether nothing was violated."""
        stage = self.stage
        (stage.folders.base / "config.yaml").write_text(json.dumps(scenario.CONFIG))
        stage.folders.inbox.mkdir(parents=True)
        scenario.put_what_waits(stage)
        for script in (
            *(scenario.keep_running, scenario.disturb_processes, scenario.disturb_folders),
            *(scenario.drop_pairs, scenario.operate, scenario.tidy, self._checking),
        ):
            stage.begin(script(stage))
        try:
            while self._elapsed_s() < self._seconds:
                stage.turn()
            self._come_to_rest()
            self._check_the_end()
        except KeyboardInterrupt:
            stage.violations.add("interrupted")
        except Exception:  # noqa: BLE001 - the table is printed all the same
            stage.violations.add(f"the soak itself broke: {traceback.format_exc()}")
        finally:
            self._end_service()
        return not stage.violations.found

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._begun

    # Checks

    def _checking(self, stage: Stage) -> Script:
        """Check each minute, as soon as no script forbids it."""
        for minute in itertools.count(1):
            while self._elapsed_s() < minute * 60:
                if stage.is_over:
                    return
                yield 0.2
            if not stage.is_calm and self._elapsed_s() > self._seconds * (1 - CALM_SHARE):
                stage.is_calm = True
                say("calm from here on: the service is not killed any more")
            stage.check_is_due = True
            while stage.unclear:
                yield 0.05
            self._check()
            stage.check_is_due = False
            self._tell(minute)

    def _check(self, *, is_quiet: bool = False) -> None:
        """Check the invariant at this instant, while the service is held still."""
        stage, begun = self.stage, time.monotonic()
        with stage.service.held_still():
            jobs = stage.folders.jobs()
            drops = [version for drop in stage.drops if (version := drop.version(jobs)) is not None]
            outbox = stage.folders.place("outbox")
            if outbox.exists() and stage.folders.spool.exists():
                try:
                    check_invariant(stage.folders.inbox, stage.folders.spool, outbox, drops, is_quiet=is_quiet)
                except Exception as error:  # noqa: BLE001 - an hour's run continues, and reports it
                    stage.violations.add(f"invariant: {type(error).__name__}: {error}")
            self._check_kept(jobs)
        stage.service.read_log()
        stage.update_ends(jobs)
        stage.counts["checks"] += 1
        took_ms, key = round(1000 * (time.monotonic() - begun)), "slowest check in ms"
        stage.counts[key] = max(stage.counts[key], took_ms)

    def _check_kept(self, jobs: Jobs) -> None:
        """Check that nothing has left the inbox that no job holds."""
        held = {hash_ for key in jobs for hash_ in key}
        for name, data in self.stage.kept.items():
            path = self.stage.folders.inbox / name
            if digest(data) not in held and not (path.is_file() and path.read_bytes() == data):
                self.stage.violations.add(f"{name} is gone from the inbox, and no job holds it")

    def _tell(self, minute: int) -> None:
        stage = self.stage
        sample = stage.service.sample()
        self._samples.append({"minute": minute, "completed": stage.service.events["job.completed"], **sample})
        ended = sum(drop.is_ended for drop in stage.drops)
        faults = sum(count for name, count in stage.counts.items() if name.startswith("fault"))
        say(
            f"minute {minute}: {len(stage.drops)} drops, {ended} ended, {faults} faults, "
            f"{stage.service.starts} starts, {len(stage.violations.found)} violations; {json.dumps(sample)}"
        )

    # The end

    def _come_to_rest(self) -> None:
        """End the faults, let every job come to its end, and stop the service."""
        say("coming to rest")
        stage = self.stage
        stage.is_over = True
        stage.wake_all()
        released: set[str] = set()
        moved, last = time.monotonic(), ""
        while True:
            for _ in range(20):
                stage.turn()
            jobs = stage.folders.jobs()
            stage.update_ends(jobs)
            for state, id_ in jobs.values():
                if state == "held" and id_ not in released and not stage.unclear:
                    released.add(id_)
                    stage.begin(scenario.ask(stage, "release", id_))
            if self._is_at_rest(jobs):
                break
            now = json.dumps(sorted(jobs.values())) + str(stage.service.is_ready)
            if now != last:
                moved, last = time.monotonic(), now
            if time.monotonic() - moved > STUCK_S:
                waiting = [(drop.name, drop.versions) for drop in stage.drops if not drop.is_ended]
                unfinished = [job for job in jobs.values() if job[0] != "done"]
                stage.violations.add(f"nothing moves: {waiting} {unfinished}")
                break
        self._tell(round(self._elapsed_s() / 60))
        stage.service.send(signal.SIGTERM)
        if until(lambda: stage.service.pid is None, STOP_S):
            stage.service.collect_exit({0})
        else:
            stage.violations.add("it does not stop")

    def _is_at_rest(self, jobs: Jobs) -> bool:
        stage = self.stage
        is_alone = stage.script_count <= 1  # the script that keeps the service running
        has_ended = all(state in {"done", "failed"} for state, _ in jobs.values())
        has_ended &= all(drop.is_ended for drop in stage.drops)
        is_whole = not (stage.unclear or stage.folders.away or stage.folders.is_incomplete)
        return is_alone and has_ended and is_whole and stage.service.pid is not None and stage.service.is_ready

    def _check_the_end(self) -> None:
        """Check that every drop came to an end that it may have, and that nothing else is left in the inbox."""
        stage = self.stage
        jobs = stage.folders.jobs()
        self._check_kept(jobs)
        self._clear_inbox(jobs)
        self._check(is_quiet=True)
        for drop in stage.drops:
            version = drop.version(jobs)
            if version is None:
                stage.counts["ended: withdrawn in time"] += 1
                continue
            state, id_ = jobs.get(hashes(version), ("nowhere", ""))
            end = self._reason(id_) if state == "failed" else state
            stage.counts[f"ended: {end}"] += 1
            if state not in {"done", "failed"}:
                stage.counts["losses"] += 1
            if end not in drop.ends:
                stage.violations.add(f"{drop.name} ({id_}): {end}, not {sorted(drop.ends)}")

    def _clear_inbox(self, jobs: Jobs) -> None:
        """Remove what had to stay; nothing else may be left."""
        stage, inbox = self.stage, self.stage.folders.inbox
        held = {hash_ for key in jobs for hash_ in key}
        for name, data in stage.kept.items():
            if digest(data) not in held:
                (inbox / name).unlink(missing_ok=True)
        stage.kept.clear()
        files = [path for path in inbox.rglob("*") if path.is_file()]
        left = [path for path in files if path.relative_to(inbox).parts[0][0] not in "._o"]  # o: odd/
        if left:
            stage.violations.add(f"left in the inbox: {left[:20]}")

    def _reason(self, id_: str) -> str:
        folder = self.stage.folders.spool / "failed" / id_
        for name in ("failure.json", "job.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                data = json.loads((folder / name).read_bytes())
                return str((data if name == "failure.json" else data["failure"])["reason"])
        return "failed without a reason"

    def _end_service(self) -> None:
        """Stop the service; kill it if it does not stop."""
        service = self.stage.service
        for number in (signal.SIGCONT, signal.SIGTERM):
            service.send(number)
        if not until(lambda: service.pid is None, STOP_S):
            service.send(signal.SIGKILL)
            until(lambda: service.pid is None, STOP_S)

    # The report

    def report(self) -> dict[str, Any]:
        """Sum up."""
        stage = self.stage
        measured = [sample for sample in self._samples if "daemon_mb" in sample]
        calm_s = self._seconds * (1 - CALM_SHARE)
        calm = [sample for sample in measured if sample["minute"] * 60 > calm_s]
        return {
            "seconds": round(self._elapsed_s()),
            "drops": len(stage.drops),
            "losses": stage.counts["losses"],
            "starts": stage.service.starts,
            "exits": dict(stage.service.exits),
            "counts": dict(sorted(stage.counts.items())),
            "events": dict(sorted(stage.service.events.items())),
            "first_sample": measured[0] if measured else {},
            "calm_sample": calm[0] if calm else {},
            "last_sample": measured[-1] if measured else {},
            "samples": self._samples,
            "violations": stage.violations.found,
        }


def table(report: dict[str, Any]) -> str:
    """Lay the report out for people."""
    out = io.StringIO()
    rows = {key: report[key] for key in ("seconds", "drops", "losses", "starts", "exits")} | report["counts"]
    for name, value in rows.items():
        out.write(f"{name:<40} {value}\n")
    out.write(f"{'':<40} {'start':>10} {'calm':>10} {'end':>10}\n")
    samples = [report[name] for name in ("first_sample", "calm_sample", "last_sample")]
    for name in dict.fromkeys(key for sample in samples for key in sample):
        out.write(f"{name:<40} " + " ".join(f"{sample.get(name, '')!s:>10}" for sample in samples) + "\n")
    out.write(f"{'violations':<40} {len(report['violations'])}\n")
    return out.getvalue()


def main() -> int:
    """Soak."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--dir", type=Path, help="a new folder for the tree; default: a temporary one")
    parser.add_argument("--reload", action="store_true", help="also send SIGHUP")
    options = parser.parse_args()
    base = options.dir or Path(tempfile.mkdtemp(prefix="soak-"))
    base.mkdir(parents=True, exist_ok=True)
    say(f"seed {options.seed}, tree {base}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    soak = Soak(base, options.minutes, options.seed, has_reloads=options.reload)
    is_well = soak.run()
    report = {"seed": options.seed, **soak.report()}
    (base / "soak.json").write_text(json.dumps(report, indent=1))
    sys.stdout.write(table(report))
    if is_well:
        for name in ("inbox", "outbox", "spool", "outside"):
            shutil.rmtree(base / name, ignore_errors=True)
    say(f"{'all is well' if is_well else 'VIOLATED, the tree is kept'}: {base / 'soak.json'}")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
