"""Hostile drops: each fails with its own reason or waits in sight, and the others go on."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from support import hostile
from support.fakes import FakeEngine
from support.trees import Stepper, digest

from daemon import config as config_module
from daemon import safe_yaml
from daemon.errors import Reason
from daemon.job import State, printable
from daemon.sandbox.client import Decoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.hostile import Case
    from support.trees import Tree

DEADLINE_S = 120
LEAST_CASES = {
    "cut_pictures": 60,
    "flipped_pictures": 48,
    "bombs": 30,
    "other_formats": 30,
    "bad_sidecars": 220,
    "good_sidecars": 7,
    "odd_names": 40,
    "waiting_names": 4,
}


def _work_off(tree: Tree) -> Stepper:
    """Drop a sound pair after what is there, turn until nothing moves, and see that the pair is painted.

    The real decoder looks at the pictures, in its own process and under its memory limit.
    """
    tree.drop("good")
    decoder = Decoder(tree.config.inbox.max_megapixels)
    stepper = Stepper(tree.config, FakeEngine(), decoder)
    try:
        stepper.until_quiet(DEADLINE_S)
    finally:
        decoder.stop()
    assert (tree.result("good") / "result.png").exists()
    return stepper


def _check(tree: Tree, stepper: Stepper, cases: list[Case]) -> None:
    """See that every case came to its end, and that the invariant holds."""
    faults = _faults(tree, stepper, cases)
    assert not faults, f"{len(faults)} of {len(cases)}\n" + "\n".join(faults)
    assert all(_left(tree, case) for case in cases if case.waits)
    tree.drops += [
        {name: digest(data) for name, data in case.taken.items()} for case in cases if not case.waits
    ]
    tree.check(is_quiet=True)


def _faults(tree: Tree, stepper: Stepper, cases: list[Case]) -> list[str]:
    """Name every case that came to another end than it has to."""
    jobs = {entry.job.folder: entry for entry in tree.spool.all_entries() if entry.job}
    faults = []
    for case in cases:
        entry = jobs.pop(case.name, None)
        if case.waits:
            waiting = stepper.waiting.get(printable(f"{case.name}/{case.where}"), "nothing")
            if entry or case.waits not in waiting:
                faults.append(f"{case.name}: {entry}, waits for {waiting}, not {case.waits}")
            continue
        failure = entry.failure if entry else None
        end = failure.reason if failure else entry.state if entry else "waiting"
        if end not in case.ends:
            faults.append(f"{case.name}: {end}, not {sorted(case.ends)}: {failure}")
        if failure and entry and not failure.message:
            faults.append(f"{case.name}: it is not said why")
        if failure and entry:
            faults += _failure_faults(tree, case, entry.label, failure.reason)
    return faults + [f"{folder}: nobody dropped it" for folder in jobs if folder != "."]


def _failure_faults(tree: Tree, case: Case, label: str, reason: Reason) -> list[str]:
    """Check that the outbox has the same reason and keeps what was dropped, to the byte."""
    entry = tree.outbox / f"{label}.failed"
    published = safe_yaml.parse((entry / "error.yaml").read_bytes())["reason"]
    kept = sorted(digest(path.read_bytes()) for path in (entry / "drop").iterdir())
    dropped = sorted({digest(data) for data in case.taken.values()})
    is_kept = sorted(set(kept)) == dropped
    return [] if published == reason and is_kept else [f"{case.name}: {published}, kept {is_kept}"]


def _left(tree: Tree, case: Case) -> bool:
    """Whether every plain file of a waiting case lies where it was put, unchanged."""
    folder = tree.inbox / case.name
    return all((folder / name).read_bytes() == data for name, data in case.files.items())


def test_a_sample_of_hostile_drops_comes_to_its_own_end(tree: Tree) -> None:
    """In one inbox, each 12th drop of every corpus ends or waits as it has to, and a good pair is painted."""
    sample = (case for corpus in LEAST_CASES for case in islice(getattr(hostile, corpus)(), 0, None, 12))
    cases = hostile.put_all(sample, tree.inbox)
    _check(tree, _work_off(tree), cases)
    assert len({case.name for case in cases}) == len(cases) >= 35


@pytest.mark.nightly
@pytest.mark.parametrize("corpus", LEAST_CASES)
def test_every_hostile_drop_comes_to_its_own_end(corpus: str, tree: Tree) -> None:
    """Each drop of a corpus ends or waits as it has to, and a good pair dropped after it is painted."""
    cases = hostile.put_all(getattr(hostile, corpus)(), tree.inbox)
    _check(tree, _work_off(tree), cases)
    assert len(cases) >= LEAST_CASES[corpus]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Lay a whole drop outside the inbox, where any reading leaves a trace in the access times."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name, data in {
        "photo.png": hostile.picture(seed=21),
        "style.png": hostile.picture(seed=22),
        hostile.OWN: b"content: photo.png\nstyle: style.png\n",
    }.items():
        (folder / name).write_bytes(data)
        os.utime(folder / name, ns=(1, 2))  # a mount with `relatime` notes the first reading
    return folder


def _read_outside(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.stat().st_atime_ns != 1]


def test_only_regular_files_are_opened(tree: Tree, outside: Path) -> None:
    """A FIFO, socket, device, folder or link waits, picture or sidecar; what links lead to is not read."""
    cases = hostile.put_all(hostile.odd_kinds(outside), tree.inbox)
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    for path in outside.iterdir():
        os.utime(path, ns=(1, 2))
    stepper = _work_off(tree)
    assert _read_outside(outside) == []
    _check(tree, stepper, cases)
    assert all(os.path.lexists(tree.inbox / case.name / case.where) for case in cases)
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == before
    assert len(cases) >= 22


def test_the_trace_of_a_reading_is_seen(outside: Path) -> None:
    """The test above would see it: reading a file outside changes what it looks at."""
    (outside / "photo.png").read_bytes()
    if not _read_outside(outside):
        pytest.skip("this file system keeps no access times")
    assert _read_outside(outside) == ["photo.png"]


def test_a_hard_link_is_taken_and_its_other_name_stays(tree: Tree, outside: Path) -> None:
    """A hard link to a file elsewhere is a file of the inbox like any other; the other name keeps the bytes."""
    for path in outside.iterdir():
        (tree.inbox / path.name).hardlink_to(path)
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    tree.note(*(tree.inbox / name for name in before))
    _check(tree, _work_off(tree), [])
    assert tree.spool.count(State.DONE) == 2
    assert tree.left() == []
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == before


def test_twins_that_name_their_own_pictures_are_two_drops(tree: Tree) -> None:
    """Two drops whose names differ only in composed and decomposed accents are both painted."""
    for seed, name in enumerate(("composed", "decomposed")):
        tree.drop(hostile.NAMES[name], seed=10 * seed)
    assert len({path.name for path in tree.inbox.glob("*.yaml")}) == 2
    _check(tree, _work_off(tree), [])
    assert tree.spool.count(State.DONE) == 3


def test_what_is_never_looked_at_stays(tree: Tree) -> None:
    """Names on the ignore list, such as those of dots alone, are neither taken nor changed."""
    folder = tree.inbox / "ignored"
    folder.mkdir()
    names = list(hostile.ignored_names())
    for name in names:
        (folder / name).write_bytes(b"sise: 3\n")
    _check(tree, _work_off(tree), [])
    assert {name: (folder / name).read_bytes() for name in names} == dict.fromkeys(names, b"sise: 3\n")
    assert list(tree.outbox.glob("*.failed")) == []


def test_files_over_the_cap_fail_without_being_read(tree: Tree) -> None:
    """A picture that is larger than allowed, or endless as a sparse file, fails as file_too_large at once."""
    cap = int(tree.config.inbox.max_file_mb * 1e6)
    for name, size in {"just": cap + 1, "endless": 1 << 40}.items():
        folder = tree.inbox / name
        folder.mkdir()
        (folder / "photo.png").touch()
        os.truncate(folder / "photo.png", size)
        (folder / "style.png").write_bytes(hostile.picture(seed=size % 97))
        (folder / hostile.OWN).write_bytes(b"content: photo.png\nstyle: style.png\n")
    _work_off(tree)
    failures = {entry.job.folder: entry.failure for entry in tree.spool.entries(State.FAILED) if entry.job}
    assert {folder: failure and failure.reason for folder, failure in failures.items()} == {
        "just": Reason.FILE_TOO_LARGE,
        "endless": Reason.FILE_TOO_LARGE,
    }


def test_a_sidecar_that_names_itself_is_no_picture(tree: Tree) -> None:
    """A sidecar that gives its own name as the photo fails as not_a_picture, and leaves the inbox with it."""
    (tree.inbox / hostile.OWN).write_text(f"content: {hostile.OWN}\nstyle: style.png\n")
    (tree.inbox / "style.png").write_bytes(hostile.picture())
    _work_off(tree)
    (entry,) = tree.spool.entries(State.FAILED)
    assert entry.failure.reason is Reason.NOT_A_PICTURE
    assert tree.left() == []


@pytest.fixture
def bare_tree(tree: Tree) -> Tree:
    """Make a tree whose inbox takes pairs without a sidecar."""
    base = tree.inbox.parent
    raw = {
        "inbox": {"settle_s": 0.001, "rescan_s": 0.002, "sidecar": "optional"},
        "defaults": {"iterations": 2, "frames": {"every": 0}},
    }
    tree.config = config_module.build(raw, base, environment={})
    return tree


@pytest.mark.parametrize("stride", [10, pytest.param(3, marks=pytest.mark.nightly)])
def test_bare_pairs_under_odd_names_are_painted(stride: int, bare_tree: Tree) -> None:
    """Pairs without a sidecar are painted whatever their common name is."""

    def bare() -> Iterator[hostile.Case]:
        for case in list(hostile.odd_names())[::stride]:
            pair = {name: data for name, data in case.files.items() if ".content." in name or ".style." in name}
            if pair:
                yield hostile.Case(case.name, pair, case.ends)

    cases = hostile.put_all(bare(), bare_tree.inbox)
    _check(bare_tree, _work_off(bare_tree), cases)
    assert len(cases) >= 36 // stride
