"""The estimate of a job's memory against what was measured, and the choice of a way that fits."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from daemon.settings import Settings
from daemon.transfer import memory
from daemon.transfer.memory import LADDER, Rung, Work, available_mb, estimate_mb, plan

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = Rung(None)
FLOAT32 = SimpleNamespace(precision="float32", is_turned=False)
STYLE = tuple(f"block{block}_conv1" for block in range(1, 6))


def work(height: int, width: int, **changes: Any) -> Work:
    """A job with one size, its painting as large as its photo."""
    usual = Work(
        size=(height, width),
        styles=[(height, width)],
        content_layers=["block4_conv2"],
        style_layers=STYLE,
        precision="float32",
        optimizer="adam",
    )
    return dataclasses.replace(usual, **changes)


# The peak resident memory of a fresh process, VmHWM in MB of 2^20 bytes, TensorFlow 2.21 on a CPU: whole jobs
# as the engine paints them, and one step by tiles with everything that a job with L-BFGS holds at that time. It
# held the optimiser's state of the step before as well, then: so many pictures more.
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
    job = work(height, width, precision=precision, optimizer=optimizer)
    more_mb = HELD_THEN[optimizer] * 3 * 4 * height * width / (1 << 20)
    assert estimate_mb(job, Rung(core_px)) + more_mb == pytest.approx(peak_mb, rel=0.1)


def test_every_rung_of_a_job_takes_less_than_the_one_before() -> None:
    """From rung to rung the estimate never grows, and tiles take far less than the whole of a large picture."""
    for precision in ("float32", "bfloat16"):
        for height, width in ((512, 384), (2048, 2048), (4096, 3072), (700, 9000)):
            found = [estimate_mb(work(height, width, precision=precision), rung) for rung in LADDER]
            assert all(one >= other for one, other in itertools.pairwise(found)), found
    large = work(4096, 3072)
    assert estimate_mb(large, LADDER[-1]) < estimate_mb(large, WHOLE) / 5


def test_pixels_count_and_not_the_shape() -> None:
    """In one piece, pictures of equal area take the same memory, and every pixel more adds to it."""
    assert estimate_mb(work(512, 512), WHOLE) == estimate_mb(work(256, 1024), WHOLE)
    assert estimate_mb(work(512, 528), WHOLE) > estimate_mb(work(512, 512), WHOLE)


def test_the_largest_size_of_the_road_decides() -> None:
    """Coarse sizes before the final one add nothing, in whatever order they come."""
    final = estimate_mb(work(1024, 768), WHOLE)
    assert memory.planned_mb([work(128, 96), work(1024, 768), work(512, 384)], None) == final


def test_a_large_painting_counts_beside_a_small_photo() -> None:
    """A style picture much larger than the content raises the estimate, by tiles much less."""
    usual, large = work(512, 64), work(512, 64, styles=[(2048, 2048)])
    assert estimate_mb(large, WHOLE) > 2 * estimate_mb(usual, WHOLE)
    assert estimate_mb(large, Rung(512)) < estimate_mb(large, WHOLE) / 2


def test_bfloat16_takes_less_than_float32_and_adam_less_than_lbfgs() -> None:
    """Precision and optimiser are in the estimate."""
    assert estimate_mb(work(1024, 1024, precision="bfloat16"), WHOLE) < estimate_mb(work(1024, 1024), WHOLE)
    assert estimate_mb(work(1024, 1024), WHOLE) < estimate_mb(work(1024, 1024, optimizer="lbfgs"), WHOLE)


@pytest.mark.parametrize(("precision", "item_bytes"), [("float32", 4), ("bfloat16", 2)])
def test_kernels_that_are_turned_take_their_room_once_more(precision: str, item_bytes: int) -> None:
    """Where gradients go back by convolutions, the estimate has the kernels of all sixteen twice."""
    channels = (3, 64, 64, 128, 128, *(256,) * 4, *(512,) * 8)
    numbers = sum(9 * below * above for below, above in itertools.pairwise(channels))
    usual = work(512, 384, precision=precision)
    more_mb = estimate_mb(dataclasses.replace(usual, is_turned=True), WHOLE) - estimate_mb(usual, WHOLE)
    assert more_mb == round(numbers * item_bytes / (1 << 20))


def test_a_shallow_network_takes_less_than_a_deep_one() -> None:
    """What lies behind the last layer that is asked for is not counted."""
    shallow = work(1024, 1024, content_layers=["block2_conv2"], style_layers=["block1_conv1"])
    assert estimate_mb(shallow, WHOLE) < 0.9 * estimate_mb(work(1024, 1024), WHOLE)


def test_a_picture_of_twelve_megapixels_fits_six_gigabytes_by_tiles() -> None:
    """With L-BFGS in either precision, a rung by tiles is planned for 4096 x 3072 px well under 6000 MB."""
    for precision in ("float32", "bfloat16"):
        large = work(4096, 3072, optimizer="lbfgs", precision=precision)
        rung = plan(large, 6000)
        assert rung.core_px is not None
        assert estimate_mb(large, rung) <= 5500


def test_the_plan_is_the_first_rung_that_fits() -> None:
    """Whatever the limit, each rung before the one planned comes too near to it, and that one does not."""
    large = work(4096, 3072, precision="bfloat16")
    estimates = [estimate_mb(large, rung) for rung in LADDER]
    limits = [round(1.1 * estimate) + above for estimate in estimates for above in (1, 50)]
    for limit_mb in limits:
        index = LADDER.index(plan(large, limit_mb))
        assert 1.1 * estimates[index] <= limit_mb
        assert all(1.1 * estimate > limit_mb for estimate in estimates[:index])
    assert len({plan(large, limit_mb) for limit_mb in limits}) > 4


def test_what_fits_nowhere_gets_the_rung_that_takes_least() -> None:
    """A limit below every estimate plans the least of them, and of equal ones the fastest."""
    for large in (work(512, 512), work(4096, 3072, optimizer="lbfgs")):
        estimates = [estimate_mb(large, rung) for rung in LADDER]
        assert LADDER.index(plan(large, 1)) == estimates.index(min(estimates))
    assert plan(work(48, 64), 1) == WHOLE


def test_what_the_machine_can_spare_is_available_on_top_of_what_is_held(tmp_path: Path) -> None:
    """Available is what the kernel says the machine can give, plus what the engine has already."""
    (tmp_path / "meminfo").write_text("MemTotal: 24684268 kB\nMemFree: 1 kB\nMemAvailable:   2048000 kB\n")
    assert available_mb(1234, tmp_path) == 2000 + 1234


def test_this_machine_says_what_it_has() -> None:
    """The kernel's own file is understood: more than nothing, less than a petabyte."""
    assert 50 < available_mb(0) < 1 << 30


