"""The units under a live systemd, installed as the README's section "As a system service" says.

One machine for all steps, which go in the order of this file.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from machine import Machine, missing
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() != "", reason=missing())]

ROOT = Path(__file__).parents[2]
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
RESIDENT, NIGHTLY = "styletransferd.service", "styletransferd-nightly.service"
TIMER = "styletransferd-nightly.timer"
INBOX, OUTBOX = "/srv/styletransferd/inbox", "/srv/styletransferd/outbox"
SPOOL = "/var/lib/styletransferd/spool"
CONFIG: dict[str, Any] = {
    "folders": {"inbox": INBOX, "outbox": OUTBOX, "spool": SPOOL},
    "inbox": {"settle_s": 0.2, "rescan_s": 1},
    "engine": {"device": "cpu", "precision": "float32", "checkpoint_s": 1},
    "defaults": {"size": 64, "iterations": 3, "scales": "none", "frames": {"every": 0}},
}
INSTALL = """
set -eu
cd /root/clone
ln -s /opt/styletransferd/bin/styletransferd /usr/local/bin/
install -D -m 644 systemd/styletransferd.sysusers.conf /etc/sysusers.d/styletransferd.conf
install -D -m 644 systemd/styletransferd.tmpfiles.conf /etc/tmpfiles.d/styletransferd.conf
systemd-sysusers styletransferd.conf && systemd-tmpfiles --create styletransferd.conf
useradd --create-home alice
usermod -aG styletransferd alice
install -m 644 systemd/*.service systemd/*.timer /etc/systemd/system/
"""
LONG = 200  # iterations, about 15 s, of a picture that is interrupted
MAX_EXPOSURE = 0.7  # by systemd 252
READY_S = 120
PAINTED_S = 180  # on a computer that is busy with other work


class Site:
    """A machine with styletransferd installed, and all that was dropped on it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.run = machine.run
        self.drops: dict[str, set[str]] = {}

    def write(self, path: str, content: str) -> None:
        """Write a file as root."""
        file = self.machine.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, "utf-8")

    def configure(self, **sections: Any) -> None:
        """Write the config; keywords are sections."""
        self.write("/etc/styletransferd/config.yaml", json.dumps({**CONFIG, **sections}))

    def drop_in(self, unit: str, name: str, *lines: str) -> None:
        """Do what `systemctl edit` does, for the section [Service]; without lines the drop-in is removed."""
        path = f"/etc/systemd/system/{unit}.d/{name}.conf"
        self.write(path, "\n".join(["[Service]", *lines, ""]))
        if not lines:
            self.machine.path(path).unlink()
        self.run("systemctl", "daemon-reload")

    def drop(self, name: str, folder: str = INBOX, mode: str = "644", **keys: Any) -> None:
        """Have alice copy two pictures and a sidecar into the folder; keywords are keys of the sidecar."""
        made = self.machine.path(f"/home/alice/{name}")
        made.mkdir()
        random = np.random.default_rng(len(self.drops))
        for role in ("content", "style"):
            pixels = random.integers(0, 256, (48, 64, 3), np.uint8)
            Image.fromarray(pixels).save(made / f"{name}.{role}.png")
        (made / f"{name}.yaml").write_text(json.dumps({**keys, "seed": len(self.drops)}), "utf-8")
        self.drops[name] = digests(made)
        self.run("sh", "-c", f"install -m {mode} /home/alice/{name}/* {folder}", user="alice")

    def show(self, name: str, unit: str = RESIDENT) -> str:
        """Give one of the unit's properties."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit)

    def records(self, event: str, unit: str = RESIDENT, **facts: Any) -> list[dict[str, Any]]:
        """List the records of this event in the unit's journal that hold these facts."""
        lines = self.run("journalctl", "--output=cat", "--unit", unit).splitlines()
        found = [json.loads(line) for line in lines if line.startswith('{"timestamp"')]
        return [record for record in found if {**record, **facts, "event": event} == record]

    def entries(self, name: str) -> list[Path]:
        """List what the outbox has of a drop, with its failures."""
        return sorted(self.machine.path(OUTBOX).glob(f"{name}-*"))

    def until(self, condition: Callable[[], object], what: str, within_s: float = PAINTED_S) -> None:
        """Wait for a condition; a failure shows the end of the journal."""
        try:
            self.machine.wait_for(condition, what, within_s)
        except AssertionError as error:
            journal = self.run("journalctl", "--lines=40", "--no-pager")
            raise AssertionError(f"{error}\n{journal}") from None

    def completed(self, name: str) -> Path:
        """Wait for the result of a drop."""
        self.until(lambda: self.entries(name), f"{name} to be published")
        (entry,) = self.entries(name)
        return entry

    def until_checkpoint(self, name: str) -> None:
        """Wait until a drop is being painted, with a checkpoint after the one of the start."""
        checkpoints = self.machine.path(f"{SPOOL}/running")
        self.until(
            lambda: (
                list(self.machine.path(f"{OUTBOX}/_running").glob(f"{name}-*/status.json"))
                and len(list(checkpoints.glob("*/ckpt/*.ckpt"))) > 1
            ),
            f"a checkpoint of {name}",
        )

    def check(self) -> None:
        """Check that each drop lies whole in exactly one place, and has one whole entry if it is over."""
        states = [f"{SPOOL}/{state}" for state in ("queued", "running", "held", "done", "failed")]
        taken = [folder for state in states for folder in self.machine.path(state).glob("*/in")]
        folders = {folder: digests(folder) for folder in (*taken, self.machine.path(INBOX))}
        for name, parts in self.drops.items():
            places = [folder for folder, found in folders.items() if parts & found]
            assert [folders[place] >= parts for place in places] == [True], (name, places)
            is_over = places[0].parts[-3] in {"done", "failed"}
            assert len(self.entries(name)) == is_over, (name, places)
            for entry in self.entries(name):
                for file, facts in json.loads((entry / "manifest.json").read_bytes())["files"].items():
                    assert hashlib.sha256((entry / file).read_bytes()).hexdigest() == facts["sha256"]


