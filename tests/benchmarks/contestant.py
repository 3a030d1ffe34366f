"""Answers one request in a process of its own: by the product's engine, the plain loop, or the measures.

Reads a JSON request from stdin; the last line of stdout is the answer.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import errors
import numpy as np
import plain_paper
import tensorflow as tf
from picture_files import read, write
from processes import memory_mb
from sidecars import settings

from daemon import config
from daemon.engine.local import LocalEngine
from daemon.job import Request, Style
from daemon.pictures import resampling
from daemon.sandbox import faces
from daemon.transfer import weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.job import Step
    from daemon.settings import Settings

PRODUCT_SIDE: Final = 3072  # of the matrices whose product is the machine's limit
WARM_PX: Final = 64
BEYOND: Final = 3  # iterations past a target, for the first one that reaches it in float32 too


def engine(request: dict[str, Any]) -> LocalEngine:
    """Load the product's engine in a precision."""
    loaded = LocalEngine(
        config.build(
            {"engine": {"precision": request["precision"], "memory_limit_mb": request.get("memory_limit_mb")}},
            Path.cwd(),
            environment={},
        )
    )
    loaded.start()
    return loaded


def job(request: dict[str, Any], chosen: Settings) -> Request:
    """Ask for a picture as the service does, its faces protected if the settings say so."""
    found = faces.find(read(request["content"]))[0] if chosen.protect == "faces" else ()
    return Request(Path(request["content"]), (Style(Path(request["style"])),), None, chosen, faces=found)


def warm_up(loaded: LocalEngine, request: dict[str, Any]) -> None:
    """Paint a tiny picture by the same program: a resident service has traced it long before."""
    tiny = settings(request["settings"], size=WARM_PX, iterations=2, scales="none")
    for _ in loaded.stylize(job(request, tiny)):
        pass


def _steps(loaded: LocalEngine, asked: Request) -> Iterator[Step]:
    """Paint, and take the steps without the plan before them."""
    return itertools.islice(loaded.stylize(asked), 1, None)


def facts(loaded: LocalEngine) -> dict[str, Any]:
    """What every answer of the product tells."""
    info = loaded.start()
    return {
        "device": info.device,
        "precision": info.precision,
        "backward": info.backward,
        "load_s": info.load_s,
        "versions": info.versions,
    }


def machine(request: dict[str, Any]) -> dict[str, Any]:
    """Say what computes here."""
    return facts(engine(request))


def steps(request: dict[str, Any]) -> dict[str, Any]:
    """Time steps of the product and matrix products of the same precision in turn."""
    loaded = engine(request)
    warm_up(loaded, request)
    product = _matrix_product(facts(loaded)["precision"])
    chosen = settings(request["settings"], size=request["size"], iterations=request["count"] + 3, scales="none")
    step_s, product_s = [], []
    painting = loaded.stylize(job(request, chosen))
    next(painting), next(painting), next(painting)  # the plan, then the start and the first iteration
    for _ in range(request["count"]):
        begun = time.perf_counter()
        next(painting)
        middle = time.perf_counter()
        product()
        step_s.append(middle - begun)
        product_s.append(time.perf_counter() - middle)
    painting.close()
    height, width = resampling.fit(*read(request["content"]).shape[:2], request["size"])
    return {**facts(loaded), "height": height, "width": width, "step_s": step_s, "product_s": product_s}


def _matrix_product(precision: str) -> Callable[[], float]:
    random = tf.random.Generator.from_seed(0)
    left, right = (tf.cast(random.normal([PRODUCT_SIDE, PRODUCT_SIDE]), precision) for _ in range(2))

    def product() -> float:
        return float(tf.matmul(left, right)[0, 0])  # waits for a device that works apart

    product()
    return product


