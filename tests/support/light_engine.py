"""An engine without TensorFlow that stands in for `daemon.engine.local` in the engine's child process.

The config's weights decide how it starts: `none.h5` fails, `hangs.h5` never ends, and `gpu.h5` reports a GPU.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from daemon.errors import NotReady
from daemon.job import EngineInfo, Losses, Painting, Plan, Step
from daemon.pictures import decoding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.config import Config
    from daemon.job import Request
    from daemon.lifeline import Lifeline

STEP_S = 0.001
_CUSTOMIZE = """
import sys
if "daemon.engine.child" in sys.orig_argv:
    sys.path.append({tests!r})
    from support import light_engine
    sys.modules["daemon.engine.local"] = light_engine
"""


def planted(folder: Path) -> str:
    """Write what makes every engine's child a light one; gives the `PYTHONPATH` for it."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_CUSTOMIZE.format(tests=str(Path(__file__).parents[1])))
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


class LocalEngine:
    """Paints the content itself."""

    def __init__(self, config: Config, _kept: Path | None = None) -> None:
        self._weights = Path(config.engine.weights).name

    def start(self) -> EngineInfo:
        """Load nothing."""
        if self._weights == "none.h5":
            raise NotReady("none.h5: not a readable weights file (No such file or directory)")
        print("printed on stdout", flush=True)  # noqa: T201 - that it is logged is the point
        print("I0000 00:00:1700000000.000000    1 port.cc:153] on stderr", file=sys.stderr)  # noqa: T201
        while self._weights == "hangs.h5":
            time.sleep(1)
        device = "GPU:0 (light)" if self._weights == "gpu.h5" else "CPU (light)"
        return EngineInfo(device, "float32", "light", "0" * 64, 0.0, {})

    def stylize(self, request: Request, life: Lifeline) -> Iterator[Plan | Step]:
        """Yield the content at every iteration."""
        yield Plan(memory_estimate_mb=None, computed="whole", is_smallest=True)
        count, losses = request.settings.iterations, Losses(3.0, 2.0, 1.0)
        picture = np.asarray(decoding.read(request.content, 1))
        for iteration in range(count + 1):
            time.sleep(STEP_S)
            painting = (
                Painting(picture, count, losses, losses, losses, 0.0, 0.0) if iteration == count else None
            )
            yield Step(iteration, count, 32, losses, 0.0, picture, painting)
            if life.is_stopping:
                return

    def prepare(self, request: Any) -> None:
        """Make nothing ready."""
