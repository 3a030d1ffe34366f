"""How much memory a job takes, estimated before it starts, and the way of computing it that fits.

What the backward pass keeps follows from the network: its channels, at every pixel. The rest is measured, as
VmHWM of a fresh process in MB of 2^20 bytes: TensorFlow 2.21 on a CPU with oneDNN, square pictures, content at
block4_conv2, style at block1_conv1 to block5_conv1. Peaks of whole jobs, of L-BFGS unless noted:

                 512 px   1024 px   1024 px, Adam   one step at 2048 px   forward at 2048 px
    float32        1530      3406            3111                  9208                 4216
    bfloat16       1479      3429                                  7193                 4073

Without oneDNN, a step at 1024 x 768 px took 2669 in float32 (estimated: 2971), the rotated kernels included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from daemon import processes
from daemon.job import Plan
from daemon.settings import LAYERS, scaled
from daemon.transfer.backend import tile_layout
from daemon.transfer.backend.tile_layout import TILE_SIZES, TileSize
from daemon.transfer.optimizer_memory import PICTURE_BYTES, kept_pairs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from daemon.job import Backward, EngineInfo
    from daemon.settings import Settings

    Size = tuple[int, int]  # height, width

_MB: Final = 1 << 20
_FLOAT_BYTES: Final = 4
_CHANNELS: Final = {1: 64, 2: 128, 4: 256, 8: 512, 16: 512}  # by the pixels from one feature to the next

# TensorFlow and the weights: 820 and 873 (with float32's weights for the reported losses); compiling adds 40.
_BASE_MB: Final = {"float32": 860, "bfloat16": 913}

# On a GPU, not measured: the kernels, and 256 MB for workspaces of convolutions.
_GPU_BASE_MB: Final = {"float32": 332, "bfloat16": 370}

# The kernels once more, rotated, where gradients go back by convolutions: 20,018,880 numbers.
_ROTATED_MB: Final = {"float32": 76, "bfloat16": 38}

# The next three count tensors of 64 channels, as block 1 has: gradients in block 1 with the allocator's losses
# between unlike sizes; the room that activations need elsewhere once the pairs of L-BFGS lie in theirs; and the
# forward pass alone, in bytes a pixel.
_TRANSIENTS: Final = 3.3
_SCATTERED: Final = {"adam": 0.0, "lbfgs": 1.0}
_FORWARD_BYTES: Final = 3.2 * _FLOAT_BYTES * _CHANNELS[1]

# Picture-sized tensors of an update, with the activations gone: Adam's two new moments and its quotient; the
# recursion's two vectors, their products and the new pair.
_UPDATE: Final = {"adam": 6, "lbfgs": 6}

# A pixel decoded: three in Pillow, as many converted, as many in the array.
_DECODED_BYTES: Final = 3 * 3

MARGIN: Final = 1.1  # between an estimate and a limit, since a process beyond the limit is ended


@dataclass(frozen=True)
class Work:
    """The properties of one scale of a job that determine memory use."""

    size: Size  # of the picture
    styles: Collection[Size]  # of the style pictures at that scale
    content_layers: Collection[str]
    style_layers: Collection[str]
    precision: str  # float32 or bfloat16, of the convolutions
    optimizer: str  # adam or lbfgs
    backward: Backward = "gradient"  # how gradients go back; see `transfer.backend.operations`
    is_on_gpu: bool = False


class JobPlan(NamedTuple):
    """How every scale of a job will be computed, and what is reported of it."""

    tile_sizes: tuple[TileSize, ...]  # one for each scale, coarse to fine
    report: Plan
    spare_mb: float | None  # what the limit leaves beside the job; None: not known


def works(settings: Settings, content: Size, styles: Sequence[Size], info: EngineInfo) -> list[Work]:
    """Describe the work at every scale of a job, coarse to fine, from its pictures' sizes as dropped."""
    return [
        Work(
            size=scaled(*content, scale.size),
            styles=[scaled(*style, scale.size) for style in styles],
            content_layers=tuple(settings.content_layers),
            style_layers=tuple(settings.style_layers),
            precision=info.precision,
            optimizer=settings.optimizer,
            backward=info.backward,
            is_on_gpu=info.device.startswith("GPU"),
        )
        for scale in settings.all_scales(*content)
    ]


def plan(job: Sequence[Work], limit_mb: int | None, smaller: int = 0) -> JobPlan:
    """Choose for every scale the fastest way that is safely within a limit, or the one that takes least.

    Args:
        job: the work at every scale, coarse to fine.
        limit_mb: the most memory the whole process may take; None: not known, and nothing is estimated.
        smaller: number of tile sizes below the chosen ones, one for each time that memory ran out.
    """
    options = [_options(work) for work in job]
    bound_mb = math.inf if limit_mb is None else limit_mb
    chosen = [min(_first_within(found, bound_mb) + smaller, len(found) - 1) for found in options]
    ways = [found[index] for found, index in zip(options, chosen, strict=True)]
    # What one scale took serves the next, so the largest decides.
    needed_mb = max(way.estimate_mb for way in ways)
    figures = f"{needed_mb} MB estimated, {limit_mb} MB to be had"
    warning = f"memory may run out: {figures}, and an estimate may be wrong by a tenth"
    report = Plan(
        memory_estimate_mb=None if limit_mb is None else needed_mb,
        computed=str(ways[-1].tile_size),
        is_smallest=all(index == len(found) - 1 for found, index in zip(options, chosen, strict=True)),
        warning="" if MARGIN * needed_mb <= bound_mb else warning,
    )
    spare_mb = None if limit_mb is None else limit_mb / MARGIN - needed_mb
    return JobPlan(tuple(way.tile_size for way in ways), report, spare_mb)


