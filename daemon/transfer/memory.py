"""How much memory a picture takes, told before it is begun, and the way of computing it that fits.

What is counted follows from the network: the channels that the backward pass needs, at every pixel. What
cannot be counted (the process, what an allocator loses) is measured; each figure names its measurement. All of
them are the peak of the resident memory (VmHWM, in MB of 2^20 bytes) of a fresh process on the CPU: TensorFlow
2.21 with oneDNN, square pictures, content at block4_conv2, style at block1_conv1 to block5_conv1. Without it,
and with gradients by convolutions, a step at 1024 x 768 px took 2669 in float32 with L-BFGS (estimated: 2971),
the turned kernels included.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from daemon.settings import LAYERS
from daemon.transfer.backend import tile_layout
from daemon.transfer.backend.tile_layout import TILE_SIZES, WHOLE, TileSize

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from daemon.settings import Settings

    Size = tuple[int, int]  # height, width

_MB: Final = 1 << 20
_FLOAT_BYTES: Final = 4
_PICTURE_BYTES: Final = 3 * _FLOAT_BYTES  # a pixel of (1, H, W, 3) float32
_CHANNELS: Final = {1: 64, 2: 128, 4: 256, 8: 512, 16: 512}  # by the pixels from one feature to the next

# TensorFlow and the weights loaded: 820 (float32), 873 (bfloat16, with float32's beside it, which the reported
# losses are computed with). What compiling adds: about 40.
_BASE_MB: Final = {"float32": 860, "bfloat16": 913}

# The kernels once more, where gradients go back by them turned: 20,018,880 numbers.
_TURNED_MB: Final = {"float32": 76, "bfloat16": 38}

# Gradients on their way through block 1, and what the allocator loses between tensors of unlike sizes, in
# tensors of the 64 channels of block 1. From whole steps: 3185 and 2430 at 1024 px, 9208 and 7193 at 2048 px
# (float32; bfloat16 from 745 on).
_TRANSIENTS: Final = 3.3

# The pairs of L-BFGS settle in the room that activations left, which then need some elsewhere: in float32
# tensors of 64 channels. Jobs of 13 iterations at 1024 px: 3406 (float32) and 3429 (bfloat16), with Adam 3111.
_SCATTERED: Final = {"adam": 0.0, "lbfgs": 1.0}

# Forward alone, in float32 tensors of 64 channels a pixel: 4216 and 4073 at 2048 px.
_FORWARD: Final = 3.2

# Picture-sized tensors that an update makes on its way, with the activations gone: Adam's two new moments and
# its quotient; the recursion's two vectors, their products and the new pair.
_UPDATE: Final = {"adam": 6, "lbfgs": 6}

# A pixel decoded: three in Pillow, as many converted, as many in the array.
_DECODED_BYTES: Final = 3 * 3

# L-BFGS keeps ten pairs of pictures, and five of a picture so large that ten would take gigabytes.
HISTORY: Final = 10
LARGE_HISTORY: Final = 5
LARGE_PX: Final = 4_000_000

MARGIN: Final = 1.1  # between an estimate and a limit, since whoever passes the limit is ended


class Convolving(Protocol):
    """What of a network shapes its memory."""

    @property
    def precision(self) -> str:
        """Name what the convolutions run in: float32 or bfloat16."""

    @property
    def backward(self) -> str:
        """Name how gradients go back; see `convolutions`."""


@dataclass(frozen=True)
class Work:
    """What of a job shapes its memory."""

    size: Size  # of the picture
    styles: Collection[Size]  # of the style pictures at that size
    content_layers: Collection[str]
    style_layers: Collection[str]
    precision: str  # float32 or bfloat16, of the convolutions
    optimizer: str  # adam or lbfgs
    is_turned: bool = False  # how gradients go back; see `convolutions`


def works(settings: Settings, content: Size, styles: Sequence[Size], network: Convolving) -> list[Work]:
    """Describe the work at every size of a job's road, coarse to fine.

    Args:
        settings: the job's.
        content: the size of the photo as it was dropped.
        styles: those of the paintings.
        network: the one that paints, or what an engine says of it.
    """
    return [
        Work(
            size=_scaled(content, scale.size),
            styles=[_scaled(style, scale.size) for style in styles],
            content_layers=tuple(settings.content_layers),
            style_layers=tuple(settings.style_layers),
            precision=network.precision,
            optimizer=settings.optimizer,
            is_turned=network.backward == "convolution",
        )
        for scale in settings.all_scales(*content)
    ]


def _scaled(size: Size, longest: int) -> Size:
    height, width = size
    factor = longest / max(height, width, 1)
    return max(1, round(height * factor)), max(1, round(width * factor))


def plan(work: Work, limit_mb: int | None) -> TileSize:
    """Choose the first rung that is safely within a limit; where none is, the first that takes least.

    Args:
        work: the job's.
        limit_mb: for the whole process; None: nothing limits it.
    """
    if limit_mb is None:
        return WHOLE
    least = min(TILE_SIZES, key=lambda rung: estimate_mb(work, rung))
    return next((rung for rung in TILE_SIZES if _fits(estimate_mb(work, rung), limit_mb)), least)


def _fits(estimated_mb: int, limit_mb: int) -> bool:
    return MARGIN * estimated_mb <= limit_mb


def planned_mb(job: Sequence[Work], limit_mb: int | None) -> int:
    """Estimate the peak of a job, every size computed as planned; in one piece where nothing limits it.

    What one size took serves the next, so the largest decides.
    """
    return max(estimate_mb(work, plan(work, limit_mb)) for work in job)


def shortage(estimated_mb: int | None, limit_mb: int | None) -> str:
    """Say so where an estimate is not safely within a limit; empty where it is, or there is none of either."""
    if estimated_mb is None or limit_mb is None or _fits(estimated_mb, limit_mb):
        return ""
    figures = f"{estimated_mb} MB estimated, {limit_mb} MB to be had"
    return f"memory may run out: {figures}, and an estimate may be wrong by a tenth"


def targets_mb(work: Work) -> int:
    """Estimate what computing the targets of a size in one piece takes, on top of what is there."""
    pieces = [work.size, *work.styles]
    return round(max(_forward_bytes(height * width) for height, width in pieces) / _MB)


def decoded_mb(pictures: Collection[Size]) -> int:
    """Estimate what decoding pictures takes: in Pillow's own memory and as arrays."""
    return round(sum(_DECODED_BYTES * height * width for height, width in pictures) / _MB)


