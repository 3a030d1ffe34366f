"""The benchmark's measures and tables; what it measures is measured by hand."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import errors
import numpy as np
import part_beauty
import part_night
import part_precision
import part_road
import part_steps
import pytest
import sheet
import tables
from PIL import Image
from processes import NoAnswerError, ask, interleaved
from rich.console import Console

from daemon import images

if TYPE_CHECKING:
    from pathlib import Path


def _picture(height: int, width: int, seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def content() -> np.ndarray:
    """A photo."""
    return _picture(36, 48, 1)


@pytest.fixture
def style() -> np.ndarray:
    """A painting of another aspect."""
    return _picture(48, 40, 2)


def test_a_picture_has_no_error_against_itself(content: np.ndarray, style: np.ndarray) -> None:
    """The content has content error 0 and style errors above it; the style, scaled, has style errors 0."""
    of_content = errors.errors(content, content, style)
    of_style = errors.errors(style, style, style)
    assert of_content.content == 0
    assert min(of_content.optimised, of_content.other) > 0.01
    assert of_style == (0, 0, 0)


def test_the_three_errors_are_those_of_the_single_measures(content: np.ndarray, style: np.ndarray) -> None:
    """`errors` gives what `style_error` over each set of layers and `content_error` give."""
    picture = _picture(36, 48, 3)
    found = errors.errors(picture, content, style)
    assert found.optimised == pytest.approx(errors.style_error(picture, style, errors.OPTIMISED), rel=1e-5)
    assert found.other == pytest.approx(errors.style_error(picture, style, errors.OTHER), rel=1e-5)
    assert found.content == pytest.approx(errors.content_error(picture, content), rel=1e-5)


def test_references_are_scaled_to_the_picture(content: np.ndarray, style: np.ndarray) -> None:
    """A picture is compared at its own size: the content is scaled to it, the style by its longest side."""
    picture = _picture(48, 64, 3)
    references = images.resize(content, 48, 64), errors.scaled(style, 64)
    assert errors.errors(picture, content, style) == errors.errors(picture, *references)


def test_the_relative_error_is_a_ratio_of_sums_of_squares() -> None:
    """|found - target|² / |target|² by hand."""
    assert errors.relative([1.0, 4.0], [3.0, 4.0]) == pytest.approx(4 / 25)


def test_the_gram_matrix_is_a_mean_over_positions() -> None:
    """Each entry is the mean product of two channels."""
    features = np.random.default_rng(0).random((1, 3, 4, 2)).astype(np.float32)
    expected = [[np.mean(features[..., i] * features[..., j]) for j in range(2)] for i in range(2)]
    assert errors.gram_matrix(features) == pytest.approx(np.array(expected))


def test_the_flop_of_a_forward_run_are_those_known() -> None:
    """A 512 x 384 picture costs 146 GFLOP to block5_conv2, as counted apart from this code."""
    assert part_steps.forward_flop(384, 512, "block5_conv2") == pytest.approx(145.6e9, rel=1e-3)
    assert part_steps.forward_flop(10, 10, "block1_conv1") == 2 * 9 * 3 * 64 * 100


def test_whole_runs_are_interleaved() -> None:
    """A B A B, never A A B B, and each run's answers are kept in their order."""
    order: list[str] = []
    runs: dict[str, Any] = {name: lambda n=name: order.append(n) or len(order) for name in "AB"}
    assert interleaved(runs, 2) == {"A": [1, 3], "B": [2, 4]}
    assert order == ["A", "B", "A", "B"]


def test_the_loop_begins_one_common_step_before_its_first_loss() -> None:
    """What comes before the loop is not counted, however long it took."""
    marks = [(0, 9.0, 50.0), (1, 5.0, 52.0), (2, 3.0, 54.0), (3, 2.0, 56.0)]
    assert tables.first_at(marks, 3.0) == 2
    assert tables.first_at(marks, 1.0) is None
    assert tables.loop_s(marks, 2) == 6


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (7, "7"),
        ("x", "x"),
        (0.0, "0"),
        (0.02434, "0.0243"),
        (1.0, "1.00"),
        (29.04, "29.0"),
        (246.4, "246"),
        (1.927e7, "1.927e+07"),
        (float("nan"), "nan"),
    ],
)
def test_figures_are_short(value: Any, shown: str) -> None:
    """Three significant digits, no exponent where none is needed, a dash for what was not measured."""
    assert tables.figure(value) == shown


def test_a_median_leaves_out_what_was_not_measured() -> None:
    """None is neither 0 nor an error, and a ratio with it is not known."""
    assert tables.middle([3.0, None, 1.0]) == 2
    assert tables.middle([None]) is None
    assert tables.ratio(6.0, 3.0) == 2
    assert tables.ratio(None, 3.0) is None
    assert tables.ratio(6.0, None) is None


def test_a_table_is_shown_in_markdown_and_written_as_json() -> None:
    """The rows of a README's table and of the JSON file come from one object."""
    table = tables.Table("A table", ("name", "seconds"), [("a", 1.5), ("b", None)], ["a note"], {"b": [1]})
    text = io.StringIO()
    table.show(Console(file=text, width=60))
    assert [line.strip() for line in text.getvalue().splitlines() if "|" in line] == [
        "| name | seconds |",
        "|------|---------|",
        "| a    | 1.50    |",
        "| b    | -       |",
    ]
    assert "- a note" in text.getvalue()
    document = json.loads(json.dumps(table.as_json()))
    assert document["rows"] == [{"name": "a", "seconds": 1.5}, {"name": "b", "seconds": None}]
    assert document["raw"] == {"b": [1]}


