"""The losses as a table that reads back to the bit, and as a picture."""

from __future__ import annotations

import csv
import io
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from daemon.outbox import loss_table
from daemon.outbox.loss_table import Row

ROWS = [
    Row(0, 256, 6.027e8, 6.0e8, 0.0, 0.0),
    Row(1, 256, 4.1e8, 4.0e8, 1e7, 0.5),
    Row(2, 256, 2.06e8, 2e8, 6e6, 1.0),
]
FLOATS = st.floats() | st.sampled_from([sys.float_info.min, 5e-324, 0.1 + 0.2, 1e16, 1e-5])


def test_the_table_has_the_contracts_columns() -> None:
    """The header and the lines are plain text, one line a picture."""
    assert loss_table.table(ROWS[:2]) == (
        b"iteration,size_px,total,style,content,elapsed_s\n"
        b"0,256,602700000.0,600000000.0,0.0,0.000\n"
        b"1,256,410000000.0,400000000.0,10000000.0,0.500\n"
    )
    assert loss_table.table([]) == b"iteration,size_px,total,style,content,elapsed_s\n"


@pytest.mark.parametrize(
    ("pictures", "made"),
    [
        ([], 0),
        ([(0, 32)], 0),
        ([(0, 32), (1, 32), (2, 32)], 2),
        (
            [(0, 16), (1, 16), (2, 16), (2, 32), (3, 32)],
            3,
        ),  # a size begins with the number the last one ended with
        ([(0, 16), (1, 16), (8, 32), (9, 32), (10, 32)], 3),  # or, where that ended early, with a higher one
    ],
)
def test_iterations_are_counted_by_what_was_made(pictures: list[tuple[int, int]], made: int) -> None:
    """Each size has one picture more than it made iterations, whatever their numbers are."""
    assert loss_table.iterations([Row(*picture, 1.0, 1.0, 0.0, 0.0) for picture in pictures]) == made


@given(
    st.lists(
        st.builds(Row, st.integers(0, 10**6), st.integers(16, 16384), FLOATS, FLOATS, FLOATS, st.just(1.5))
    )
)
def test_the_table_reads_back_to_the_bit(rows: list[Row]) -> None:
    """Every loss survives being written and read, NaN and infinities included."""
    read = list(csv.DictReader(io.StringIO(loss_table.table(rows).decode("ascii"))))

    assert len(read) == len(rows)
    for line, row in zip(read, rows, strict=True):
        assert (int(line["iteration"]), int(line["size_px"])) == (row.iteration, row.size_px)
        for name in ("total", "style", "content"):
            number, expected = float(line[name]), getattr(row, name)
            assert math.isnan(number) if math.isnan(expected) else number.hex() == expected.hex()


def draw(rows: list[Row], title: str = "sunset") -> Image.Image:
    """Draw a curve and decode it."""
    image = Image.open(io.BytesIO(loss_table.curve(rows, title)))
    image.load()
    return image


def test_the_curve_is_a_picture_of_the_losses() -> None:
    """The PNG decodes, and other losses make another picture."""
    image = draw(ROWS)

    assert (image.format, image.size) == ("PNG", (800, 450))
    assert image.tobytes() != draw(ROWS[:2]).tobytes()


@pytest.mark.parametrize(
    "rows",
    [
        [],
        ROWS[:1],
        [Row(0, 64, 0.0, 0.0, 0.0, 0.0)],
        [Row(0, 64, math.nan, 1.0, 0.0, 0.0), Row(1, 64, math.inf, 1.0, -1.0, 0.0)],
        [Row(0, 64, 1e300, 5e-324, 0.0, 0.0)],
    ],
    ids=["none", "one", "all zero", "not finite", "far apart"],
)
def test_any_losses_can_be_drawn(rows: list[Row]) -> None:
    """A finished job never fails for its curve."""
    assert draw(rows).size == (800, 450)


@pytest.mark.parametrize("title", ["", "日本", r"a$b\$c_{$^", "\\udcff\\", "\N{ARTIST PALETTE}", "x" * 255])
def test_any_name_can_be_a_title(title: str) -> None:
    """Neither missing letters nor what looks like a formula stops the drawing."""
    assert draw(ROWS, title).size == (800, 450)
