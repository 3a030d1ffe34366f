"""The estimate of a job's memory against what was measured, and the choice of a way that fits."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from support.fakes import INFO

from daemon.engine import memory
from daemon.engine.memory import MARGIN, Work, available_mb, estimate_mb, plan
from daemon.settings import Settings
from daemon.transfer.backend.tile_layout import TILE_SIZES, WHOLE, TileSize

if TYPE_CHECKING:
    from pathlib import Path


def work(height: int, width: int, style: tuple[int, int] | None = None, **changes: Any) -> Work:
    """One scale of a job, by default with Adam, and its painting as large as its photo.

    Keywords are fields of the engine's description of itself, or settings.
    """
    names = {field.name for field in dataclasses.fields(INFO)}
    facts = {"device": "CPU", **{name: value for name, value in changes.items() if name in names}}
    chosen = {name: value for name, value in changes.items() if name not in names}
    settings = Settings.model_validate({"optimizer": "adam", **chosen})
    return Work((height, width), [style or (height, width)], settings, dataclasses.replace(INFO, **facts))


# The peak resident memory of a fresh process, VmHWM in MB of 2^20 bytes, TensorFlow 2.21 on a CPU: whole jobs
# as the engine paints them, and one step by tiles with everything that a job with L-BFGS holds at that time. It
# held the optimizer's state of the step before as well, then: so many pictures more.
MEASURED = [
    (256, 256, "float32", "adam", None, 1019),
    (256, 256, "bfloat16", "lbfgs", None, 972),
    (512, 512, "float32", "lbfgs", None, 1530),
    (512, 512, "bfloat16", "lbfgs", None, 1479),
    (512, 512, "bfloat16", "adam", None, 1303),
    (1024, 1024, "float32", "adam", None, 3111),
    (1024, 1024, "float32", "lbfgs", None, 3406),
    (1024, 1024, "bfloat16", "lbfgs", None, 3429),
    (4096, 3072, "bfloat16", "lbfgs", 768, 5581),
]
HELD_THEN = {"adam": 2, "lbfgs": 5}


@pytest.mark.parametrize(("height", "width", "precision", "optimizer", "core_px", "peak_mb"), MEASURED)
def test_the_estimate_is_near_what_was_measured(
    *, height: int, width: int, precision: str, optimizer: str, core_px: int | None, peak_mb: int
) -> None:
    """Every measured peak is estimated to a tenth, half of what is promised."""
    job = work(height, width, precision=precision, optimizer=optimizer, match_weight=0)
    more_mb = HELD_THEN[optimizer] * 3 * 4 * height * width / (1 << 20)
    assert estimate_mb(job, TileSize(core_px)) + more_mb == pytest.approx(peak_mb, rel=0.1)


@pytest.mark.parametrize(
    ("size_px", "regions", "peak_mb"), [(96, 12, 1048), (384, 4, 1585), (512, 8, 2660), (768, 4, 3452)]
)
def test_regions_are_in_the_estimate(size_px: int, regions: int, peak_mb: int) -> None:
    """What `default` took in float32 with as many regions is estimated, at most a fifth too much."""
    job = work(size_px, size_px, precision="float32", optimizer="lbfgs")._replace(regions=regions)
    assert peak_mb <= estimate_mb(job, WHOLE) <= 1.2 * peak_mb


def test_every_tile_size_takes_no_more_than_the_one_before() -> None:
    """From size to size the estimate never grows, and tiles take far less than the whole of a large picture."""
    for precision in ("float32", "bfloat16"):
        for height, width in ((512, 384), (2048, 2048), (4096, 3072), (700, 9000)):
            large = work(height, width, precision=precision)
            found = [estimate_mb(large, tile_size) for tile_size in TILE_SIZES]
            assert all(one >= other for one, other in itertools.pairwise(found)), found
    large = work(4096, 3072)
    assert estimate_mb(large, TILE_SIZES[-1]) < estimate_mb(large, WHOLE) / 5


def test_pixels_count_and_not_the_shape() -> None:
    """In one piece, pictures of equal area take the same memory, and every pixel more adds to it."""
    assert estimate_mb(work(512, 512), WHOLE) == estimate_mb(work(256, 1024), WHOLE)
    assert estimate_mb(work(512, 528), WHOLE) > estimate_mb(work(512, 512), WHOLE)


def test_the_largest_scale_decides() -> None:
    """Coarse sizes before the final one add nothing, in whatever order they come."""
    final = estimate_mb(work(1024, 768), WHOLE)
    job = [work(128, 96), work(1024, 768), work(512, 384)]
    assert plan(job, 100_000).report.memory_estimate_mb == final


def test_a_large_painting_counts_beside_a_small_photo() -> None:
    """A style picture much larger than the content raises the estimate, by tiles much less."""
    usual, large = work(512, 64), work(512, 64, (2048, 2048))
    assert estimate_mb(large, WHOLE) > 2 * estimate_mb(usual, WHOLE)
    assert estimate_mb(large, TileSize(512)) < estimate_mb(large, WHOLE) / 2


def test_larger_strokes_count() -> None:
    """A style is estimated at its factor of the content's size, by tiles with its own pixels."""
    settings = Settings.model_validate({"size": 512, "scales": "none"})
    usual, large, small = (
        memory.works(settings, (512, 512), [((100, 80), 1.0), ((500, 400), factor)], INFO)[0]
        for factor in (1.0, 4.0, 0.1)
    )
    assert (usual.styles, large.styles[1], small.styles[1]) == ([(512, 410)] * 2, (2048, 1638), (51, 41))
    assert estimate_mb(large, WHOLE) > 2 * estimate_mb(usual, WHOLE) == 2 * estimate_mb(small, WHOLE)
    one, other = (work(512, 64, style, chroma_limit=False) for style in ((8192, 8192), (512, 512)))
    assert estimate_mb(one, TILE_SIZES[-1]) > estimate_mb(other, TILE_SIZES[-1]) + 1000
    moved = one._replace(settings=one.settings.model_copy(update={"preserve_color": "match"}))
    assert estimate_mb(moved, TILE_SIZES[-1]) > estimate_mb(one, TILE_SIZES[-1]) + 1000