def digests(folder: Path) -> set[str]:
    """List the SHA-256 of a folder's files."""
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def size_px(entry: Path) -> int:
    """Measure the longest side of a result."""
    with Image.open(entry / "result.png") as picture:
        return max(picture.size)


def install(machine: Machine, wheel: Path) -> None:
    """Follow the README, but take the packages that pip would download from this interpreter's own."""
    run, clone = machine.run, machine.path("/root/clone")
    shutil.copytree(ROOT / "systemd", clone / "systemd")
    shutil.copy(wheel, clone)
    machine.path("/etc/ld.so.conf.d/00-python.conf").write_text("/opt/python/lib\n", "utf-8")
    run("ldconfig")  # an interpreter below /root looks for its library there, which ProtectHome=yes hides
    run(f"/opt/python/bin/python{VERSION}", "-m", "venv", "--without-pip", "/opt/styletransferd")
    packages = machine.path(f"/opt/styletransferd/lib/python{VERSION}/site-packages/packages.pth")
    packages.write_text("/opt/packages\n", "utf-8")
    install_wheel = "-m pip install --no-index --no-deps --ignore-installed"
    run("/opt/styletransferd/bin/python", *install_wheel.split(), f"/root/clone/{wheel.name}")
    run("sh", "-c", INSTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Boot a machine and install styletransferd on it."""
    folder = tmp_path_factory.mktemp("systemd")
    build = "-m pip wheel --quiet --no-deps --wheel-dir"
    subprocess.run([sys.executable, *build.split(), str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    machine = Machine(folder / "machine")
    try:
        packages = Path(sysconfig.get_path("purelib"))
        # Not at their own paths, which may be below /root or /home: ProtectHome=yes hides those.
        machine.start({Path(sys.base_prefix): "/opt/python", packages: "/opt/packages"})
        install(machine, wheel)
        made = Site(machine)
        made.configure()
        # Without another unit that names them, systemd forgets how they ended.
        made.write("/etc/systemd/system/keep.target", f"[Unit]\nAfter={RESIDENT} {NIGHTLY}\n")
        made.drop_in(RESIDENT, "test", "RestartSec=1")
        machine.run("systemctl", "start", "keep.target")
        yield made
    finally:
        machine.stop()


@pytest.fixture(autouse=True)
def _ready(site: Site) -> None:
    """Let each step begin with the service running."""
    site.run("systemctl", "start", RESIDENT, within_s=READY_S)


def test_the_selftest_passes_as_the_services_user(site: Site) -> None:
    """What the README has one run before the first start ends with 0."""
    assert "float32" in site.run("styletransferd", "selftest", user="styletransferd")


def test_enabling_the_unit_brings_ready(site: Site) -> None:
    """`enable --now` returns when the service said READY; `systemctl status` shows what it does."""
    site.run("systemctl", "stop", RESIDENT)
    site.run("systemctl", "enable", "--now", RESIDENT, within_s=READY_S)
    assert site.run("systemctl", "is-active", RESIDENT) == "active"
    assert len(site.records("service.ready")) == len(site.records("service.started"))
    site.until(lambda: site.show("StatusText").startswith("watching the inbox"), "the status text")
    assert "watching the inbox" in site.run("systemctl", "status", "--no-pager", RESIDENT)


def test_the_daemon_has_no_rights(site: Site) -> None:
    """Daemon and engine have the service's user, no capabilities, a system call filter, and no network."""
    pids = site.run("systemd-cgls", "--no-pager", "--full", "--unit", RESIDENT)
    found = [site.run("cat", f"/proc/{pid}/status") for pid in re.findall(r"─ *(\d+) ", pids)]
    assert len(found) >= 2
    for status in found:
        facts = dict(line.split(":\t", 1) for line in status.splitlines())
        assert {int(facts[key], 16) for key in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
        assert facts["Uid"].split() == [site.run("id", "-u", "styletransferd")] * 4
    network = site.run("cat", f"/proc/{site.show('MainPID')}/net/dev")
    assert re.findall(r"^ *(\w+):", network, re.MULTILINE) == ["lo"]


def test_the_daemon_may_write_its_own_folders_only(site: Site) -> None:
    """Seen from the daemon, the tree is read-only but for state, cache, inbox, outbox; /home is empty."""
    inside = ["nsenter", "--mount", f"--target={site.show('MainPID')}"]
    for folder in (INBOX, OUTBOX, "/var/lib/styletransferd", "/var/cache/styletransferd"):
        site.run(*inside, "test", "-w", folder)
    for folder in ("/etc/styletransferd", "/srv", "/opt/styletransferd", "/usr", "/var/lib"):
        assert site.run(*inside, "sh", "-c", f"test -w {folder} || echo refused") == "refused"
    assert site.run(*inside, "ls", "/home", "/root").split() == ["/home:", "/root:"]


def test_a_member_of_the_group_drops_and_collects(site: Site) -> None:
    """Alice's drop leaves the inbox; others may read the result, and she may take it away."""
    site.drop("sunset")
    entry = site.completed("sunset")
    place = f"{OUTBOX}/{entry.name}"
    assert site.run("stat", "--format=%U %G %a", place, f"{place}/result.png").splitlines() == [
        "styletransferd styletransferd 2775",
        "styletransferd styletransferd 664",
    ]
    site.run("sha256sum", f"{place}/result.png", f"{place}/manifest.json", user="nobody")
    site.run("mv", place, "/home/alice/", user="alice")
    site.run("mv", f"/home/alice/{entry.name}", OUTBOX, user="alice")
    site.until(lambda: not list(site.machine.path(INBOX).glob("sunset*")), "the inbox to be cleared")
    site.check()


def test_a_folder_made_with_a_strict_umask_is_cleared_too(site: Site) -> None:
    """The daemon takes what lies in a folder that alice made with umask 077."""
    site.run("sh", "-c", f"umask 077 && mkdir {INBOX}/trip", user="alice")
    site.drop("harbor", f"{INBOX}/trip")
    site.completed("harbor")
    site.until(lambda: not list(site.machine.path(f"{INBOX}/trip").glob("*")), "the folder to be cleared")
    site.check()


def test_a_picture_that_the_daemon_may_not_read_waits(site: Site) -> None:
    """A drop of files with mode 600 is named by `status`, and taken once its owner lets the group read it."""
    site.drop("private", mode="600")

    site.until(
        lambda: (
            "private.yaml: cannot be read: Permission denied"
            in site.run("styletransferd", "status", user="styletransferd")
        ),
        "the status to name it",
    )
    site.check()
    site.run("sh", "-c", f"chmod 644 {INBOX}/private*", user="alice")
    site.completed("private")
    site.check()


def test_a_killed_daemon_comes_back_and_finishes(site: Site) -> None:
    """After kill -9 of the main process systemd starts it again; the picture resumes from its checkpoint."""
    restarts = int(site.show("NRestarts"))
    site.drop("killed", iterations=LONG)
    site.until_checkpoint("killed")
    site.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", RESIDENT)
    site.completed("killed")
    assert int(site.show("NRestarts")) == restarts + 1
    name = site.entries("killed")[0].name
    assert len(site.records("spool.requeued", name=name, reason="service_ended")) == 1
    assert len(site.records("job.resumed", name=name)) == 1
    site.check()


def test_a_stop_is_clean_and_a_start_goes_on(site: Site) -> None:
    """A stop during a picture exits 0 with the job queued; the next start resumes from the checkpoint."""
    site.drop("stopped", iterations=LONG)
    site.until_checkpoint("stopped")
    site.run("systemctl", "stop", RESIDENT, within_s=30)
    assert (site.show("Result"), site.show("ExecMainStatus")) == ("success", "0")
    site.check()
    assert [path.parent.parent.name for path in site.machine.path(SPOOL).glob("*/*/ckpt")] == ["queued"]
    site.run("systemctl", "start", RESIDENT, within_s=READY_S)
    name = site.completed("stopped").name
    (resumed,) = site.records("job.resumed", name=name)
    assert resumed["iteration"] > 1
    site.check()


def test_a_reload_takes_effect(site: Site) -> None:
    """After `systemctl reload` the next picture has the new default size, from the same process."""
    pid = site.show("MainPID")
    site.configure(defaults={**CONFIG["defaults"], "size": 48})
    site.run("systemctl", "reload", RESIDENT)
    site.until(lambda: site.records("service.reloaded"), "the reload")
    site.drop("smaller")
    assert size_px(site.completed("smaller")) == 48
    assert (site.show("MainPID"), site.run("systemctl", "is-active", RESIDENT)) == (pid, "active")


def test_a_wrong_config_is_refused_and_the_old_one_stays(site: Site) -> None:
    """After `systemctl reload` with a wrong config the same process runs on, by the config it had."""
    pid = site.show("MainPID")
    site.configure(inbocks={})
    site.run("systemctl", "reload", RESIDENT)
    site.until(lambda: site.records("service.reload_refused"), "the refusal")
    site.drop("as-before")
    assert size_px(site.completed("as-before")) == 48
    assert (site.show("MainPID"), site.run("systemctl", "is-active", RESIDENT)) == (pid, "active")
    site.configure()
    site.check()


def test_a_start_with_a_wrong_config_is_not_tried_again(site: Site) -> None:
    """Exit 78 leaves the unit failed, without a restart, until the config is right."""
    site.run("systemctl", "stop", RESIDENT)
    site.configure(inbocks={})
    site.run("systemctl", "start", RESIDENT, check=False)
    site.until(lambda: site.show("ActiveState") == "failed", "the unit to fail")
    assert (site.show("ExecMainStatus"), site.show("NRestarts")) == ("78", "0")
    site.configure()


def test_the_watchdog_restarts_a_daemon_that_hangs(site: Site) -> None:
    """A frozen daemon is aborted, with every thread's traceback in the journal, and started again."""
    assert site.show("WatchdogUSec") == "5min"
    site.drop_in(RESIDENT, "watchdog", "WatchdogSec=20")
    site.run("systemctl", "restart", RESIDENT, within_s=READY_S)
    site.drop("hung", iterations=LONG)
    site.until_checkpoint("hung")
    site.run("systemctl", "kill", "--kill-who=main", "--signal=STOP", RESIDENT)
    site.until(lambda: site.show("NRestarts") == "1", "the watchdog")
    journal = site.run("journalctl", "--output=cat", "--unit", RESIDENT)
    assert "Watchdog timeout" in journal
    assert "Fatal Python error: Aborted" in journal
    site.completed("hung")
    site.drop_in(RESIDENT, "watchdog")
    site.check()


def local_hour(hour: int) -> str:
    """Name a time zone in which it is about this hour now."""
    return f"TZ=TEST{(time.gmtime().tm_hour - hour) % 24}"


def test_the_nightly_unit_does_not_start_by_day(site: Site) -> None:
    """At noon `systemctl start` of the nightly unit runs nothing, and is no failure."""
    site.drop_in(NIGHTLY, "hour", f"Environment={local_hour(12)}")
    site.run("systemctl", "start", NIGHTLY)
    site.until(lambda: site.show("ActiveState", NIGHTLY) == "inactive", "the condition")
    assert site.show("Result", NIGHTLY) == "exec-condition"
    assert site.records("service.started", NIGHTLY) == []


def test_the_nightly_unit_takes_over_drains_and_ends(site: Site) -> None:
    """It stops the resident service, goes on with its picture, works off everything, and exits 0."""
    site.drop_in(NIGHTLY, "hour", f"Environment={local_hour(22)}")
    site.drop("begun", iterations=LONG)
    site.until_checkpoint("begun")
    site.drop("waiting")
    site.run("systemctl", "start", NIGHTLY, within_s=READY_S)
    assert site.show("ActiveState") == "inactive"
    site.until(lambda: site.show("ActiveState", NIGHTLY) == "inactive", "the night to end")
    assert (site.show("Result", NIGHTLY), site.show("ExecMainStatus", NIGHTLY)) == ("success", "0")
    assert len(site.records("job.resumed", NIGHTLY, name=site.completed("begun").name)) == 1
    site.completed("waiting")
    site.check()


def test_a_failed_picture_does_not_fail_the_night(site: Site) -> None:
    """A night in which a drop failed exits 1, and its unit is none of `systemctl --failed`."""
    site.run("systemctl", "stop", RESIDENT)
    site.drop("misspelt", iteratons=3)
    site.run("systemctl", "start", NIGHTLY, within_s=READY_S)
    site.until(lambda: site.show("ActiveState", NIGHTLY) == "inactive", "the night to end")
    assert (site.show("Result", NIGHTLY), site.show("ExecMainStatus", NIGHTLY)) == ("success", "1")
    assert site.completed("misspelt").name.endswith(".failed")
    site.check()


def test_the_timer_is_armed_for_the_night(site: Site) -> None:
    """`enable --now` of the timer starts nothing at once; `systemctl list-timers` names 22:00."""
    site.run("systemctl", "enable", "--now", TIMER)
    (line,) = [
        line for line in site.run("systemctl", "list-timers", "--no-pager").splitlines() if TIMER in line
    ]
    assert NIGHTLY in line
    assert " 22:00:00 " in line
    assert site.show("ActiveState", NIGHTLY) == "inactive"


def test_systemd_finds_no_fault(site: Site) -> None:
    """`systemd-analyze verify` says nothing about the installed units."""
    units = [f"/etc/systemd/system/{name}" for name in (RESIDENT, NIGHTLY, TIMER)]
    said = site.run("sh", "-c", f"systemd-analyze --man=no verify {' '.join(units)} 2>&1")
    assert [line for line in said.splitlines() if "styletransferd" in line] == []


@pytest.mark.parametrize("unit", [RESIDENT, NIGHTLY])
def test_the_exposure_is_low(site: Site, unit: str) -> None:
    """`systemd-analyze security` gives the loaded unit an exposure of at most 0.7 of 10."""
    said = site.run("systemd-analyze", "--no-pager", "security", unit)
    (level,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert float(level) <= MAX_EXPOSURE


def test_in_the_end_everything_is_done(site: Site) -> None:
    """All that was dropped in the steps before has its one result, and nothing is left to do."""
    site.check()
    assert site.drops
    assert sum(len(site.entries(name)) for name in site.drops) == len(site.drops)
    listed = json.loads(site.run("styletransferd", "list", "--json", user="styletransferd"))
    assert len(listed) == len(site.drops)
