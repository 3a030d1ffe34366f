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

    from daemon.job import EngineInfo
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
_UPDATE: Final = 6

# Matching 3,072 features of two layers: their similarities, twice, and the features themselves. Measured.
_MATCH_MB: Final = {"float32": 154, "bfloat16": 44}

# The chroma limit, measured: twelve planes of the picture, or of a painting.
_CHROMA_LIMIT_BYTES: Final = 12 * _FLOAT_BYTES

# A style, beside the pieces of it that the network sees: its pixels, and twice as float32.
_STYLE_BYTES: Final = 3 + 2 * PICTURE_BYTES

# A style's colors moved to the photo's, measured: three times its pixels in float64.
_MOVED_BYTES: Final = 3 * 3 * 8

# A pixel decoded: three in Pillow, as many converted, as many in the array.
_DECODED_BYTES: Final = 3 * 3

MARGIN: Final = 1.1  # between an estimate and a limit, since a process beyond the limit is ended


class Work(NamedTuple):
    """What one scale of a job computes, and on what."""

    size: Size  # of the picture
    styles: Sequence[Size]  # of the style pictures at that scale
    settings: Settings
    info: EngineInfo
    regions: int = 0  # with Gram matrices of their own; 0: the picture as a whole


class JobPlan(NamedTuple):
    """How every scale of a job will be computed, and what is reported of it."""

    tile_sizes: tuple[TileSize, ...]  # one for each scale, coarse to fine
    report: Plan
    spare_mb: float | None  # what the limit leaves beside the job; None: not known


def works(
    settings: Settings, content: Size, styles: Sequence[tuple[Size, float]], info: EngineInfo, regions: int = 0
) -> list[Work]:
    """Describe the work at every scale of a job, coarse to fine, from its pictures' sizes as dropped.

    Each style has its longest side in longest sides of the content.
    """
    found = []
    for scale in settings.all_scales(*content):
        sizes = [scaled(*size, round(factor * scale.size)) for size, factor in styles]
        found.append(Work(scaled(*content, scale.size), sizes, settings, info, regions))
    return found


def plan(job: Sequence[Work], limit_mb: int | None, smaller: int = 0) -> JobPlan:
    """Choose for every scale the fastest way that is safely within a limit, or the one that takes least.

    The limit is the most that the whole process may take; None: not known, and nothing is estimated. The way
    taken is `smaller` tile sizes below the chosen one: one for each time that memory ran out.
    """
    bound_mb = math.inf if limit_mb is None else limit_mb
    options = [_options(work, bound_mb, smaller) for work in job]
    tile_sizes, estimates_mb = zip(*(found[0] for found in options), strict=True)
    needed_mb = max(estimates_mb)  # what one scale took serves the next, so the largest decides
    figures = f"{needed_mb} MB estimated, {limit_mb} MB to be had"
    warning = f"memory may run out: {figures}, and an estimate may be wrong by a tenth"
    report = Plan(
        memory_estimate_mb=None if limit_mb is None else needed_mb,
        computed=str(tile_sizes[-1]),
        is_smallest=all(len(found) == 1 for found in options),
        warning="" if MARGIN * needed_mb <= bound_mb else warning,
    )
    spare_mb = None if limit_mb is None else limit_mb / MARGIN - needed_mb
    return JobPlan(tile_sizes, report, spare_mb)


def _options(work: Work, bound_mb: float, smaller: int) -> list[tuple[TileSize, int]]:
    """List the ways of computing a scale that fit, fastest first, with their estimates in MB.

    Each takes less than the one before. The first `smaller` are left out, but never the one that takes least.
    """
    found: list[tuple[TileSize, int]] = []
    for tile_size in TILE_SIZES:
        needed_mb = estimate_mb(work, tile_size)
        if not found or needed_mb < found[-1][1]:
            found.append((tile_size, needed_mb))
    fitting = [(tile_size, needed_mb) for tile_size, needed_mb in found if MARGIN * needed_mb <= bound_mb]
    return fitting[smaller:] or found[-1:]


def targets_mb(work: Work) -> int:
    """Estimate what computing the targets of a size in one piece takes, on top of what is there."""
    pixels = max(math.prod(size) for size in [work.size, *work.styles])
    return round(_FORWARD_BYTES * pixels / _MB)


