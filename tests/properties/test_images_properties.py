"""Sizes are exact, and lossless formats lose nothing; damage is in test_damaged_pictures_properties."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from daemon.errors import JobError, Reason
from daemon.pictures import decoding, encoding, resampling
from daemon.settings import Output

if TYPE_CHECKING:
    from pathlib import Path

SIDES = st.integers(1, 30_000)
PICTURES = arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)))
shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(SIDES, SIDES, st.integers(16, 16384))
def test_fit_gives_the_asked_longest_side_and_keeps_the_aspect(height: int, width: int, longest: int) -> None:
    """The longest side is exact, the other within half a pixel, and too narrow is the only refusal."""
    short = min(height, width) * longest / max(height, width)
    if round(short) < resampling.MIN_SIDE_PX:
        with pytest.raises(JobError) as caught:
            resampling.fit(height, width, longest)
        assert caught.value.failure.reason is Reason.PICTURE_TOO_NARROW
        return

    scaled = resampling.fit(height, width, longest)

    assert max(scaled) == longest
    assert scaled[0 if height >= width else 1] == longest
    assert abs(min(scaled) - short) <= 0.5 + 1e-9


@shared_folder
@given(picture=PICTURES, format_=st.sampled_from(["png", "webp", "tiff"]))
def test_lossless_formats_lose_nothing(tmp_path: Path, picture: np.ndarray, format_: str) -> None:
    """Any picture, however small, is read as it was encoded."""
    (tmp_path / "a").write_bytes(encoding.encode(picture, Output(format=format_)))

    assert np.array_equal(decoding.read(tmp_path / "a", 1.0), picture)