def test_the_chroma_limit_counts_a_large_painting() -> None:
    """By tiles a painting far larger than the photo takes its chroma planes, in one piece less than a step."""
    one, other = (work(512, 64, (8192, 8192), chroma_limit=is_on) for is_on in (True, False))
    assert (
        estimate_mb(one, TILE_SIZES[-1]) > estimate_mb(other, TILE_SIZES[-1]) + 1000
    )  # which holds it in float32
    one, other = (work(512, 512, chroma_limit=is_on) for is_on in (True, False))
    assert estimate_mb(one, WHOLE) == estimate_mb(other, WHOLE)


def test_bfloat16_takes_less_than_float32_and_adam_less_than_lbfgs() -> None:
    """Precision and optimizer are in the estimate."""
    assert estimate_mb(work(1024, 1024, precision="bfloat16"), WHOLE) < estimate_mb(work(1024, 1024), WHOLE)
    assert estimate_mb(work(1024, 1024), WHOLE) < estimate_mb(work(1024, 1024, optimizer="lbfgs"), WHOLE)


@pytest.mark.parametrize(("precision", "item_bytes"), [("float32", 4), ("bfloat16", 2)])
def test_rotated_kernels_take_their_room_once_more(precision: str, item_bytes: int) -> None:
    """Where gradients go back by convolutions, the estimate has the kernels of all sixteen twice."""
    channels = (3, 64, 64, 128, 128, *(256,) * 4, *(512,) * 8)
    numbers = sum(9 * below * above for below, above in itertools.pairwise(channels))
    usual = work(512, 384, precision=precision)
    rotated = work(512, 384, precision=precision, backward="convolution")
    more_mb = estimate_mb(rotated, WHOLE) - estimate_mb(usual, WHOLE)
    assert more_mb == round(numbers * item_bytes / (1 << 20))


def test_a_shallow_network_takes_less_than_a_deep_one() -> None:
    """What lies behind the last layer that is asked for is not counted."""
    shallow = work(1024, 1024, content_layers=["block2_conv2"], style_layers=["block1_conv1"], match_weight=0)
    assert estimate_mb(shallow, WHOLE) < 0.9 * estimate_mb(work(1024, 1024), WHOLE)


def test_a_picture_of_twelve_megapixels_fits_six_gigabytes_by_tiles() -> None:
    """With L-BFGS in either precision, tiles are planned for 4096 x 3072 px well under 6000 MB."""
    for precision in ("float32", "bfloat16"):
        large = work(4096, 3072, optimizer="lbfgs", precision=precision)
        (tile_size,), report, _ = plan([large], 6000)
        assert tile_size.core_px is not None
        assert report.memory_estimate_mb == estimate_mb(large, tile_size) <= 5500


def test_the_plan_is_the_first_tile_size_that_fits() -> None:
    """Whatever the limit, each size before the one planned comes too near to it, and that one does not."""
    large = work(4096, 3072, precision="bfloat16")
    estimates = [estimate_mb(large, tile_size) for tile_size in TILE_SIZES]
    limits = [round(1.1 * estimate) + above for estimate in estimates for above in (1, 50)]
    for limit_mb in limits:
        index = TILE_SIZES.index(plan([large], limit_mb).tile_sizes[0])
        assert 1.1 * estimates[index] <= limit_mb
        assert all(1.1 * estimate > limit_mb for estimate in estimates[:index])
    assert len({plan([large], limit_mb).tile_sizes for limit_mb in limits}) > 4


def test_what_fits_nowhere_is_computed_by_what_takes_least() -> None:
    """A limit below every estimate plans the least of them, of equal ones the fastest, and says so."""
    for large in (work(512, 512), work(4096, 3072, optimizer="lbfgs")):
        estimates = [estimate_mb(large, tile_size) for tile_size in TILE_SIZES]
        (tile_size,), report, _ = plan([large], 1)
        assert TILE_SIZES.index(tile_size) == estimates.index(min(estimates))
        assert report.is_smallest
    assert plan([work(48, 64)], 1).tile_sizes == (WHOLE,)


