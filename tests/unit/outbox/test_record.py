"""result.yaml repeats the job, error.yaml says why there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from daemon import safe_yaml, sidecar
from daemon.errors import Failure, Fault, Reason
from daemon.job import EngineInfo, Face, Job, Losses, Painting, Part
from daemon.outbox import record
from daemon.settings import Settings

ODD = "-\udcff\n'\"\x85\u2028: #.jpg"
INFO = EngineInfo("cpu", "float32", "bundled", "f" * 64, 1.5, {"tensorflow": "2"})
PAINTING = Painting(
    picture=np.zeros((30, 40, 3), np.uint8),
    best_iteration=9,
    first=Losses(3.5, 3.0, 0.5),
    best=Losses(1.5, 1.0, 0.5),
    last=Losses(2.5, 2.0, 0.5),
    target_s=0.12345,
    loop_s=5.0,
    computed="tiles of 512 px",
    memory_peak_mb=1200,
)


def part(role: str, name: str, weight: float = 1.0) -> Part:
    """Make one accepted file."""
    return Part(role, name, f"{role}.bin", 1, 2, 3, 4, name.encode("utf-8", "replace").hex(), weight)


def make_job(*styles: Part, settings: Settings | None = None, content: str = "a.jpg") -> Job:
    """Make an accepted job."""
    return Job(
        id="0123456789abcdef",
        sequence=1,
        stem="sun\nset",
        folder="sub\udcff",
        parts=(part("sidecar", "s.yaml"), part("content", content), *(styles or (part("style", "b.jpg"),))),
        preset="paper",
        settings=settings or Settings(iterations=10, protect="none"),
        accepted_at="2026-01-02T03:04:05Z",
        versions={"styletransferd": "1"},
    )


def result(job: Job) -> bytes:
    """Write result.yaml."""
    return record.result(
        job,
        PAINTING,
        INFO,
        attempt=2,
        finished_at="2026-01-02T04:00:00Z",
        iterations=8,
        memory_estimate_mb=1290,
    )


def test_result_yaml_records_what_was_done() -> None:
    """Inputs, weights, versions, device, timings and losses stand under `result`."""
    document: dict[str, Any] = safe_yaml.parse(result(make_job()))

    assert document["result"] == {
        "id": "0123456789abcdef",
        "accepted_at": "2026-01-02T03:04:05Z",
        "finished_at": "2026-01-02T04:00:00Z",
        "attempt": 2,
        "width_px": 40,
        "height_px": 30,
        "best_iteration": 9,
        "steps_back": 0,
        "losses": {
            "first": {"total": 3.5, "style": 3.0, "content": 0.5},
            "best": {"total": 1.5, "style": 1.0, "content": 0.5},
            "last": {"total": 2.5, "style": 2.0, "content": 0.5},
        },
        "timings": {"targets_s": 0.123, "loop_s": 5.0, "iteration_s": 0.625},
        "device": "cpu",
        "precision": "float32",
        "memory": {"estimate_mb": 1290, "peak_mb": 1200, "computed": "tiles of 512 px"},
        "weights": {"source": "bundled", "sha256": "f" * 64},
        "protection": {"faces": None, "detector": None},
        "inputs": [{"role": item.role, "name": item.name, "sha256": item.sha256} for item in make_job().parts],
        "warnings": [],
        "versions": {"styletransferd": "1", "tensorflow": "2"},
    }


def test_result_yaml_spells_out_every_setting() -> None:
    """No key is left to a default that may change, and the pictures and the preset are named."""
    document = safe_yaml.parse(result(make_job()))

    assert set(document) == {"content", "style", "preset", "result", *Settings.model_fields}
    assert (document["content"], document["style"], document["preset"]) == ("a.jpg", "b.jpg", "paper")


@pytest.mark.parametrize(
    ("faces", "detector", "protect"),
    [((Face(0.1, 0.2, 0.3, 0.4),), "opencv 4", "faces"), ((), "opencv 4", "faces"), (None, "missing", "none")],
)
def test_result_yaml_says_what_was_protected(
    faces: tuple[Face, ...] | None, detector: str, protect: str
) -> None:
    """The faces stand there; where nobody could look for them, the job is repeated without."""
    job = make_job(settings=Settings())
    sidecar_, content, style = job.parts
    content = replace(content, faces=faces, detector=detector)

    document: dict[str, Any] = safe_yaml.parse(result(replace(job, parts=(sidecar_, content, style))))

    found = None if faces is None else [list(face) for face in faces]
    assert document["result"]["protection"] == {"faces": found, "detector": detector}
    assert document["protect"] == protect


def test_result_yaml_says_what_it_is_for() -> None:
    """The first line is a comment for people."""
    assert result(make_job()).startswith(b"# Drop this file back into the inbox")


@pytest.mark.parametrize("name", ["a.jpg", "1e3", "on", "null", "=", "<<", "@x", "日本.jpg", ODD])
def test_dropping_result_yaml_back_names_the_same_pictures(name: str) -> None:
    """Names that YAML could take for something else, and names of any bytes, come back as they were."""
    job = make_job(part("style", name, 2.0), part("style", "b.jpg", 0.5), content=name)

    read = sidecar.parse(result(job), "result.yaml")

    assert read.faults == ()
    assert read.content == name
    assert [(style.image, style.weight) for style in read.styles] == [(name, 2.0), ("b.jpg", 0.5)]
    assert read.settings == job.settings
    assert read.preset == "paper"


def test_error_yaml_says_why_and_where() -> None:
    """Reason, message, hint, file, key, attempt and versions, and each fault by itself."""
    fault = Fault("s.yaml", "size", "3", "16 or more", "h", Reason.BAD_SIDECAR)
    failure = Failure(Reason.BAD_SIDECAR, "m", "h", "s.yaml", "size", (fault,), ("line 1", "line 2"))

    text = record.error(make_job(), failure, 1, "2026-01-02T04:00:00Z")

    assert safe_yaml.parse(text) == {
        "reason": "bad_sidecar",
        "message": "m",
        "hint": "h",
        "help": "docs/failures.md#bad_sidecar",
        "file": "s.yaml",
        "key": "size",
        "attempt": 1,
        "id": "0123456789abcdef",
        "name": r"sun\nset",
        "folder": r"sub\udcff",
        "accepted_at": "2026-01-02T03:04:05Z",
        "failed_at": "2026-01-02T04:00:00Z",
        "faults": [
            {
                "file": "s.yaml",
                "key": "size",
                "found": "3",
                "allowed": "16 or more",
                "hint": "h",
                "reason": "bad_sidecar",
                "problem": "",
                "line": 0,
            }
        ],
        "last_lines": ["line 1", "line 2"],
        "versions": {"styletransferd": "1", **record.versions()},
    }


def test_error_yaml_survives_odd_names_and_engine_output() -> None:
    """What an engine printed, and names of any bytes, do not stop the report of a failure."""
    failure = Failure(Reason.ENGINE_CRASHED, f"{ODD} failed", file=ODD, last_lines=("\x1b[31m\udcff", "\x00"))

    document = safe_yaml.parse(record.error(make_job(), failure, 3, ""))

    assert document["file"] == ODD
    assert document["last_lines"] == ["\x1b[31m\udcff", "\x00"]
