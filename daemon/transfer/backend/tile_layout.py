"""How a picture is cut into tiles, and what of the network a tile must see: arithmetic alone."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

from daemon.settings import LAYERS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    Box = tuple[int, int, int, int]

GRID_PX: Final = 16  # four poolings halve four times: where tiles and cores begin, so does a feature of block 5


class TileSize(NamedTuple):
    """How a picture is computed: in one piece, or by tiles with cores of at most so many pixels a side."""

    core_px: int | None

    def __str__(self) -> str:
        """Name it for the record."""
        return "whole" if self.core_px is None else f"tiles of {self.core_px} px"


WHOLE: Final = TileSize(None)

# From the fastest to the smallest; every one gives the same picture. The halo of block 5 is 80 to 128 px on
# every side, so that tiles of 256 px compute each pixel three times.
TILE_SIZES: Final = tuple(TileSize(core_px) for core_px in (None, 1024, 896, 768, 640, 512, 384, 256))


class Span(NamedTuple):
    """A tile along one axis, in pixels of the picture: the core and the halo before and after it."""

    start: int
    core_start: int
    core_stop: int
    stop: int


class Tile(NamedTuple):
    """A core and its halo. Each box is a top, bottom, left and right in pixels."""

    rows: Span
    columns: Span

    @property
    def whole(self) -> Box:
        """Core and halo, in the picture."""
        return self.rows.start, self.rows.stop, self.columns.start, self.columns.stop

    @property
    def core(self) -> Box:
        """The core, in the picture."""
        return self.rows.core_start, self.rows.core_stop, self.columns.core_start, self.columns.core_stop

    @property
    def inner(self) -> Box:
        """The core, in the tile."""
        (top, bottom, left, right), y, x = self.core, self.rows.start, self.columns.start
        return top - y, bottom - y, left - x, right - x


def feature_px(layer: str) -> int:
    """Give the pixels from one feature of a layer to the next: 1 in block 1, twice as many in each next one."""
    return int(2 ** (int(layer.removeprefix("block").partition("_")[0]) - 1))


def regional(layers: Sequence[str], regions: int) -> tuple[str, ...]:
    """Name what there is of layers in each of some regions: `block1_conv1/0`; the layers alone without any."""
    return tuple(f"{layer}/{region}" for region in range(regions) for layer in layers) or tuple(layers)


def layer_of(name: str) -> str:
    """Give the layer of a name that `regional` made."""
    return name.partition("/")[0]


def reach_px(layer: str) -> int:
    """Give how many pixels beyond its own ones a feature of a layer depends on.

    Every 3 x 3 convolution looks one feature further. A feature's own pixels are the square of `feature_px`
    that it is pooled from, which pooling never leaves.
    """
    return sum(feature_px(name) for name in LAYERS[: LAYERS.index(layer_of(layer)) + 1])


def halo_px(layers: Collection[str]) -> int:
    """Give the halo that the deepest of some layers needs, on the grid."""
    return -(-max(reach_px(layer) for layer in layers) // GRID_PX) * GRID_PX


def spans(length_px: int, core_px: int, halo_px: int) -> list[Span]:
    """Cover an axis by cores of about one size.

    Everything begins on the grid, so that a tile pools the pixels that the picture pools; the last core ends
    where the picture does, so that what pooling drops there is dropped in both. `core_px`, of the largest core,
    and `halo_px`, before and after each one, are multiples of `GRID_PX`; the picture's borders cut halos off.
    """
    cells = -(-length_px // GRID_PX)
    count = -(-length_px // core_px)
    edges = [min(length_px, index * cells // count * GRID_PX) for index in range(count + 1)]
    return [
        Span(max(0, start - halo_px), start, stop, min(length_px, stop + halo_px))
        for start, stop in itertools.pairwise(edges)
    ]