def paint(request: dict[str, Any]) -> dict[str, Any]:
    """Paint by the product, model loaded and program traced; to the end, or to a loss.

    `marks` are iteration, size_px, loss and seconds since the pictures' files were handed over. With a `target`
    the pictures from the first one that reaches it on are written as `kept`-N.png for `paper_losses`. `best` is
    the best picture's loss in float32, where it is painted to the end; `restarts` are the optimizer's.
    """
    loaded = engine(request)
    if request.get("is_warm", True):
        warm_up(loaded, request)
    target = request.get("target")
    chosen = settings(request["settings"], **({"frames": {"every": 1}} if target else {}))
    marks, kept, painting, restarts = [], [], None, 0
    begun = time.perf_counter()
    for step in _until(target, _steps(loaded, job(request, chosen))):
        marks.append([step.iteration, step.size_px, step.losses.total, time.perf_counter() - begun])
        painting = step.painting or painting
        restarts += bool(step.restart)
        if target and (kept or step.losses.total <= target):
            kept.append(f"{request['kept']}-{step.iteration}.png")
            write(kept[-1], step.picture)
    if painting and "output" in request:
        write(request["output"], painting.picture)
    best = painting and painting.best.total
    return {**facts(loaded), "marks": marks, "kept": kept, "best": best, "restarts": restarts}


def _until(target: float | None, steps_: Iterator[Step]) -> Iterator[Step]:
    """Take steps until a loss is reached, and a few beyond."""
    left = None
    for step in steps_:
        yield step
        if left is None and target and step.losses.total <= target:
            left = BEYOND + 1
        left = None if left is None else left - 1
        if left == 0:
            return


def plain(request: dict[str, Any]) -> dict[str, Any]:
    """Run the paper's loop, written plainly."""
    content, style = read(request["content"]), read(request["style"])
    return {"marks": plain_paper.paint(content, style, request["iterations"]), "precision": "float32"}


def paper_losses(request: dict[str, Any]) -> dict[str, Any]:
    """Compute the paper's loss of pictures, in float32 on their 8-bit pixels."""
    paper = plain_paper.Paper(read(request["content"]), read(request["style"]))
    return {"losses": [float(paper.loss(plain_paper.to_input(read(path)))) for path in request["pictures"]]}


def picture_errors(request: dict[str, Any]) -> dict[str, Any]:
    """Give the three errors of each picture, scaled to a size or (null) at its own."""
    content, style = read(request["content"]), read(request["style"])
    found = []
    for path, size in request["pictures"]:
        picture = read(path)
        found.append(errors.errors(errors.scaled(picture, size) if size else picture, content, style))
    return {"errors": found}


def anchor(request: dict[str, Any]) -> dict[str, Any]:
    """Paint by another method."""
    import anchors  # noqa: PLC0415 - and scikit-image, whose memory would count in `memory`

    return anchors.paint(request)


def beauty(request: dict[str, Any]) -> dict[str, Any]:
    """Give all measures of each picture."""
    import measures  # noqa: PLC0415 - as above

    return measures.scores(request)


def export_weights(request: dict[str, Any]) -> dict[str, Any]:
    """Write the bundled weights as PyTorch orders them: (C_out, C_in, 3, 3)."""
    loaded = weights.load("bundled")
    arrays = {}
    for name, (kernel, bias) in loaded.layers.items():
        arrays[f"{name}/kernel"], arrays[f"{name}/bias"] = kernel.transpose(3, 2, 0, 1), bias
    np.savez(request["path"], **arrays)
    return {"sha256": loaded.sha256}


def memory(request: dict[str, Any]) -> dict[str, Any]:
    """Paint in a fresh process and give the peak of its memory."""
    loaded = engine(request)
    marks, painting = [], None
    items = loaded.stylize(job(request, settings(request["settings"])))
    plan = next(items)
    for step in items:
        marks.append(time.perf_counter())
        painting = step.painting or painting
    assert painting
    step_s = statistics.median(np.diff(marks).tolist())
    return {
        **facts(loaded),
        "step_s": step_s,
        "computed": painting.computed,
        "estimate_mb": plan.memory_estimate_mb,
    }


KINDS: Final = {
    function.__name__: function
    for function in (
        *(machine, steps, paint, plain, paper_losses, picture_errors),
        *(anchor, beauty, export_weights, memory),
    )
}


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    answer = KINDS[request["kind"]](request)
    print(json.dumps({**answer, "peak_mb": memory_mb("self", "VmHWM")}))  # noqa: T201


if __name__ == "__main__":
    main()
