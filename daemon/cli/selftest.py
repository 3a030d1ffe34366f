"""`selftest`: proves at the user's site that device, weights and one real step work."""

from __future__ import annotations

import resource
import time
from importlib import resources
from pathlib import Path

import typer

from daemon.cli.options import ConfigOption, load, start_engine
from daemon.errors import DaemonError, NotReady
from daemon.job import Request, Style
from daemon.settings import Frames, Settings

_SIZE_PX = 256


def selftest(config: ConfigOption = None) -> None:
    """Load VGG19, run a real optimization step on the chosen device, and print what computes."""
    engine, info = start_engine(load(config, needs_file=False))
    from daemon.transfer.backend import timing  # noqa: PLC0415 - imports TensorFlow

    bundled = Path(str(resources.files("daemon.demo")))
    settings = Settings(size=_SIZE_PX, scales="none", iterations=3, frames=Frames(every=0))
    request = Request(bundled / "photo.jpg", (Style(bundled / "painting.jpg"),), None, settings)
    try:
        times = [time.perf_counter() for _ in engine.stylize(request)]  # of the plan and every step
    except DaemonError as error:
        raise NotReady(f"the step failed on {info.device}: {error}") from error
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    for name, value in {
        "device": info.device,
        "precision": info.precision,
        "bfloat16_gain": f"{timing.bfloat16_gain():.2f} (times as fast as float32)",
        "backward": info.backward,
        "convolution_gain": f"{timing.convolution_gain(info.precision):.2f} (times as fast as gradient)",
        "weights": info.weights_source,
        "weights_sha256": info.weights_sha256,
        "load_s": f"{info.load_s:.1f}",
        "step_s": f"{times[3] - times[2]:.3f} (at {_SIZE_PX} px)",
        "memory_mb": f"{peak_mb} (peak of this process)",
        **{f"version_{name}": number for name, number in info.versions.items()},
    }.items():
        typer.echo(f"{name}: {value}")
