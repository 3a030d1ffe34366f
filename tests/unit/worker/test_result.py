"""The files of a result: all of them, in time, and none of another painting."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from support.fakes import FakeEngine, Replaying
from support.trees import captured, named, save

from daemon import lifeline, safe_yaml, sidecar
from daemon.lifeline import Lifeline
from daemon.pictures import contact, encoding, film
from daemon.settings import Output
from daemon.worker import result
from daemon.worker.result import GRACE_S, OutOfTime

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.job import Step

    Make = Callable[..., Any]

FRAMES = {f"frames/{name}" for name in ("0000.png", "0002.png", "0004.png", "animation.webp")}
PAGES = {"report.html", "contact.png", "report/content.jpg", "report/style-1.jpg"}
GRAY = np.full((24, 32, 3), 128, np.uint8)
DEEP = np.full((24, 32, 3), 12345, np.uint16)
EXIF = Image.Exif()
EXIF[271] = "Canon"
EXIF = EXIF.tobytes()


class Seconds:
    """A clock of lifelines that goes on by a step each time it is asked."""

    def __init__(self, step_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self._step_s = 0.0, step_s
        monkeypatch.setattr(lifeline, "time", self)

    def monotonic(self) -> float:
        """Tell the seconds."""
        self.now += self._step_s
        return self.now


def _written(studio: Any, engine: FakeEngine) -> tuple[bytes, dict[str, Any]]:
    """Paint, and write the result."""
    return result.write(studio.claim, studio.paint(engine), Lifeline())


def test_it_leaves_everything_but_the_record(make_studio: Make) -> None:
    """Picture, rows, curve, frames and film lie in out/; result.yaml, which says so, comes after."""
    studio = make_studio(iterations=4, frames={"every": 2})
    document, facts = _written(studio, FakeEngine())
    assert studio.out == {"result.png", "losses.csv", "losses.png", *FRAMES, *PAGES}
    assert not studio.claim.entry.is_stored
    record = safe_yaml.parse(document)
    assert (record["size"], record["result"]["memory"]["estimate_mb"]) == (32, 512)
    assert facts["best_iteration"] == 4
    assert len(studio.rows) == 5


def test_a_failing_page_costs_only_the_page(make_studio: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is written without it and its pictures, and one warning says why."""
    studio = make_studio(iterations=4, frames={"every": 2})
    monkeypatch.setattr(contact, "read", lambda _path: np.zeros(10**16))
    with captured() as records:
        _written(studio, FakeEngine())
    assert studio.out == {"result.png", "losses.csv", "losses.png", *FRAMES}
    assert ["allocate" in record["error"] for record in named(records, "outbox.report_failed")] == [True]


def test_a_photos_alpha_is_in_the_result_and_in_no_frame(make_studio: Make) -> None:
    """result.png is transparent where the photo is; what shows the way is opaque."""
    alpha = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32)

    def change(step: Step) -> Step:
        if step.painting is None:
            return step
        return replace(step, painting=replace(step.painting, picture=np.dstack([step.painting.picture, alpha])))

    studio = make_studio(iterations=4, frames={"every": 2})
    _written(studio, Replaying(change))
    out = studio.claim.entry.out
    with Image.open(out / "result.png") as found, Image.open(out / "frames" / "0004.png") as frame:
        assert np.array_equal(np.asarray(found)[..., 3], alpha)
        assert frame.mode == "RGB"


def test_a_sheet_has_its_sidecars_beside_the_page(make_studio: Make) -> None:
    """sheet.yaml is the text that came with the page; result.yaml asks for the same sheet again."""

    def change(step: Step) -> Step:
        return replace(step, painting=step.painting and replace(step.painting, sheet="# text"))

    studio, engine = make_studio(preset="sheet", frames={"every": 0}, protect="none"), Replaying(change)
    document, facts = _written(studio, engine)
    assert (studio.claim.entry.out / "sheet.yaml").read_text() == "# text"
    assert engine.requests[0].sheet == ("sea.jpg", "sea-style.png")
    assert facts["iterations"] == 6 * 3
    again = sidecar.parse(document, "result.yaml")
    assert (again.faults, again.preset, again.settings) == ((), "sheet", studio.claim.job.settings)


@pytest.mark.parametrize(
    ("output", "picture"), [({"format": "jpeg", "quality": 30}, GRAY), ({"format": "tiff", "bits": 16}, DEEP)]
)
def test_the_picture_carries_what_the_painting_has(
    make_studio: Callable[..., Any], output: dict[str, Any], picture: np.ndarray
) -> None:
    """Profile and EXIF of the photo, the quality asked for, and the bits of the painting."""
    studio = make_studio(output=output)
    painted = studio.paint(FakeEngine())
    painting = replace(painted.painting, picture=picture, exif=EXIF)
    result.write(studio.claim, replace(painted, painting=painting), Lifeline())
    (path,) = studio.claim.entry.out.glob(f"result{encoding.SUFFIXES[output['format']]}")
    assert path.read_bytes() == encoding.encode(picture, Output(**output), EXIF)