class _Way(NamedTuple):
    """A way of computing a scale."""

    tile_size: TileSize
    estimate_mb: int


def _options(work: Work) -> list[_Way]:
    """List the ways of computing a scale, fastest first; each takes less memory than the one before."""
    found: list[_Way] = []
    for tile_size in TILE_SIZES:
        way = _Way(tile_size, estimate_mb(work, tile_size))
        if not found or way.estimate_mb < found[-1].estimate_mb:
            found.append(way)
    return found


def _first_within(options: Sequence[_Way], bound_mb: float) -> int:
    """Give the index of the first way that fits; where none does, of the last one, which takes least."""
    fitting = (index for index, way in enumerate(options) if MARGIN * way.estimate_mb <= bound_mb)
    return next(fitting, len(options) - 1)


def targets_mb(work: Work) -> int:
    """Estimate what computing the targets of a size in one piece takes, on top of what is there."""
    pixels = max(height * width for height, width in [work.size, *work.styles])
    return round(_FORWARD_BYTES * pixels / _MB)


def decoded_mb(pictures: Collection[Size]) -> int:
    """Estimate what decoding pictures takes: in Pillow's own memory and as arrays."""
    return round(sum(_DECODED_BYTES * height * width for height, width in pictures) / _MB)


def available_mb(held_mb: int, proc: Path = Path("/proc")) -> int:
    """Give the memory a process may grow to: what it holds, and what the machine can spare on top."""
    return processes.kilobytes(proc / "meminfo", "MemAvailable") // 1024 + held_mb


def estimate_mb(work: Work, tile_size: TileSize) -> int:
    """Estimate the peak of the engine's process at one size, in MB of 2^20 bytes."""
    styles = [_FORWARD_BYTES * _piece(size, work.style_layers, tile_size) for size in work.styles]
    base_mb = (_GPU_BASE_MB if work.is_on_gpu else _BASE_MB)[work.precision]
    rotated_mb = _ROTATED_MB[work.precision] if work.backward == "convolution" else 0
    return base_mb + rotated_mb + round(max(_step_bytes(work, tile_size), *styles) / _MB)


def _step_bytes(work: Work, tile_size: TileSize) -> float:
    """Count what is held through a step, and the greater of what its two halves take on top of it."""
    height, width = work.size
    pixels = height * width
    layers = {*work.content_layers, *work.style_layers}
    piece = _piece(work.size, layers, tile_size)
    # This picture, the last, the best and the gradient; Adam's moments, or L-BFGS' pairs and last gradient.
    count = 4 + (2 if work.optimizer == "adam" else 1 + 2 * kept_pairs(pixels))
    kinds = 1 if work.precision == "float32" else 2  # of targets: the network's, and float32's to report
    contents = kinds * _FLOAT_BYTES * _channels(work.content_layers) * pixels
    scattered = _SCATTERED[work.optimizer] * _FLOAT_BYTES * _CHANNELS[1]
    gradient = (_activation_bytes(work, layers) + scattered) * piece
    update = _UPDATE[work.optimizer] * PICTURE_BYTES * pixels
    return count * PICTURE_BYTES * pixels + contents + max(gradient, update)


def _piece(size: Size, layers: Collection[str], tile_size: TileSize) -> int:
    """Count the pixels that the network sees at once: those of the picture, or of its largest tile."""
    height, width = size
    if tile_size.core_px is None:
        return height * width
    halo = tile_layout.halo_px(layers)
    rows, columns = (tile_layout.spans(length, tile_size.core_px, halo) for length in size)
    return max(span.stop - span.start for span in rows) * max(span.stop - span.start for span in columns)


def _activation_bytes(work: Work, layers: Collection[str]) -> float:
    """Count the bytes a pixel that the gradient needs: outputs of ReLU and pooling, up to the last layer."""
    item_bytes = 2 if work.precision == "bfloat16" else _FLOAT_BYTES
    seen = LAYERS[: max(LAYERS.index(layer) for layer in layers) + 1]
    blocks = sorted({tile_layout.feature_px(layer) for layer in seen})
    pooled = sum(_CHANNELS[px] / (2 * px) ** 2 for px in blocks[:-1])
    kept = item_bytes * (_channels(seen) + pooled + _TRANSIENTS * _CHANNELS[1])
    # In bfloat16 the features that are compared are kept in float32 as well.
    return kept if work.precision == "float32" else kept + _FLOAT_BYTES * _channels(layers)


def _channels(layers: Iterable[str]) -> float:
    """Count the features of some layers at a pixel of the picture."""
    return sum(_CHANNELS[px] / px**2 for px in map(tile_layout.feature_px, layers))
