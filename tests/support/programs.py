"""Test files that are programs: run in a process of their own, perhaps in a mount namespace."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

NAMESPACE: Final = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
_TESTS: Final = Path(__file__).parents[1]


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has ended as well."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def run_program(command: list[str]) -> str:
    """Run a command whose Python finds `daemon` and `support`; it must succeed. Returns its output."""
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_TESTS.parent), str(_TESTS)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
