"""Test files that are programs: run in a process of their own, perhaps in a mount namespace."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

NAMESPACE: Final = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
_TESTS: Final = Path(__file__).parents[1]


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
