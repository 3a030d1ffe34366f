"""A machine for tests: systemd-nspawn boots a copy of this system, made on write and in memory."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Mounts, files and processes belong to namespaces that end with this script, which ends with the test.
# The host's enabled services and its shares are left out.
_BOOT = """
set -eu
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
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
_HALT_S = 20


def missing() -> str:
    """Say what this computer lacks to boot a machine; nothing if it can."""
    if os.geteuid() != 0:
        return "booting a container takes root"
    programs = ("systemd-nspawn", "systemctl", "nsenter", "unshare", "setpriv", "runuser")
    absent = [name for name in programs if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)} (Debian: systemd-container)" if absent else ""


class Machine:
    """A container that runs systemd; it ends with the test that started it, even if that is killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def start(self, binds: dict[Path, str]) -> None:
        """Boot, and wait for systemd.

        Args:
            binds: folders of the host, and where each appears in the machine, read-only.
        """
        self._folder.mkdir()
        options = [
            *("--boot", f"--directory={self._folder}/root", f"--machine=styletransferd-{secrets.token_hex(4)}"),
            *("--console=pipe", "--private-network", "--register=no"),
            *(f"--bind-ro={source}:{target}" for source, target in binds.items()),
        ]
        if not Path("/run/systemd/system").exists():
            options.append("--keep-unit")  # no systemd on the host that could make a scope
        bound = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--mount-proc", "--pid", "--kill-child"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*bound, "sh", "-c", _BOOT, "sh", str(self._folder), *options, "systemd.unit=basic.target"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.wait_for(self._is_booted, "systemd to boot", _BOOT_S)

    def _is_booted(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text(errors="replace")
        self._leader = _child(_child(self._process.pid, "systemd-nspawn"), "systemd")
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
        said = f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}"
        assert not check or done.returncode == 0, said
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
        """Switch it off; nothing of it remains."""
        if self._process is None:
            return
        try:
            if self._leader:
                self.run("systemctl", "--force", "--force", "poweroff", check=False)
                self._process.wait(_HALT_S)
        finally:
            self._process.kill()
            self._process.wait()
            _remove_control_groups()


def _child(pid: int, name: str) -> int:
    """Find the child process of this name; 0 if there is none."""
    if not pid:
        return 0
    search = ["pgrep", "-x", name, "-P", str(pid)]
    return int(subprocess.run(search, capture_output=True, check=False).stdout or 0)


def _remove_control_groups() -> None:
    """Remove the empty control groups that nspawn leaves on a host without systemd."""
    for top in (*Path("/sys/fs/cgroup").glob("*/payload"), *Path("/sys/fs/cgroup").glob("*/supervisor")):
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):  # in use by another container
                Path(folder).rmdir()