def test_a_job_is_estimated_at_its_largest_size_as_planned() -> None:
    """The estimate of a road is its final size's: in one piece, or as the plan within the limit has it."""
    settings = Settings.model_validate({"size": 2048})
    road = memory.works(settings, (3000, 4000), [(500, 400)], FLOAT32)
    assert [one.size for one in road] == [(s * 3 // 4, s) for s in (128, 256, 512, 1024, 2048)]
    whole = estimate_mb(road[-1], WHOLE)
    assert memory.planned_mb(road, None) == memory.planned_mb(road, 100_000) == whole
    assert memory.planned_mb(road, 4000) == estimate_mb(road[-1], plan(road[-1], 4000)) < 4000 < whole


def test_a_job_that_is_not_safely_within_its_limit_says_so() -> None:
    """A plan fits with a tenth to spare, or the shortage is told with both figures; never without a limit."""
    needed_mb = memory.planned_mb([work(96, 128)], 1)
    assert memory.shortage(needed_mb, None) == ""
    assert memory.shortage(needed_mb, round(1.1 * needed_mb) + 1) == ""
    told = memory.shortage(needed_mb, needed_mb)
    assert told.startswith(f"memory may run out: {needed_mb} MB estimated, {needed_mb} MB to be had")


def test_rungs_are_named_for_the_record() -> None:
    """The names that the log and result.yaml carry."""
    assert [str(rung) for rung in LADDER[:2]] == ["whole", "tiles of 1024 px"]
