"""Pictures take other sizes, and none that is too narrow."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from daemon.errors import JobError, Reason
from daemon.pictures import resampling


@pytest.mark.parametrize(
    ("height", "width", "longest", "expected"),
    [
        (768, 1024, 256, (192, 256)),
        (1024, 768, 256, (256, 192)),
        (100, 100, 512, (512, 512)),
        (3, 100, 1000, (30, 1000)),
        (16, 16, 16, (16, 16)),
        (683, 1024, 512, (342, 512)),
    ],
)
def test_a_size_is_fitted_to_its_longest_side(
    height: int, width: int, longest: int, expected: tuple[int, int]
) -> None:
    """The longest side is what was asked for, the other one follows."""
    assert resampling.fit(height, width, longest) == expected


@pytest.mark.parametrize(("height", "width"), [(3, 100), (100, 3), (1, 16384)])
def test_a_picture_too_narrow_for_vgg19_is_refused(height: int, width: int) -> None:
    """A short side below 16 px is an error before the painting begins."""
    with pytest.raises(JobError) as caught:
        resampling.fit(height, width, 512)

    assert caught.value.failure.reason is Reason.PICTURE_TOO_NARROW
    assert f"{width} x {height} px" in caught.value.failure.message


def test_resizing_is_pillows_lanczos() -> None:
    """The reference losses hold for this filter alone."""
    ramp = np.linspace(0, 255, 24 * 32 * 3).reshape(24, 32, 3).astype(np.uint8)
    expected = np.asarray(Image.fromarray(ramp).resize((20, 10), Image.Resampling.LANCZOS))

    assert np.array_equal(resampling.resize(ramp, 10, 20), expected)
    assert resampling.resize(ramp, 24, 32) is ramp


def test_covering_crops_instead_of_stretching() -> None:
    """A square in the middle of a wide picture stays a square."""
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[5:15, 25:35] = 255

    covered = resampling.cover(wide, 40, 40)

    assert covered.shape == (40, 40, 3)
    lit = covered[..., 0] > 127
    assert abs(int(lit.any(axis=0).sum()) - int(lit.any(axis=1).sum())) <= 1
