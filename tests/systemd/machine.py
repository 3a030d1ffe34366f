"""A machine for one test: systemd-nspawn boots this system's files under a live systemd, copy on write, in memory."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Everything that is mounted, and all that is written, is gone with the mount namespace of this script's process.
# The host's own services and shares are none of this machine's business.
_BOOT = """
set -eu
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
rm -rf "$1/root/etc/systemd/system"/*
: > "$1/root/etc/fstab"
: > "$1/root/etc/machine-id"
shift
exec systemd-nspawn "$@"
"""
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_BOOT_S = 60
_HALT_S = 60


def missing() -> str:
    """Say what this computer lacks to boot a machine; nothing if it can."""
    if os.geteuid() != 0:
        return "booting a container takes root"
    programs = ("systemd-nspawn", "systemctl", "nsenter", "unshare", "setpriv", "runuser")
    absent = [name for name in programs if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)} (Debian: systemd-container)" if absent else ""


class Machine:
    """A booted container; a killed test takes it along."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def start(self, binds: dict[Path, str]) -> None:
        """Boot, and wait for systemd.

        Args:
            binds: folders of the host, each with its place in the machine, where it cannot be written to.
        """
        self._folder.mkdir()
        options = [
            *("--boot", f"--directory={self._folder}/root", f"--machine=styletransferd-{secrets.token_hex(4)}"),
            *("--console=pipe", "--private-network", "--register=no"),
            *(f"--bind-ro={source}:{target}" for source, target in binds.items()),
        ]
        if not Path("/run/systemd/system").exists():
            options.append("--keep-unit")  # nobody is there whom nspawn could ask for a scope
        private = ["unshare", "--mount", "setpriv", "--pdeathsig", "KILL", "sh", "-c", _BOOT, "sh"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*private, str(self._folder), *options, "systemd.unit=basic.target"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.wait_for(self._is_booted, "systemd to boot", _BOOT_S)

    def _is_booted(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text(errors="replace")
        found = subprocess.run(["pgrep", "-P", str(self._process.pid), "-x", "systemd"], capture_output=True, check=False)
        self._leader = int(found.stdout or 0)
        return self._leader > 0 and self.run("systemctl", "is-system-running", check=False) == "running"

    def run(self, *command: str, user: str = "root", check: bool = True, within_s: float = 120) -> str:
        """Run a command in the machine, as the user.

        Returns:
            What it printed, without the last line's end.
        """
        become = [] if user == "root" else ["runuser", "-u", user, "--"]
        inside = ["nsenter", "--all", f"--target={self._leader}", *become, *command]
        done = subprocess.run(
            inside, capture_output=True, text=True, timeout=within_s, check=False, env=_ENVIRONMENT
        )
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout.rstrip("\n")

    def path(self, inside: str) -> Path:
        """Name a file of the machine as root of the host sees it."""
        return Path(f"/proc/{self._leader}/root{inside}")

    @staticmethod
    def wait_for(condition: Callable[[], object], what: str, within_s: float) -> None:
        """Wait until the condition holds; a failure names what was waited for."""
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {within_s} s for {what}"
            time.sleep(0.1)

    def stop(self) -> None:
        """Halt it, or end it where it does not halt; nothing of it stays."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_HALT_S)
        finally:
            self._process.kill()
            self._process.wait()
            _remove_control_groups()


def _remove_control_groups() -> None:
    """Remove what nspawn leaves where no systemd looks after control groups: empty ones of these names."""
    for top in (*Path("/sys/fs/cgroup").glob("*/payload"), *Path("/sys/fs/cgroup").glob("*/supervisor")):
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):  # still used, by another container
                Path(folder).rmdir()
