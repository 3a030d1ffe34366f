"""The house's own checks: style, types, layers, and nothing left unfinished."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [("ruff", "check"), ("ruff", "format", "--check"), ("mypy",), ("lint-imports",)],
    ids=" ".join,
)
def test_a_check_of_the_house_passes(command: tuple[str, ...]) -> None:
    """Style, format, strict types and the layer contracts hold for the whole repository."""
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_is_left_unfinished() -> None:
    """No file of the product or its tests says that it is not done."""
    words = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error")))
    files = [path for folder in ("daemon", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert files
    assert [str(path) for path in files if words.search(path.read_text("utf-8"))] == []
