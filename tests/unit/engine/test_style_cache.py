"""Gram matrices kept from job to job: found by their key, bounded, never an error."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from daemon import files
from daemon.engine import style_cache
from daemon.engine.style_cache import StyleCache

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.transfer.targets import Arrays


def grams(seed: int, channels: int = 8) -> Arrays:
    """Gram matrices of two layers."""
    random = np.random.default_rng(seed)
    return {name: random.normal(size=(channels, channels)).astype(np.float32) for name in ("a", "b")}


class Computing:
    """Counts how often it is asked to compute."""

    def __init__(self, seed: int = 0, channels: int = 8) -> None:
        self.count = 0
        self._grams = grams(seed, channels)

    def __call__(self) -> Arrays:
        """Compute."""
        self.count += 1
        return self._grams


def same(one: Arrays, other: Arrays) -> bool:
    """Tell whether they are equal to the bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_key_is_computed_once(tmp_path: Path) -> None:
    """The second question, and one after a restart, is answered from the disk, to the bit."""
    compute = Computing()
    kept = StyleCache(tmp_path / "targets")
    assert same(kept.get("k", compute), grams(0))
    assert same(kept.get("k", compute), grams(0))
    assert same(StyleCache(tmp_path / "targets").get("k", compute), grams(0))
    assert compute.count == 1


def test_every_key_has_its_own(tmp_path: Path) -> None:
    """Two keys have each their own matrices."""
    kept = StyleCache(tmp_path / "targets")
    assert same(kept.get("one", Computing(1)), grams(1))
    assert same(kept.get("two", Computing(2)), grams(2))
    assert same(kept.get("one", Computing(3)), grams(1))


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "text"])
def test_a_damaged_file_is_computed_again_and_replaced(tmp_path: Path, damage: str) -> None:
    """A file that was cut, changed in one bit or emptied is not used, and replaced."""
    folder = tmp_path / "targets"
    StyleCache(folder).get("k", Computing())
    (path,) = folder.iterdir()
    data = path.read_bytes()
    changed = {
        "cut": data[:-1],
        "bit": data[:200] + bytes([data[200] ^ 1]) + data[201:],
        "empty": b"",
        "text": b"no",
    }
    path.write_bytes(changed[damage])
    compute = Computing()
    assert same(StyleCache(folder).get("k", compute), grams(0))
    assert compute.count == 1
    assert same(StyleCache(folder).get("k", Computing(1)), grams(0))


def test_the_disk_is_bounded_and_keeps_the_last_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the least recently used file is removed, also one that a kill left half written."""
    folder = tmp_path / "targets"
    StyleCache(folder).get("0", Computing())
    (path,) = folder.iterdir()
    monkeypatch.setattr(style_cache, "DISK_BYTES", 2 * path.stat().st_size)
    os.utime(path, (1, 1))
    StyleCache(folder).get("1", Computing())
    os.utime(folder / "1.style", (2, 2))
    StyleCache(folder).get("0", Computing())  # used now
    (folder / ".9.grams.new").write_bytes(b"half")
    os.utime(folder / ".9.grams.new", (3, 3))
    StyleCache(folder).get("2", Computing())
    assert sorted(path.name for path in folder.iterdir()) == ["0.style", "2.style"]


def test_a_disk_that_takes_nothing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the folder cannot be made or written, the matrices are computed every time."""
    compute = Computing()
    kept = StyleCache(tmp_path / "not there" / "targets")
    assert same(kept.get("k", compute), grams(0))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files, "replaced", full)
    kept = StyleCache(tmp_path / "targets")
    assert same(kept.get("k", compute), grams(0))
    assert same(kept.get("k", compute), grams(0))
    assert compute.count == 3
