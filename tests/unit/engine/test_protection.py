"""The map of where the content counts more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from daemon.engine import protection
from daemon.engine.prefetch import pictures
from daemon.errors import JobError
from daemon.job import Face, Request
from daemon.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def made(path: Path, height: int, width: int, **asked: Any) -> np.ndarray | None:
    """Make the map for a content of a size."""
    request = Request(path, (), None, Settings(), **asked)
    return protection.of(request, np.zeros((height, width, 3), np.uint8), 1.0)


def test_a_face_is_covered_with_its_hair_and_fades_out(tmp_path: Path) -> None:
    """1 up to 0.55 widths across and 0.68 heights down, half as much midway, 0 from 1.25 times that."""
    found = made(tmp_path, 800, 1600, faces=(Face(0.25, 0.25, 0.25, 0.5),))  # 128 x 128 px of 512 x 256

    assert (found.shape, found.dtype) == ((256, 512), np.float32)
    middle_y, middle_x, across, down = 128, 192, 0.55 * 128, 0.68 * 128
    for radius, expected in ((0.0, 1.0), (0.98, 1.0), (1.125, 0.5), (1.27, 0.0)):
        beside = found[middle_y, round(middle_x + radius * across)]
        above = found[round(middle_y - radius * down), middle_x]
        assert (beside, above) == pytest.approx((expected, expected), abs=0.06), radius


def test_faces_join_and_never_add_up(tmp_path: Path) -> None:
    """Each place has the larger of the faces' values."""
    one, other = Face(0.2, 0.2, 0.4, 0.4), Face(0.3, 0.2, 0.4, 0.4)
    both, alone = (made(tmp_path, 60, 80, faces=faces) for faces in ((one, other), (one,)))

    assert np.array_equal(both, np.maximum(alone, protection.around(other, 60, 80)))
    assert both.max() == 1


def test_a_masks_luma_is_the_map(tmp_path: Path) -> None:
    """White counts 1, green 0.587; a mask is stretched to the content's shape, and read like any picture."""
    mask = tmp_path / "mask.png"
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[:, :10], pixels[:, 15:] = 255, (0, 255, 0)
    Image.fromarray(pixels).save(mask)

    found = made(tmp_path, 100, 300, mask=mask)

    assert (found.shape, found.dtype) == ((100, 300), np.float32)
    assert found[50, [20, 187, 280]] == pytest.approx([1, 0, 0.587], abs=0.01)
    assert pictures(Request(tmp_path, (), None, Settings(), mask=mask)) == [tmp_path, mask]
    mask.write_bytes(b"no picture")
    with pytest.raises(JobError, match=r"mask\.png"):
        made(tmp_path, 100, 300, mask=mask)


def test_nothing_to_protect_is_no_map(tmp_path: Path) -> None:
    """Without faces, or with a black mask, the content counts the same everywhere."""
    Image.new("L", (20, 20)).save(tmp_path / "black.png")

    assert made(tmp_path, 60, 80) is None
    assert made(tmp_path, 60, 80, mask=tmp_path / "black.png") is None