def test_a_contestant_answers_or_says_why_not(tmp_path: Path) -> None:
    """The answer is the last line; a failure carries the last words; what passes the memory limit is ended."""
    program = tmp_path / "program.py"
    log = tmp_path / "log"
    program.write_text(
        "import json, sys\nprint('noise')\nprint(json.dumps({'got': json.load(sys.stdin)['kind']}))"
    )
    assert ask({"kind": "x"}, log, program=str(program)) == {"got": "x"}
    assert ask({"kind": "x"}, log, program=str(program), limit_mb=1e6) == {"got": "x"}
    program.write_text("raise SystemExit('out of paint')")
    with pytest.raises(NoAnswerError, match="out of paint"):
        ask({"kind": "x"}, log, program=str(program))
    program.write_text("import time\nkept = bytearray(50_000_000)\ntime.sleep(60)")
    with pytest.raises(NoAnswerError, match=r"more than 0\.0 GB"):
        ask({"kind": "x"}, log, program=str(program), limit_mb=30)


def _road_table(theirs: float) -> tables.Table:
    """Make the table of a road on which the peer's start loss was `theirs` and ours 8.0."""
    options = SimpleNamespace(quick=True, repeats=1)
    bench: Any = SimpleNamespace(options=options, pairs=[SimpleNamespace(name="a + b")])
    road = part_road.Road(bench, {}, 64, target=2.0, start=8.0)
    marks = [(iteration, 8.0 / (1 + iteration), 10.0 + iteration) for iteration in range(8)]
    ours = {"marks": marks, "precision": "bfloat16", "judged": [2.002, 1.9]}
    answers = {
        part_road.A: [{"marks": marks}],
        part_road.C: [ours],
        part_road.D: [{"start_loss": theirs, "marks": [(n, loss, 2 * s) for n, loss, s in marks]}],
    }
    return part_road._table(road, answers)


def test_the_roads_are_compared_at_the_target() -> None:
    """The plain loop is extrapolated to 100 steps; the others end with the first loss at the target."""
    plain, ours, peer = _road_table(8.0 * (1 + 1e-5)).rows
    assert plain == (part_road.A, "float32", 100, 100.0, None, 1.0, 0.08)
    assert ours == (part_road.C, "bfloat16", 3, 4.0, 2.0, 25.0, 2.0)
    assert peer == (part_road.D, "float32", 3, 8.0, 2.0, 12.5, 1.0)


def test_what_the_judge_says_of_a_bfloat16_loss_is_told() -> None:
    """A loss that float32 does not confirm is told, with the iteration at which it does."""
    assert any("1.0010 of the loss" in note and "after 4 iterations" in note for note in _road_table(8.0).notes)


def test_another_objective_makes_the_peers_row_void() -> None:
    """A start loss that differs by more than 1e-4 gives no seconds and no ratio."""
    table = _road_table(8.0 * (1 + 1.1e-4))
    assert any("VOID" in note for note in table.notes)
    assert table.rows[-1][3] is None
    assert all(row[-1] is None for row in table.rows)


def test_precisions_are_compared_pair_by_pair() -> None:
    """Each preset is painted in both precisions, and the difference is bfloat16's, as a share of float32's."""
    best = {("paper", "float32"): 4.0, ("paper", "bfloat16"): 3.98, ("default", "float32"): 1.0}

    def answer(request: dict[str, Any], _log: str) -> dict[str, Any]:
        assert (request["content"], request["style"], request["settings"]["size"]) == ("a.png", "b.png", 64)
        return {"best": best.get((request["settings"]["preset"], request["precision"]), 1.02)}

    pair = SimpleNamespace(name="a + b", content="a.png", style="b.png")
    bench: Any = SimpleNamespace(options=SimpleNamespace(size=64), pairs=[pair], ask=answer)
    (table,) = part_precision.run(bench)
    assert table.rows == [
        ("a + b", "paper", 4.0, 3.98, "-0.50%"),
        ("a + b", "default", 1.0, 1.02, "+2.00%"),
    ]


def test_gaps_are_from_each_end_to_the_next_start() -> None:
    """Three jobs have two gaps."""
    times = {"started": [0, 10, 20], "completed": [9, 18, 29]}
    night = {
        name: [{"timestamp": f"2026-01-01T00:00:{second:02}Z"} for second in seconds]
        for name, seconds in times.items()
    }
    assert part_night._stamped_gaps(night) == [1, 2]


def test_the_sheet_shows_a_row_a_pair(tmp_path: Path, content: np.ndarray, style: np.ndarray) -> None:
    """Every picture lies in its own cell, scaled into it."""
    for name, picture in (("content", content), ("style", style)):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    row = [(tmp_path / "content.png", "a photo"), (tmp_path / "style.png", "a painting")]
    sheet.write(tmp_path / "sheet.png", [row, row])
    with Image.open(tmp_path / "sheet.png") as image:
        found = np.asarray(image)
    cell, gap = sheet.CELL_PX, sheet.GAP_PX
    assert found.shape[1] == 2 * (cell + gap) + gap
    middle = found[gap + 384 // 2, gap + cell // 2].astype(int)
    assert np.abs(middle - content[18, 24]).max() < 16
    assert (found[gap + 384 + 1, gap + 4] == 255).all()


def test_captions_name_the_picture_its_seconds_and_its_errors() -> None:
    """A caption is one line."""
    assert part_beauty.caption("default", [0.0241, 0.0321, 0.69], 29.04) == (
        "default  29.0 s  style 0.024 / 0.032  content 0.69"
    )
