"""Faults and failures say where, what and what else, and survive being written down."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict

import pytest

from daemon.errors import ConfigError, EngineError, Failure, Fault, JobError, NotReady, PauseKind, Reason

BARE = Fault("a.yaml", "", "", "keys and values")
UNKNOWN = Fault("a.yaml", "sise", "3", "seed, size", "did you mean 'size'?", problem="unknown key")
BROKEN = Fault("a.yaml", problem="not YAML: no end (line 2, column 3)")
SIZE = Fault("a.yaml", "size", "3", "16 or more", "did you mean 30?")
OUTSIDE = Fault("a.yaml", "content", "'../x'", "a plain name", reason=Reason.PATH_OUTSIDE)


def test_a_fault_is_one_line_with_all_it_knows() -> None:
    """File, key, what was found, what is allowed and the hint; what is unknown leaves no trace."""
    assert str(SIZE) == "a.yaml: size: found 3, but it must be 16 or more (did you mean 30?)"
    assert str(BARE) == "a.yaml: must be keys and values"
    assert str(UNKNOWN) == "a.yaml: unknown key 'sise' (did you mean 'size'?)"
    assert str(BROKEN) == "a.yaml: not YAML: no end (line 2, column 3)"


def test_a_fault_in_full_lists_what_its_line_leaves_out() -> None:
    """Known keys come after the line of an unknown one; other lines are complete already."""
    assert UNKNOWN.in_full() == f"{UNKNOWN}; allowed: seed, size"
    assert [fault.in_full() for fault in (SIZE, BARE, BROKEN)] == [str(SIZE), str(BARE), str(BROKEN)]
    assert str(ConfigError((UNKNOWN, SIZE), is_verbose=True)).splitlines() == [UNKNOWN.in_full(), str(SIZE)]


def test_a_failure_counts_and_lists_its_faults() -> None:
    """The message holds every fault; file and key are the first one's, without a hint."""
    failure = Failure.of_faults((BARE, SIZE))

    assert failure.message == f"2 faults: {BARE}; {SIZE}"
    assert (failure.file, failure.key, failure.hint) == ("a.yaml", "", "")
    assert failure.faults == (BARE, SIZE)
    assert Failure.of_faults((SIZE,)).message == f"1 fault: {SIZE}"


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ((SIZE,), Reason.BAD_SIDECAR),
        ((OUTSIDE,), Reason.PATH_OUTSIDE),
        ((OUTSIDE, OUTSIDE), Reason.PATH_OUTSIDE),
        ((OUTSIDE, SIZE), Reason.BAD_SIDECAR),
    ],
)
def test_a_failure_has_its_faults_reason_where_they_agree(faults: tuple[Fault, ...], reason: Reason) -> None:
    """Faults of different reasons make a bad sidecar."""
    assert Failure.of_faults(faults).reason is reason


def test_a_failure_survives_json() -> None:
    """What asdict() writes, from_dict() reads, with enums and tuples restored."""
    failure = Failure(
        Reason.ENGINE_CRASHED, "m", hint="h", file="f", key="k", faults=(OUTSIDE, SIZE), last_lines=("a", "b")
    )

    read = Failure.from_dict(json.loads(json.dumps(asdict(failure))))

    assert read == failure
    old = asdict(failure)
    del old["faults"][0]["problem"]  # as versions before 0.2 wrote it
    assert Failure.from_dict(old) == failure
    assert isinstance(read.faults[0].reason, Reason)
    assert isinstance(read.last_lines, tuple)


@pytest.mark.parametrize(
    "change", [{"reason": "unheard_of"}, {"color": "red"}, {"faults": [{"reason": "diverged"}]}, {"faults": 3}]
)
def test_other_data_is_no_failure(change: dict[str, object]) -> None:
    """Unknown reasons and keys, and incomplete faults, are refused."""
    data = {**asdict(Failure(Reason.DIVERGED, "m")), **change}

    with pytest.raises((KeyError, TypeError, ValueError)):
        Failure.from_dict(data)


def test_errors_say_what_happened() -> None:
    """The text of an error is its message, a config's one line a fault."""
    assert str(ConfigError((BARE, SIZE))).splitlines() == [str(BARE), str(SIZE)]
    assert str(JobError(Failure(Reason.DIVERGED, "it diverged"))) == "it diverged"
    assert str(EngineError("it died")) == "it died"
    assert EngineError("it died").reason is Reason.ENGINE_CRASHED


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ENOENT", "unavailable"),
        ("ESTALE", "unavailable"),
        ("ENOTCONN", "unavailable"),
        ("ETIMEDOUT", "unavailable"),
        ("ENOSPC", "no_space"),
        ("EDQUOT", "no_space"),
        ("EROFS", "read_only"),
        ("EACCES", "read_only"),
        ("EPERM", "read_only"),
        ("EIO", "io_error"),
        ("EBUSY", "other"),
    ],
)
def test_what_the_environment_lacks_is_known_from_the_error_number(code: str, kind: str) -> None:
    """Also where the error became a NotReady on its way, once or twice, whatever its message says."""
    number = getattr(errno, code)
    error = OSError(number, os.strerror(number))
    assert PauseKind.of(error) == kind
    first = NotReady("recovery")
    first.__cause__ = error
    second = NotReady("later")
    second.__cause__ = first
    assert (PauseKind.of(first), PauseKind.of(second)) == (kind, kind)


def test_a_kind_can_be_named_where_it_is_known() -> None:
    """It counts more than the error beneath; without either it is another one."""
    named = NotReady("inbox unavailable", PauseKind.UNAVAILABLE)
    named.__cause__ = OSError(errno.EACCES, "Permission denied")
    assert PauseKind.of(named) is PauseKind.UNAVAILABLE
    assert str(named) == "inbox unavailable"
    assert PauseKind.of(NotReady("no GPU")) is PauseKind.OTHER