def available_mb(held_mb: int, proc: Path = Path("/proc")) -> int:
    """Give what a process that holds so much may grow to: what the machine can spare on top."""
    return kilobytes(proc / "meminfo", "MemAvailable") // 1024 + held_mb


def limit_mb(asked_mb: int | None, device: str, held_mb: int) -> int | None:
    """Decide what the engine's process may take; None on a GPU, whose memory is not estimated.

    Args:
        asked_mb: `engine.memory_limit_mb`; None: what the machine has.
        device: as the engine names it.
        held_mb: what it has taken by now.
    """
    return None if device.startswith("GPU") else asked_mb or available_mb(held_mb)


def kilobytes(path: Path, key: str) -> int:
    """Read a size from one of the kernel's own tables.

    Raises:
        OSError: there is no such table.
        StopIteration: it has no such line.
    """
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))


def estimate_mb(work: Work, rung: TileSize) -> int:
    """Estimate the peak of the engine's process at one size, in MB of 2^20 bytes."""
    styles = [_forward_bytes(_piece(size, work.style_layers, rung)) for size in work.styles]
    turned_mb = _TURNED_MB[work.precision] if work.is_turned else 0
    return _BASE_MB[work.precision] + turned_mb + round(max(_step_bytes(work, rung), *styles) / _MB)


def _step_bytes(work: Work, rung: TileSize) -> float:
    """Count what is held through a step, and the greater of what its two halves take on top of it."""
    height, width = work.size
    pixels = height * width
    layers = {*work.content_layers, *work.style_layers}
    piece = _piece(work.size, layers, rung)
    pictures = _pictures(work.optimizer, pixels) * _PICTURE_BYTES * pixels
    kinds = 1 if work.precision == "float32" else 2  # of targets: the network's, and float32's to report
    contents = kinds * _FLOAT_BYTES * _channels(work.content_layers) * pixels
    scattered = _SCATTERED[work.optimizer] * _FLOAT_BYTES * _CHANNELS[1]
    gradient = (_activation_bytes(work, layers) + scattered) * piece
    update = _UPDATE[work.optimizer] * _PICTURE_BYTES * pixels
    return pictures + contents + max(gradient, update)


def _pictures(optimizer: str, pixels: int) -> int:
    """Count the picture-sized tensors that are held through the gradient of a step.

    This picture, the last one, the best one and the gradient. With Adam: its two moments. With L-BFGS: the
    pairs, and the gradient at the last picture.
    """
    return 4 + (2 if optimizer == "adam" else 1 + 2 * kept_pairs(pixels))


def kept_pairs(pixels: int) -> int:
    """Tell how many pairs L-BFGS keeps."""
    return HISTORY if pixels <= LARGE_PX else LARGE_HISTORY


def state_bytes(optimizer: str, pixels: int) -> int:
    """Count the bytes of a checkpoint: the picture, the next one, the best one, and the optimiser's own."""
    own = 2 if optimizer == "adam" else 2 + 2 * kept_pairs(pixels)
    return (3 + own) * _PICTURE_BYTES * pixels


def _piece(size: Size, layers: Collection[str], rung: TileSize) -> int:
    """Count the pixels that the network sees at once: those of the picture, or of its largest tile."""
    height, width = size
    if rung.core_px is None:
        return height * width
    halo = tile_layout.halo_px(layers)
    rows, columns = (tile_layout.spans(length, rung.core_px, halo) for length in size)
    return max(span.stop - span.start for span in rows) * max(span.stop - span.start for span in columns)


def _activation_bytes(work: Work, layers: Collection[str]) -> float:
    """Count the bytes a pixel that the gradient needs: every ReLU's and pooling's output, up to the last layer.

    In bfloat16 the features that are compared are kept in float32 as well.
    """
    item_bytes = 2 if work.precision == "bfloat16" else _FLOAT_BYTES
    seen = LAYERS[: max(LAYERS.index(layer) for layer in layers) + 1]
    blocks = sorted({tile_layout.feature_px(layer) for layer in seen})
    pooled = sum(_CHANNELS[px] / (2 * px) ** 2 for px in blocks[:-1])
    kept = item_bytes * (_channels(seen) + pooled + _TRANSIENTS * _CHANNELS[1])
    return kept if work.precision == "float32" else kept + _FLOAT_BYTES * _channels(layers)


def _forward_bytes(pixels: int) -> float:
    return _FORWARD * _FLOAT_BYTES * _CHANNELS[1] * pixels


def _channels(layers: Iterable[str]) -> float:
    """Count the features of some layers at a pixel of the picture."""
    spacings = [tile_layout.feature_px(layer) for layer in layers]
    return sum(_CHANNELS[px] / px**2 for px in spacings)
