"""Sizes are exact, and no damage to a file gets past the reader."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from daemon import images
from daemon.errors import JobError, Reason

if TYPE_CHECKING:
    from pathlib import Path

SIDES = st.integers(1, 30_000)
PICTURES = arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)))
shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(SIDES, SIDES, st.integers(16, 16384))
def test_fit_gives_the_asked_longest_side_and_keeps_the_aspect(height: int, width: int, longest: int) -> None:
    """The longest side is exact, the other within half a pixel, and too narrow is the only refusal."""
    short = min(height, width) * longest / max(height, width)
    if round(short) < images.MIN_SIDE_PX:
        with pytest.raises(JobError) as caught:
            images.fit(height, width, longest)
        assert caught.value.failure.reason is Reason.PICTURE_TOO_NARROW
        return

    scaled = images.fit(height, width, longest)

    assert max(scaled) == longest
    assert scaled[0 if height >= width else 1] == longest
    assert abs(min(scaled) - short) <= 0.5 + 1e-9


@shared_folder
@given(picture=PICTURES, format_=st.sampled_from(["png", "webp", "tiff"]))
def test_lossless_formats_lose_nothing(tmp_path: Path, picture: np.ndarray, format_: str) -> None:
    """Any picture, however small, is read as it was encoded."""
    (tmp_path / "a").write_bytes(images.encode(picture, format_))

    assert np.array_equal(images.read(tmp_path / "a", 1.0), picture)


@shared_folder
@given(
    picture=PICTURES,
    format_=st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"]),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    cut_and_tail=st.tuples(st.none() | st.integers(0, 400), st.binary(max_size=20)),
)
def test_any_damage_ends_in_a_picture_or_in_a_job_error(
    tmp_path: Path,
    picture: np.ndarray,
    format_: str,
    edits: list[tuple[int, int]],
    cut_and_tail: tuple[int | None, bytes],
) -> None:
    """Bytes changed, cut off and added: only JobError leaves read(), and a picture is always RGB."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format_)
    data = bytearray(buffer.getvalue())
    for place, value in edits:
        data[place % len(data)] = value
    cut, tail = cut_and_tail
    (tmp_path / "a").write_bytes(bytes(data[:cut]) + tail)

    try:
        read = images.read(tmp_path / "a", 1.0)
    except JobError as error:
        reason = error.failure.reason
        assert reason in {Reason.NOT_A_PICTURE, Reason.PICTURE_TOO_LARGE}
        return
    assert read.dtype == np.uint8
    assert read.ndim == 3
    assert read.shape[2] == 3