def decoded_mb(pictures: Collection[Size]) -> int:
    """Estimate what decoding pictures takes: in Pillow's own memory and as arrays."""
    return round(_DECODED_BYTES * sum(math.prod(size) for size in pictures) / _MB)


def available_mb(held_mb: int, proc: Path = Path("/proc")) -> int:
    """Give the memory a process may grow to: what it holds, and what the machine can spare on top."""
    return processes.kilobytes(proc / "meminfo", "MemAvailable") // 1024 + held_mb


def estimate_mb(work: Work, tile_size: TileSize) -> int:
    """Estimate the peak of the engine's process at one size, in MB of 2^20 bytes."""
    info, settings = work.info, work.settings
    style_layers = {*settings.style_layers, *settings.match_layers}
    beside = _STYLE_BYTES if settings.preserve_color == "none" else _MOVED_BYTES
    styles = [
        _FORWARD_BYTES * _piece(size, style_layers, tile_size) + beside * math.prod(size)
        for size in work.styles
    ]
    base_mb = (_GPU_BASE_MB if info.device.startswith("GPU") else _BASE_MB)[info.precision]
    rotated_mb = _ROTATED_MB[info.precision] if info.backward == "convolution" else 0
    match_mb = _MATCH_MB[info.precision] if settings.match_layers else 0
    return base_mb + rotated_mb + match_mb + round(max(_step_bytes(work, tile_size), *styles) / _MB)


def _step_bytes(work: Work, tile_size: TileSize) -> float:
    """Count what is held to the end, and the most that half a step or the chroma limit takes on top of it."""
    settings, precision = work.settings, work.info.precision
    pixels = math.prod(work.size)
    layers = {*settings.content_layers, *settings.style_layers, *settings.match_layers}
    piece = _piece(work.size, layers, tile_size)
    # This picture, the last, the best and the gradient; Adam's moments, or L-BFGS' pairs and last gradient.
    count = 4 + (2 if settings.optimizer == "adam" else 1 + 2 * kept_pairs(pixels))
    kinds = 1 if precision == "float32" else 2  # of targets: the network's, and float32's to report
    contents = kinds * _FLOAT_BYTES * _channels(settings.content_layers) * pixels
    scattered = _SCATTERED[settings.optimizer] * _FLOAT_BYTES * _CHANNELS[1]
    of_regions = work.regions * _FLOAT_BYTES * _channels(settings.style_layers)  # gradients, before they add up
    gradient = (_activation_bytes(precision, layers) + scattered + of_regions) * piece
    update = _UPDATE * PICTURE_BYTES * pixels
    limit = settings.chroma_limit * _CHROMA_LIMIT_BYTES * max(map(math.prod, [work.size, *work.styles]))
    return count * PICTURE_BYTES * pixels + contents + max(gradient, update, limit)


def _piece(size: Size, layers: Collection[str], tile_size: TileSize) -> int:
    """Count the pixels that the network sees at once: those of the picture, or of its largest tile."""
    if tile_size.core_px is None:
        return math.prod(size)
    halo = tile_layout.halo_px(layers)
    rows, columns = (tile_layout.spans(length, tile_size.core_px, halo) for length in size)
    return max(span.stop - span.start for span in rows) * max(span.stop - span.start for span in columns)


def _activation_bytes(precision: str, layers: Collection[str]) -> float:
    """Count the bytes a pixel that the gradient needs: outputs of ReLU and pooling, up to the last layer."""
    item_bytes = 2 if precision == "bfloat16" else _FLOAT_BYTES
    seen = LAYERS[: max(LAYERS.index(layer) for layer in layers) + 1]
    blocks = sorted({tile_layout.feature_px(layer) for layer in seen})
    pooled = sum(_CHANNELS[px] / (2 * px) ** 2 for px in blocks[:-1])
    kept = item_bytes * (_channels(seen) + pooled + _TRANSIENTS * _CHANNELS[1])
    # In bfloat16 the features that are compared are kept in float32 as well.
    return kept if precision == "float32" else kept + _FLOAT_BYTES * _channels(layers)


def _channels(layers: Iterable[str]) -> float:
    """Count the features of some layers at a pixel of the picture."""
    return sum(_CHANNELS[px] / px**2 for px in map(tile_layout.feature_px, layers))
