"""The benchmark's arithmetic and tables are right; its measurements are made by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench as bench_module
import errors
import measures
import numpy as np
import part_beauty
import part_precision
import part_quality
import part_steps
import part_throughput
import part_time_to_loss
import picture_files
import pytest
import sheet
import tables
import tensorflow as tf
from PIL import Image
from processes import NoAnswerError, ask, interleaved
from rich.console import Console
from support.trees import save

from daemon.pictures import resampling


@pytest.fixture
def content(tmp_path: Path) -> np.ndarray:
    """A photo."""
    return _picture(tmp_path, 36, 48, 1)


@pytest.fixture
def style(tmp_path: Path) -> np.ndarray:
    """A painting of another aspect."""
    return _picture(tmp_path, 48, 40, 2)


def _picture(folder: Path, height: int, width: int, seed: int) -> np.ndarray:
    return picture_files.read(save(folder / "made.png", seed, height, width))


def test_a_picture_has_no_error_against_itself(content: np.ndarray, style: np.ndarray) -> None:
    """The content has content error 0 and style errors above it; the style, scaled, has style errors 0."""
    of_content = errors.errors(content, content, style)
    of_style = errors.errors(style, style, style)
    assert of_content.content == 0
    assert min(of_content.optimized, of_content.other) > 0.01
    assert of_style == (0, 0, 0)


def test_references_are_scaled_to_the_picture(tmp_path: Path, content: np.ndarray, style: np.ndarray) -> None:
    """A picture is compared at its own size: the content is scaled to it, the style by its longest side."""
    picture = _picture(tmp_path, 48, 64, 3)
    references = resampling.resize(content, 48, 64), errors.scaled(style, 64)
    assert errors.errors(picture, content, style) == errors.errors(picture, *references)


def test_the_relative_error_is_a_ratio_of_sums_of_squares() -> None:
    """|found - target|² / |target|² by hand."""
    assert errors.relative([1.0, 4.0], [3.0, 4.0]) == pytest.approx(4 / 25)


def test_every_measure_is_best_for_the_picture_that_it_compares_with(
    content: np.ndarray, style: np.ndarray
) -> None:
    """The photo has its own structure and content, the painting its own style; the other picture is worse."""
    layers = {name for *_, some in measures.MEASURES[:8] for name in some}
    photo, painting = (
        errors.features(errors.scaled(each, 64), layers) for each in (content, content[:, ::-1] // 2)
    )
    for name, measure, _, some in measures.MEASURES[:8]:
        assert measure(photo[some[0]], photo[some[0]]) == pytest.approx(0, abs=1e-5), name
        assert measure(painting[some[0]], photo[some[0]]) > 1e-3, name
    same, other = (measures.of_pixels(each, style) for each in (style, style // 2))
    assert list(same.values()) == [1, 1, 0]
    assert other["finest luma, of the painting's"] < 0.6
    assert other["sliced Wasserstein-1, CIELAB"] > 1


def test_neighbors_are_looked_for_in_both_directions() -> None:
    """A result that repeats one feature of the painting is near to it, but leaves the rest of it out."""
    painting = np.random.default_rng(0).standard_normal((1, 4, 4, 8)).astype(np.float32)
    result = np.broadcast_to(painting[:, :1, :1], painting.shape)
    assert measures.nearest(result, painting, axis=1) == pytest.approx(0, abs=1e-5)
    assert measures.nearest(result, painting, axis=0) > 0.5


def test_a_product_with_itself_has_the_gradient_of_any_product() -> None:
    """The shorter gradient equals the one that TensorFlow finds."""
    x, weight = (tf.constant(np.random.default_rng(seed).random((5, side))) for seed, side in ((0, 3), (1, 5)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        losses = [tf.reduce_sum(weight * found) for found in (measures.symmetric(x), x @ tf.transpose(x))]
    short, plain = (tape.gradient(loss, x).numpy() for loss in losses)
    assert short == pytest.approx(plain)


def test_contestants_are_compared_pair_by_pair() -> None:
    """Ratios are medians over pairs, not ratios of medians; faces are counted."""
    found = {
        str(pair): {"a": {"faces": (1, 2), "Gram": base}, "b": {"faces": (2, 2), "Gram": base * ratio}}
        for pair, base, ratio in ((1, 1.0, 2.0), (2, 10.0, 0.5), (3, 100.0, 0.4))
    }
    assert part_beauty.table(found, "").rows == [("faces", "3 of 6", "6 of 6"), ("Gram", 10.0, 0.5)]


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
    """The time before the loop is not counted."""
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
    """None is neither 0 nor an error, and a ratio with it is None."""
    assert tables.median([3.0, None, 1.0]) == 2
    assert tables.median([None]) is None
    assert tables.ratio(6.0, 3.0) == 2
    assert tables.ratio(None, 3.0) is None
    assert tables.ratio(6.0, None) is None


def test_a_table_is_shown_in_markdown_and_written_as_json() -> None:
    """One object makes the table of a document and the rows of the JSON file."""
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
    """The answer is the last line; a failure has the last line of stderr, or says that memory ran out."""
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


def _time_table(theirs: float) -> tables.Table:
    """Make a table for which pastiche's start loss is `theirs` and the product's 8.0."""
    options = SimpleNamespace(quick=True, repeats=1)
    bench: Any = SimpleNamespace(options=options, pairs=[SimpleNamespace(name="a + b")])
    race = part_time_to_loss.Race(bench, {}, 64, target=2.0, start=8.0)
    marks = [(iteration, 8.0 / (1 + iteration), 10.0 + iteration) for iteration in range(8)]
    ours = {"marks": marks, "precision": "bfloat16", "checked": [2.002, 1.9]}
    answers = {
        part_time_to_loss.A: [{"marks": marks}],
        part_time_to_loss.C: [ours],
        part_time_to_loss.D: [{"start_loss": theirs, "marks": [(n, loss, 2 * s) for n, loss, s in marks]}],
    }
    return part_time_to_loss._table(race, answers)


def test_all_are_compared_at_the_target() -> None:
    """The plain loop is extrapolated to 100 steps; the others end at the first loss at the target."""
    plain, ours, peer = _time_table(8.0 * (1 + 1e-5)).rows
    assert plain == (part_time_to_loss.A, "float32", 100, 100.0, None, 1.0, 0.08)
    assert ours == (part_time_to_loss.C, "bfloat16", 3, 4.0, 2.0, 25.0, 2.0)
    assert peer == (part_time_to_loss.D, "float32", 3, 8.0, 2.0, 12.5, 1.0)


def test_a_bfloat16_loss_is_checked_in_float32() -> None:
    """A loss that float32 does not confirm is noted, with the iteration at which it does."""
    assert any("1.0010 of the loss" in note and "after 4 iterations" in note for note in _time_table(8.0).notes)


def test_another_objective_makes_the_peers_row_void() -> None:
    """A start loss that differs by more than 1e-4 gives no seconds and no ratio."""
    table = _time_table(8.0 * (1 + 1.1e-4))
    assert any("VOID" in note for note in table.notes)
    assert table.rows[-1][3] is None
    assert all(row[-1] is None for row in table.rows)


def test_precisions_are_compared_pair_by_pair() -> None:
    """Each preset is painted in both precisions; the difference is relative to float32."""
    best = {("paper", "float32"): 4.0, ("paper", "bfloat16"): 3.98, ("default", "float32"): 1.0}

    def answer(request: dict[str, Any], _log: str) -> dict[str, Any]:
        assert (request["content"], request["style"], request["settings"]["size"]) == ("a.png", "b.png", 64)
        return {"best": best.get((request["settings"]["preset"], request["precision"]), 1.02)}

    pair = bench_module.Pair(Path("a.png"), Path("b.png"))
    bench: Any = SimpleNamespace(options=SimpleNamespace(size=64), pairs=[pair], ask=answer)
    (table,) = part_precision.run(bench)
    assert table.rows == [
        ("a + b", "paper", 4.0, 3.98, "-0.50%"),
        ("a + b", "default", 1.0, 1.02, "+2.00%"),
    ]


def test_gaps_are_from_each_end_to_the_next_start() -> None:
    """Three jobs have two gaps."""
    times = {"started": [0, 10, 20], "completed": [9, 18, 29]}
    batch = {
        name: [{"timestamp": f"2026-01-01T00:00:{second:02}Z"} for second in seconds]
        for name, seconds in times.items()
    }
    assert part_throughput._stamped_gaps(batch) == [1, 2]


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
    assert part_quality.caption("default", [0.0241, 0.0321, 0.69], 29.04) == (
        "default  29.0 s  style 0.024 / 0.032  content 0.69"
    )
