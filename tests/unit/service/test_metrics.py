"""The figures for node_exporter, read back by a strict reader of the format."""

from __future__ import annotations

import math
import os
import re
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemon.errors import PauseKind
from daemon.service import metrics
from daemon.service.metrics import Facts

if TYPE_CHECKING:
    from pathlib import Path

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

BARE = Facts(version="1.2", device="cpu", precision="float32", started=1.78e9, is_window_open=True)
FULL = replace(
    BARE,
    jobs={"queued": 3, "done": 12, "running": 1, "failed": 0, "held": 0},
    oldest_queued_s=61.5,
    last_scan=1780000001.25,
    is_watcher_up=False,
    paused={"worker": PauseKind.NO_SPACE, "inbox": PauseKind.UNAVAILABLE},
    attempts={"completed": 12, "failed": 1, "crashed": 2, "interrupted": 0},
    free_bytes={"spool": 2**60 + 1, "outbox": 0},
    free_inodes={"spool": 7},
    iteration_s=0.25,
    progress=0.5,
)

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_PAIR = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_PAIR}(?:,{_PAIR})*)\}})? (\S+)")
_VALUE = re.compile(r"-?(\d+(\.\d+)?(e[+-]?\d+)?)")
_ESCAPE = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def read(data: bytes) -> tuple[Samples, dict[str, str]]:
    """Read the text format 0.0.4 strictly.

    Each family: HELP, TYPE, then all its samples; no family, no series twice; the last line ends too.

    Returns:
        Value by name and labels; type by family.
    """
    text = data.decode("utf-8")
    assert text.endswith("\n")
    samples: Samples = {}
    types: dict[str, str] = {}
    helped = current = ""
    for line in text[:-1].split("\n"):
        if found := re.fullmatch(rf"# HELP ({_NAME}) (\S[^\n]*)", line):
            helped = found[1]
        elif found := re.fullmatch(rf"# TYPE ({_NAME}) (gauge|counter)", line):
            current = found[1]
            assert current == helped, line
            assert current not in types, line
            types[current] = found[2]
        else:
            found = _SAMPLE.fullmatch(line)
            assert found, line
            assert found[1] == current, line
            assert _VALUE.fullmatch(found[3]), line
            pairs = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or "")
            labels = tuple((name, re.sub(r"\\.", lambda m: _ESCAPE[m[0]], value)) for name, value in pairs)
            assert len({name for name, _ in labels}) == len(labels), line
            assert (current, labels) not in samples, line
            samples[current, labels] = float(found[3])
    assert set(types) == {name for name, _ in samples}
    return samples, types


def value(samples: Samples, name: str, **labels: str) -> float:
    """Give one sample."""
    return samples[f"styletransferd_{name}", tuple(labels.items())]


def test_every_known_figure_is_there() -> None:
    """Each fact is a sample with its labels, in base units."""
    samples, _ = read(metrics.render(FULL))
    assert value(samples, "info", version="1.2", device="cpu", precision="float32") == 1
    assert value(samples, "start_time_seconds") == 1.78e9
    assert value(samples, "jobs", state="queued") == 3
    assert value(samples, "jobs", state="held") == 0
    assert value(samples, "oldest_queued_age_seconds") == 61.5
    assert value(samples, "last_scan_timestamp_seconds") == 1780000001.25
    assert value(samples, "watcher_up") == 0
    assert value(samples, "window_open") == 1
    assert value(samples, "paused", part="worker", kind="no_space") == 1
    assert value(samples, "paused", part="inbox", kind="unavailable") == 1
    assert value(samples, "attempts_total", outcome="crashed") == 2
    assert value(samples, "free_bytes", folder="outbox") == 0
    assert value(samples, "free_inodes", folder="spool") == 7
    assert value(samples, "iteration_seconds") == 0.25
    assert value(samples, "job_progress_ratio") == 0.5
    assert len(samples) == 22


def test_large_counts_keep_every_digit() -> None:
    """Bytes are written as whole numbers, not rounded."""
    assert b'styletransferd_free_bytes{folder="spool"} 1152921504606846977\n' in metrics.render(FULL)


def test_counters_and_only_they_end_in_total() -> None:
    """The type of a family shows in its name."""
    _, types = read(metrics.render(FULL))
    assert {name for name, type_ in types.items() if type_ == "counter"} == {"styletransferd_attempts_total"}
    assert [name for name in types if name.endswith("_total")] == ["styletransferd_attempts_total"]


def test_what_is_not_known_has_no_line() -> None:
    """Absent facts, and figures that are no numbers, leave their whole family out."""
    samples, types = read(metrics.render(replace(BARE, iteration_s=math.nan, progress=math.inf)))
    assert sorted(types) == [f"styletransferd_{name}" for name in ("info", "start_time_seconds", "window_open")]
    assert len(samples) == 3


def test_the_order_does_not_depend_on_the_facts_order() -> None:
    """The same facts give the same bytes."""
    turned = replace(
        FULL,
        jobs=dict(reversed(FULL.jobs.items())),
        paused=dict(reversed(FULL.paused.items())),
        attempts=dict(reversed(FULL.attempts.items())),
        free_bytes=dict(reversed(FULL.free_bytes.items())),
    )
    assert metrics.render(turned) == metrics.render(FULL)


@given(text=st.text(), part=st.text())
@example(text='a"\\\n', part="\\n\n")
@settings(deadline=None)
def test_labels_of_any_text_come_back(text: str, part: str) -> None:
    """Quotes, backslashes and line breaks in a label are escaped so that a reader gets them back."""
    samples, _ = read(metrics.render(replace(FULL, device=text, paused={part: PauseKind.OTHER})))
    assert value(samples, "info", version="1.2", device=text, precision="float32") == 1
    assert value(samples, "paused", part=part, kind="other") == 1


def test_labels_that_are_no_text_stay_readable() -> None:
    """Bytes of a name that are no UTF-8 come out escaped, and the file is still UTF-8."""
    samples, _ = read(metrics.render(replace(BARE, device="\udcff")))
    assert value(samples, "info", version="1.2", device="\\udcff", precision="float32") == 1


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_file_is_whole_and_readable_by_all(umask: int, tmp_path: Path) -> None:
    """Whatever the umask, node_exporter's own user may read it, and nothing else ends in .prom."""
    path = tmp_path / "styletransferd.prom"
    old = os.umask(umask)
    try:
        metrics.write(path, BARE)
        metrics.write(path, FULL)
    finally:
        os.umask(old)
    assert path.read_bytes() == metrics.render(FULL)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [item.name for item in tmp_path.iterdir()] == ["styletransferd.prom"]


def test_a_file_being_written_does_not_look_like_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a crash leaves half written has a name that the collector passes over."""

    def die(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(OSError, match="Input/output"):
        metrics.write(tmp_path / "styletransferd.prom", FULL)
    assert [item.name for item in tmp_path.iterdir() if item.name.endswith(".prom")] == []


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """The folder is the administrator's; it is not made here."""
    with pytest.raises(FileNotFoundError):
        metrics.write(tmp_path / "none" / "x.prom", BARE)