@pytest.mark.parametrize("limit_mb", [None, 100_000, 12_000])
def test_each_attempt_out_of_memory_is_followed_by_a_smaller_one(limit_mb: int | None) -> None:
    """However well the estimate fits, each step down takes less than the one before, until nothing does."""
    job = [work(512, 384), work(2048, 1536)]
    reports, final = [], []
    for smaller in itertools.count():
        tile_sizes, report, _ = plan(job, limit_mb, smaller)
        reports.append(report)
        final.append(estimate_mb(job[-1], tile_sizes[-1]))
        if report.is_smallest:
            break
    assert len(final) > 4
    assert final == sorted(set(final), reverse=True)
    assert final[-1] == min(estimate_mb(job[-1], tile_size) for tile_size in TILE_SIZES)
    assert plan(job, limit_mb, len(final)) == plan(job, limit_mb, len(final) - 1)
    assert reports[0].computed == ("whole" if limit_mb != 12_000 else str(plan(job, 12_000).tile_sizes[-1]))


def test_a_picture_of_one_tile_has_no_smaller_way() -> None:
    """Tiles larger than the picture are no step down: a small picture is planned whole, as the smallest."""
    assert plan([work(64, 96)], None).report.is_smallest
    assert not plan([work(288, 96)], None).report.is_smallest
    assert plan([work(288, 96)], None, smaller=1).report.computed == "tiles of 256 px"


def test_without_a_limit_nothing_is_estimated() -> None:
    """Where nobody tells what memory there is, a job starts in one piece, without estimate or warning."""
    tile_sizes, report, spare_mb = plan([work(4096, 3072)], None)
    assert tile_sizes == (WHOLE,)
    assert (report.memory_estimate_mb, spare_mb) == (None, None)
    assert report.warning == ""


def test_the_memory_of_a_gpu_holds_no_process() -> None:
    """The same work is estimated lower there by the difference of what is held before it."""
    usual, on_gpu = work(512, 384), work(512, 384, device="GPU:0 (fake)")
    assert 400 < estimate_mb(usual, WHOLE) - estimate_mb(on_gpu, WHOLE) < 600


def test_what_the_machine_can_spare_is_available_on_top_of_what_is_held(tmp_path: Path) -> None:
    """Available is what the kernel says the machine can give, plus what the engine has already."""
    (tmp_path / "meminfo").write_text("MemTotal: 24684268 kB\nMemFree: 1 kB\nMemAvailable:   2048000 kB\n")
    assert available_mb(1234, tmp_path) == 2000 + 1234


def test_this_machine_says_what_it_has() -> None:
    """The kernel's own file is understood: more than nothing, less than a petabyte."""
    assert 50 < available_mb(0) < 1 << 30


def test_a_job_is_estimated_at_its_largest_scale_as_planned() -> None:
    """The estimate of a job is that of its largest scale, in one piece or as planned within the limit."""
    settings = Settings.model_validate({"size": 2048})
    job = memory.works(settings, (3000, 4000), [((500, 400), 1.0)], INFO)
    assert [one.size for one in job] == [(s * 3 // 4, s) for s in (128, 256, 512, 1024, 2048)]
    assert plan(job, 100_000).report.memory_estimate_mb == estimate_mb(job[-1], WHOLE) > 4000
    tile_sizes, report, spare_mb = plan(job, 4000)
    planned_mb = [estimate_mb(*scale) for scale in zip(job, tile_sizes, strict=True)]
    assert report.memory_estimate_mb == max(planned_mb) < 4000
    assert spare_mb == 4000 / MARGIN - report.memory_estimate_mb
    assert report.computed == str(tile_sizes[-1])


def test_a_job_that_is_not_safely_within_its_limit_warns() -> None:
    """A plan fits with a tenth to spare, or the warning has both figures."""
    job = [work(96, 128)]
    needed_mb = plan(job, 1).report.memory_estimate_mb
    assert needed_mb is not None
    assert plan(job, round(1.1 * needed_mb) + 1).report.warning == ""
    warning = plan(job, needed_mb).report.warning
    assert warning.startswith(f"memory may run out: {needed_mb} MB estimated, {needed_mb} MB to be had")


def test_rotated_kernels_are_in_the_estimate_of_a_job() -> None:
    """The engine's description of itself reaches the estimate: with rotated kernels it is 76 MB more."""
    settings, found = Settings.model_validate({"size": 64}), []
    for backward in ("gradient", "convolution"):
        info = dataclasses.replace(INFO, backward=backward)
        job = memory.works(settings, (48, 64), [((48, 64), 1.0)], info)
        found.append(plan(job, 100_000).report.memory_estimate_mb)
    assert found[1] - found[0] == 76


def test_tile_sizes_are_named_for_the_record() -> None:
    """The names that the log and result.yaml carry."""
    assert [str(tile_size) for tile_size in TILE_SIZES[:2]] == ["whole", "tiles of 1024 px"]
