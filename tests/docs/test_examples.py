"""The sidecars in examples/ are explained, without faults, and painted by the service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.fakes import FakeEngine
from support.trees import Stepper, hasten, save

from daemon import config, sidecar
from daemon.spool import Spool

if TYPE_CHECKING:
    from daemon.sidecar import Sidecar

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))
SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp", "tiff": "tiff"}
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def parsed(path: Path) -> Sidecar:
    """Read one example as the service does."""
    return sidecar.parse(path.read_bytes(), path.name)


@each_example
def test_an_example_says_when_to_use_it(path: Path) -> None:
    """Each begins with comment lines, one of which says what it is for."""
    lines = path.read_text("utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert any(line.startswith("# Use it") for line in lines)


@each_example
def test_an_example_has_no_faults(path: Path) -> None:
    """Each is a sidecar that names its own content and style, and asks for something of its own."""
    read = parsed(path)
    assert read.faults == ()
    assert read.content is not None
    assert read.styles
    assert (read.settings, len(read.styles)) != (sidecar.parse(b"", "").settings, 1)


def test_no_two_examples_are_alike() -> None:
    """Each example asks for another picture than every other one."""
    asked = [(read.styles, read.settings) for read in map(parsed, EXAMPLES)]
    assert [one for number, one in enumerate(asked) if one in asked[:number]] == []


@each_example
def test_an_example_is_painted(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropped with its pictures, each comes out of the service as a result in the format that it asks for."""
    hasten(monkeypatch)
    settings = config.build({"inbox": {"settle_s": 0.01}}, tmp_path, environment={})
    read = parsed(path)
    assert read.settings is not None
    settings.folders.inbox.mkdir()
    for seed, name in enumerate(sorted({*read.names})):
        save(settings.folders.inbox / name, seed, height=24, width=144)  # flat: 2048 px of it need little room
    (settings.folders.inbox / path.name).write_bytes(path.read_bytes())
    Stepper(settings, FakeEngine()).until_quiet(deadline_s=30)
    (entry,) = settings.folders.outbox.glob(f"{path.stem}-*")
    assert (entry / f"result.{SUFFIXES[read.settings.output.format]}").stat().st_size > 0
    assert (entry / "frames").exists() == (read.settings.frames.every > 0)
    assert [job.state.value for job in Spool(settings.folders.spool).all_entries()] == ["done"]


def test_the_index_lists_every_example() -> None:
    """The README of examples/ links each of them, and none that is not there."""
    text = (FOLDER / "README.md").read_text("utf-8")
    assert [path.name for path in EXAMPLES if f"({path.name})" not in text] == []
    assert text.count(".yaml](") == len(EXAMPLES) == 12
