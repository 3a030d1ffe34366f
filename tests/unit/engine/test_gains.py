"""Gains that were measured are kept from start to start, and never an error of the engine's."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from daemon import files
from daemon.engine import sealed
from daemon.engine.gains import Gains

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FACTS = {"tensorflow": "2.21"}


def never() -> float:
    """Stand for a measurement that nobody may make."""
    pytest.fail("measured")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where they are kept."""
    return tmp_path / "gains"


def test_a_gain_is_measured_once(path: Path) -> None:
    """Every later start gets the first one's, to the bit; each name has its own."""
    assert Gains(path, FACTS).get("one", lambda: 4 / 3) == 4 / 3
    assert Gains(path, FACTS).get("other", lambda: 0.5) == 0.5
    for _ in range(2):
        assert Gains(path, FACTS).get("one", never) == 4 / 3
        assert Gains(path, FACTS).get("other", never) == 0.5


def test_another_version_measures_anew(path: Path) -> None:
    """Those of the version before are let go of."""
    Gains(path, FACTS).get("one", lambda: 2.0)
    assert Gains(path, {"tensorflow": "2.22"}).get("other", lambda: 3.0) == 3.0
    assert Gains(path, {"tensorflow": "2.22"}).get("one", lambda: 4.0) == 4.0


def test_without_a_place_each_one_measures() -> None:
    """As `stylize` and `selftest` do."""
    gains = Gains(None, FACTS)
    assert [gains.get("one", lambda: 2.0), gains.get("one", lambda: 3.0)] == [2.0, 3.0]


def _damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def _sealed(content: object) -> Callable[[Path], None]:
    return lambda path: sealed.replace(path, lambda file: file.write(json.dumps(content).encode()))


def _a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "happens",
    [
        _damaged,
        _a_pipe,
        _a_folder,
        _sealed([]),
        _sealed({"gain": 1}),
        _sealed({"facts": FACTS}),
        _sealed({"facts": FACTS, "gains": {"one": "fast"}}),
    ],
)
def test_what_cannot_be_believed_is_measured_anew(path: Path, happens: Callable[[Path], None]) -> None:
    """Whatever lies there."""
    Gains(path, FACTS).get("one", lambda: 2.0)
    happens(path)
    assert Gains(path, FACTS).get("one", lambda: 3.0) == 3.0


def test_a_disk_that_does_not_take_it_is_no_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine starts, and measures at each start."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_opened_anew", fail)
    for gain in (2.0, 3.0):
        assert Gains(path, FACTS).get("one", lambda gain=gain: gain) == gain