def test_the_facts_are_plain_values_in_one_line(make_studio: Make) -> None:
    """Attempt, preset, sizes, losses, times, device and weights, for `job.completed`."""
    _, facts = _written(make_studio(), FakeEngine())
    assert facts.keys() == {
        *("attempt", "preset", "size", "size_px", "height_px", "width_px", "iterations", "best_iteration"),
        *("styles", "faces", "first_loss", "best_loss", "last_loss"),
        *("target_s", "loop_s", "elapsed_s", "gap_s"),
        *("prepared", "device", "precision", "weights_sha256", "computed"),
        *("memory_estimate_mb", "memory_peak_mb"),
    }
    assert (facts["height_px"], facts["width_px"]) == (24, 32)
    assert (facts["first_loss"], facts["best_loss"]) == (3.0, 0.75)


def test_the_time_of_an_iteration_counts_those_that_were_made(make_studio: Make) -> None:
    """Where a size ended early, or steps were replayed, loop_s is divided by the iterations behind it."""

    def change(step: Step) -> Step:
        is_coarse = step.iteration < 2  # two pictures of 16 px, then two of 32 px, whose numbers jump
        painting = step.painting and replace(step.painting, loop_s=6.0)
        number, size_px = (step.iteration, 16) if is_coarse else (step.iteration + 6, 32)
        return replace(step, iteration=number, size_px=size_px, is_replayed=is_coarse, painting=painting)

    document, _ = _written(make_studio(iterations=3), Replaying(change))
    assert safe_yaml.parse(document)["result"]["timings"]["iteration_s"] == 3.0


def test_frames_of_another_painting_are_not_published(make_studio: Make) -> None:
    """A frame that an earlier attempt left, whose number is no step of this painting, is in no film."""
    studio = make_studio(iterations=4, frames={"every": 2})
    frames = studio.claim.entry.out / "frames"

    def stray(step: Step) -> Step:
        frames.mkdir(exist_ok=True)
        save(frames / "0003.png", 1)
        return step

    _written(studio, Replaying(stray))
    assert {path.name for path in frames.glob("*.png")} == {"0000.png", "0002.png", "0004.png"}


def test_the_film_shows_its_frames_in_the_order_of_the_iterations(
    make_studio: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frame 10000 comes after frame 5000, though its name sorts before."""
    shown: list[str] = []
    monkeypatch.setattr(
        film, "animate", lambda frames, _format, _beat: shown.extend(path.stem for path in frames) or b""
    )
    _written(make_studio(iterations=10_000, frames={"every": 5_000}), FakeEngine())
    assert shown == ["0000", "5000", "10000"]


def test_each_piece_and_each_frame_of_the_film_is_a_heartbeat(
    make_studio: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes, heartbeats come while it is written."""
    studio = make_studio(iterations=9, frames={"every": 1})
    painted = studio.paint(FakeEngine())
    clock = Seconds(1.0, monkeypatch)
    result.write(studio.claim, painted, Lifeline())
    assert clock.now >= 2 + 10  # one of each is a beat


@pytest.mark.parametrize("step_s", [GRACE_S / 1000, GRACE_S / 6])
def test_a_stop_leaves_a_while_to_finish(
    step_s: float, make_studio: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to stop, the writing goes on for GRACE_S; what is not begun by then is left."""
    studio = make_studio(iterations=9, frames={"every": 1})
    painted = studio.paint(FakeEngine())
    Seconds(step_s, monkeypatch)
    life = Lifeline()
    life.ask_stop()
    if step_s < GRACE_S / 100:
        result.write(studio.claim, painted, life)
        assert "frames/animation.webp" in studio.out
        return
    with pytest.raises(OutOfTime):
        result.write(studio.claim, painted, life)
    assert "frames/animation.webp" not in studio.out


def test_a_stop_does_not_wait_for_frames_either(make_studio: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that are not written in time are left: eight large ones may take longer than a stop may."""
    studio, encode = make_studio(iterations=6, frames={"every": 1}), encoding.encode
    written: list[object] = []

    def encode_slowly(*args: Any) -> bytes:
        time.sleep(0.3)
        written.append(args)
        return encode(*args)

    monkeypatch.setattr(encoding, "encode", encode_slowly)
    painted = studio.paint(FakeEngine())
    Seconds(2 * GRACE_S, monkeypatch)
    life = Lifeline()
    life.ask_stop()
    with pytest.raises(OutOfTime):
        result.write(studio.claim, painted, life)
    assert len(written) < 7
