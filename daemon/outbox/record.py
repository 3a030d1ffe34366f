"""The text of result.yaml and error.yaml."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from daemon import safe_yaml
from daemon.job import printable

if TYPE_CHECKING:
    from daemon.errors import Failure
    from daemon.job import EngineInfo, Job, Painting, Part

_HEAD = "# Drop this file back into the inbox beside the same pictures to repeat the job.\n"


@functools.cache
def versions() -> dict[str, str]:
    """List the versions of the installed programs, without importing them."""
    found = {}
    for name in ("styletransferd", "tensorflow", "keras", "numpy", "pillow"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def result(
    job: Job,
    painting: Painting,
    info: EngineInfo,
    attempt: int,
    finished_at: str,
    *,
    iterations: int,
    memory_estimate_mb: int | None,
) -> bytes:
    """Write result.yaml: a sidecar with every setting spelled out, and the record under `result`.

    `iterations` were made: fewer than asked for where a size ended early. `finished_at` is ISO 8601, UTC.
    """
    (content,) = job.parts_of("content")
    names = {"content": content.name, "style": _style(job), "preset": job.preset}
    height, width = painting.picture.shape[:2]
    made = {
        "id": job.id,
        "accepted_at": job.accepted_at,
        "finished_at": finished_at,
        "attempt": attempt,
        "width_px": width,
        "height_px": height,
        "best_iteration": painting.best_iteration,
        "steps_back": painting.steps_back,
        "losses": {name: asdict(getattr(painting, name)) for name in ("first", "best", "last")},
        "timings": {
            "targets_s": round(painting.target_s, 3),
            "loop_s": round(painting.loop_s, 3),
            "iteration_s": round(painting.loop_s / max(iterations, 1), 4),
        },
        "device": info.device,
        "precision": info.precision,
        "memory": {
            "estimate_mb": memory_estimate_mb,
            "peak_mb": painting.memory_peak_mb,
            "computed": painting.computed,
        },
        "weights": {"source": info.weights_source, "sha256": info.weights_sha256},
        "protection": {
            "faces": None if content.faces is None else [list(face) for face in content.faces],
            "detector": content.detector or None,
        },
        "inputs": job.inputs_on_record(),
        "warnings": job.warnings,
        "versions": {**job.versions, **info.versions},
    }
    text = safe_yaml.dump({**names, **_as_painted(job, content), "result": made})
    return (_HEAD + text).encode("utf-8", "backslashreplace")


def _as_painted(job: Job, content: Part) -> dict[str, Any]:
    """List the settings; those of a photo whose faces nobody looked for repeat it without them."""
    settings = job.settings.model_dump(mode="json") if job.settings else {}
    if settings.get("protect") == "faces" and content.faces is None:
        settings["protect"] = "none"
    return settings


def _style(job: Job) -> str | list[dict[str, Any]]:
    styles = job.parts_of("style")
    if len(styles) == 1 and styles[0].scale == 1:
        return styles[0].name
    return [{"image": part.name, "weight": part.weight, "scale": part.scale} for part in styles]


def error(job: Job, failure: Failure, attempt: int, failed_at: str) -> bytes:
    """Write error.yaml: why the job failed, where, and what to do about it."""
    document: dict[str, Any] = {
        "reason": failure.reason.value,
        "message": failure.message,
        "hint": failure.hint,
        "help": failure.reason.help,
        "file": failure.file,
        "key": failure.key,
        "attempt": attempt,
        "id": job.id,
        "name": printable(job.stem),
        "folder": printable(job.folder),
        "accepted_at": job.accepted_at,
        "failed_at": failed_at,
        "faults": [{**asdict(fault), "reason": fault.reason.value} for fault in failure.faults],
        "last_lines": list(failure.last_lines),
        "versions": {**job.versions, **versions()},
    }
    return safe_yaml.dump(document).encode("utf-8", "backslashreplace")
