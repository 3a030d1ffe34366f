"""The engine in this process: what it loads, reads, yields and reports of itself.

It loads the narrow network, except where its own weights are the point.
"""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from PIL.ExifTags import Base
from support.fakes import AskedLife, steps_of
from support.narrow_vgg import narrow_engine, narrow_weights
from support.trees import save, wait_for

from daemon.engine import local
from daemon.engine.local import LocalEngine
from daemon.engine.session import Painter
from daemon.errors import EngineError, JobError, NotReady, Reason
from daemon.job import Request, Style
from daemon.presets import PRESETS
from daemon.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.config import Config
    from daemon.job import Step

    Ask = Callable[..., Request]
    Make = Callable[..., Config]
    Reads = list[tuple[str, str]]


@pytest.fixture
def request_for(tmp_path: Path) -> Ask:
    """Make a request for two small pictures; keywords are settings."""
    content, style = save(tmp_path / "content.png", 1), save(tmp_path / "style.png", 2, 32, 28)

    def make(**settings: Any) -> Request:
        chosen = Settings.model_validate({"size": 32, "iterations": 2, **settings})
        return Request(content, (Style(style),), None, chosen)

    return make


@pytest.fixture
def fresh(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> LocalEngine:
    """An engine on the CPU that has loaded nothing yet."""
    monkeypatch.setattr(local.weights, "load", lambda _source: narrow_weights())
    return LocalEngine(make_config(engine={"device": "cpu", "precision": "float32"}))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    """A loaded engine."""
    return narrow_engine(tmp_path_factory.mktemp("engine"))


def test_masks_are_read_with_their_pictures(engine: LocalEngine, request_for: Ask, tmp_path: Path) -> None:
    """A painting's inner transparency is a mask; together with its style mask, the darker of both counts."""
    pixels = np.zeros((20, 40, 4), np.uint8)
    pixels[:, :, 3] = [[0] * 10 + [255] * 10 + [0] * 10 + [255] * 10]
    holes, left = tmp_path / "holes.png", tmp_path / "left.png"
    Image.fromarray(pixels).save(holes)
    Image.fromarray(np.repeat(255 * (np.arange(40) < 20)[None], 20, axis=0).astype(np.uint8)).save(left)
    styles = [Style(holes), Style(holes, mask=left, region=left)]
    hole, both = engine.make_ready(replace(request_for(), styles=styles)).subject.styles
    assert np.array_equal(hole.mask, pixels[:, 10:, 3])  # what is transparent on a side is cut off
    assert hole.image.shape[:2] == (20, 30)
    assert both.image.shape[:2] == both.mask.shape == (20, 40)
    assert (both.mask[:, 12:18].min(), both.mask[:, :8].max(), both.mask[:, 22:].max()) == (255, 0, 0)
    assert (both.region[:, :12].min(), both.region[:, 20:].max()) == (255, 0)


def test_start_reports_what_was_loaded(make_config: Make) -> None:
    """Device, precision, weights, versions and the time it took are reported, as the config asks for them."""
    info = LocalEngine(make_config(engine={"device": "cpu", "precision": "float32"})).start()
    assert info.device.startswith("CPU")
    assert (info.precision, info.weights_source) == ("float32", "bundled")
    assert len(info.weights_sha256) == 64
    assert info.load_s > 0
    assert info.versions["tensorflow"] == tf.__version__


def test_a_painting_carries_what_it_was_made_of(
    engine: LocalEngine, request_for: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content and style come with it as they were decoded, no larger than a page shows them."""
    monkeypatch.setattr(local.resampling, "SHOWN_PX", 30)
    *_, last = steps_of(engine, request_for())
    assert [picture.shape for picture in last.painting.inputs] == [(22, 30, 3), (30, 26, 3)]


def test_the_model_is_loaded_once_and_again_after_stop(
    fresh: LocalEngine, request_for: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two starts and two pictures load the weights once; a stopped engine loads them again when needed."""
    loads: list[str] = []
    monkeypatch.setattr(local.weights, "load", lambda source: loads.append(source) or narrow_weights())
    assert fresh.start() is fresh.start()
    for _ in range(2):
        assert list(steps_of(fresh, request_for()))[-1].painting is not None
    assert loads == ["bundled"]
    fresh.stop()
    assert list(steps_of(fresh, request_for(iterations=1)))[-1].painting is not None
    assert loads == ["bundled"] * 2


def test_a_limit_that_leaves_no_room_beside_the_model_is_not_ready(make_config: Make) -> None:
    """Refused at the start, with both figures; else every job would fail for it."""
    with pytest.raises(NotReady) as caught:
        LocalEngine(make_config(engine={"device": "cpu", "memory_limit_mb": 100})).start()
    said = r"engine\.memory_limit_mb is 100, and the engine holds about (\d+)00 MB before it paints"
    assert 1 < int(re.fullmatch(said, str(caught.value))[1]) < 100


@pytest.mark.nightly
def test_precision_of_the_config_reaches_the_network(make_config: Make, request_for: Ask) -> None:
    """In bfloat16 the same picture has nearly the loss of float32, and not exactly."""
    totals = []
    for precision in ("float32", "bfloat16"):
        engine = LocalEngine(make_config(engine={"device": "cpu", "precision": precision}))
        assert engine.start().precision == precision
        totals.append(next(steps_of(engine, request_for())).losses.total)
    assert totals[0] != totals[1]
    assert totals[0] == pytest.approx(totals[1], rel=0.05)


def test_steps_end_early_once_it_is_stopping(engine: LocalEngine, request_for: Ask) -> None:
    """Asked to stop after the second step, it takes no third one and gives no painting."""
    answers = iter([False, True])
    steps = list(steps_of(engine, request_for(iterations=50), AskedLife(lambda: next(answers))))
    assert [step.iteration for step in steps] == [0, 1]
    assert all(step.painting is None for step in steps)


def test_files_are_read_in_their_roles(engine: LocalEngine, tmp_path: Path) -> None:
    """Content, every style with its weight, and the start picture come from the request's files."""
    content, start = save(tmp_path / "content.png", 1), save(tmp_path / "start.png", 9)
    styles = Style(save(tmp_path / "one.png", 2), 3.0), Style(save(tmp_path / "two.png", 3), 0.0)
    keys = {"size": 32, "iterations": 1, "init": "start.png", "frames": {"every": 1}}
    settings = Settings.model_validate(keys)
    mixed = list(steps_of(engine, Request(content, styles, start, settings)))
    alone = list(steps_of(engine, Request(content, styles[:1], start, settings)))
    other = list(steps_of(engine, Request(content, (Style(styles[1][0]),), start, settings)))
    assert np.array_equal(mixed[0].picture, np.asarray(Image.open(start)))
    assert [step.losses for step in mixed] == [step.losses for step in alone]
    assert mixed[0].losses != other[0].losses


@pytest.mark.parametrize(
    "settings", [{}, {"background": "#00ff00"}, {"alpha": "flatten"}, {"output": {"format": "jpeg"}}]
)
def test_transparency_is_painted_on_a_background_and_kept(
    engine: LocalEngine, request_for: Ask, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """The start shows the mean color, or the one asked for; the painting has the alpha channel at its size."""
    half = Image.new("RGBA", (80, 60), (0, 0, 200, 0))
    half.paste((200, 40, 0, 255), (0, 0, 40, 60))
    half.save(tmp_path / "half.png")
    request = request_for(size=40, init_colors="content", frames={"every": 1}, **settings)

    first, *_, last = steps_of(engine, replace(request, content=tmp_path / "half.png"))

    ground, alpha = (0, 255, 0) if "background" in settings else (200, 40, 0), last.painting.picture[..., 3:]
    assert np.abs(first.picture[15, 35].astype(int) - ground).max() <= 1
    assert alpha.shape == (30, 40, 0 if settings.keys() & {"alpha", "output"} else 1)
    assert alpha.size == 0 or (alpha[:, :16].min(), alpha[:, 24:].max()) == (255, 0)


def test_a_painting_of_sixteen_bits_is_not_rounded_before(
    engine: LocalEngine, request_for: Callable[..., Request]
) -> None:
    """It rounds to the one of 8 bits, and has values between its gray levels, whatever the last step is."""
    for preset in ("paper", "default"):
        keys = {**PRESETS[preset], "iterations": 2}
        plain, deep = (
            list(steps_of(engine, request_for(**keys, output={"bits": bits})))[-1].painting.picture
            for bits in (8, 16)
        )
        assert (plain.dtype, deep.dtype) == (np.uint8, np.uint16)
        assert np.abs(np.rint(deep / 257) - plain).max() <= (0 if preset == "paper" else 1)
        assert len(np.unique(deep % 257)) > 200


@pytest.mark.parametrize(("metadata", "make"), [("none", None), ("safe", "Canon"), ("all", "Canon")])
def test_a_painting_has_the_exif_that_its_result_may_carry(
    engine: LocalEngine, request_for: Callable[..., Request], metadata: str, make: str | None
) -> None:
    """It comes from the photo, as the settings say."""
    request, exif = request_for(output={"metadata": metadata}), Image.Exif()
    exif[Base.Make] = "Canon"
    Image.open(request.content).save(request.content, exif=exif)
    found = Image.Exif()
    found.load(list(steps_of(engine, request))[-1].painting.exif)
    assert found.get(Base.Make) == make


def test_a_picture_above_the_limit_is_refused(make_config: Make, request_for: Ask) -> None:
    """A picture of more megapixels than inbox.max_megapixels fails the job before it is decoded."""
    engine = LocalEngine(make_config(engine={"device": "cpu"}, inbox={"max_megapixels": 0.0005}))
    with pytest.raises(JobError) as caught:
        list(steps_of(engine, request_for()))
    assert caught.value.failure.reason is Reason.PICTURE_TOO_LARGE


def test_missing_weights_are_not_ready(make_config: Make) -> None:
    """A weights file that is not there keeps the engine from starting, by name."""
    with pytest.raises(NotReady, match=r"none\.h5"):
        LocalEngine(make_config(engine={"device": "cpu", "weights": "none.h5"})).start()


@pytest.mark.parametrize("error", [tf.errors.ResourceExhaustedError(None, None, "OOM"), MemoryError("no room")])
def test_memory_that_runs_out_under_a_job_is_an_engine_error(
    engine: LocalEngine, request_for: Ask, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Memory that runs out in the middle of a picture, in TensorFlow or Python, has its own reason."""

    def runs_out(*_args: object, **_options: object) -> None:
        raise error

    engine.start()
    monkeypatch.setattr(Painter, "begin", runs_out)
    with pytest.raises(EngineError) as caught:
        list(steps_of(engine, request_for()))
    assert caught.value.reason is Reason.OUT_OF_MEMORY


def test_nothing_is_computed_before_the_device_is_set_up(
    fresh: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TF32 is off, and the device chosen, before the network makes the first tensor."""
    done: list[Any] = []
    visible, network = tf.config.set_visible_devices, local.Vgg19
    monkeypatch.setattr(tf.config.experimental, "enable_tensor_float_32_execution", done.append)
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *more: (done.append("device"), visible(*more)))
    monkeypatch.setattr(local, "Vgg19", lambda *more: (done.append("network"), network(*more))[1])
    fresh.start()
    assert done == [False, "device", "network"]


def test_what_is_transparent_around_a_painting_does_not_count(engine: LocalEngine, request_for: Ask) -> None:
    """A painting within a transparent margin has the losses of the painting alone."""
    request = request_for(size=64)
    expected = list(steps_of(engine, request))
    path = request.styles[0][0]
    with Image.open(path) as painting:
        wide = Image.new("RGBA", (painting.width + 40, painting.height + 20))
        wide.paste(painting, (30, 0))
    wide.save(path)
    assert _numbers(list(steps_of(engine, request))) == _numbers(expected)


# Prefetched


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Every decoding: which file, in which thread."""
    found: list[tuple[str, str]] = []
    decode = local.decoding.decode

    def counted(path: Path, *args: Any) -> Any:
        found.append((path.name, threading.current_thread().name))
        return decode(path, *args)

    monkeypatch.setattr(local.decoding, "decode", counted)
    return found


def _numbers(steps: list[Step]) -> list[Any]:
    return [step.losses for step in steps]


def test_a_right_guess_gives_the_same_picture_without_decoding_again(
    engine: LocalEngine, request_for: Ask, reads: Reads
) -> None:
    """A prefetched picture is painted to the bit as without, and no file is read twice."""
    request = request_for(size=64, iterations=3)
    expected = list(steps_of(engine, request))
    assert {thread for _, thread in reads} == {"MainThread"}
    others = steps_of(engine, request_for(size=48, iterations=2))
    next(others)
    reads.clear()
    engine.prepare(request)
    assert len(list(others)) == 2
    found = list(steps_of(engine, request))
    assert reads == [("content.png", "prefetch_0"), ("style.png", "prefetch_0")]
    assert _numbers(found) == _numbers(expected)
    assert np.array_equal(found[-1].painting.picture, expected[-1].painting.picture)


def test_a_job_that_moved_since_it_was_prepared_is_the_same(
    engine: LocalEngine, request_for: Ask, reads: Reads, tmp_path: Path
) -> None:
    """A job lies elsewhere when it is painted than when it was announced; it is identified by its files."""
    hinted = request_for()
    engine.start()
    engine.prepare(hinted)
    wait_for(lambda: len(reads) == 2, "the preparation")
    moved = tmp_path / "running"
    moved.mkdir()
    paths = [path.rename(moved / path.name) for path in (hinted.content, hinted.styles[0][0])]
    reads.clear()
    request = Request(paths[0], (Style(paths[1]),), None, hinted.settings, moved / "ckpt", frozenset({7}))
    assert list(steps_of(engine, request))[-1].painting is not None
    assert reads == []


@pytest.mark.parametrize("change", ["settings", "content", "weight", "scale"])
def test_a_wrong_guess_costs_nothing(
    engine: LocalEngine, request_for: Ask, tmp_path: Path, change: str
) -> None:
    """Targets of another job are not taken: losses are to the bit those of the job itself."""
    request = request_for(size=64)
    other = {
        "settings": replace(request, settings=request.settings.model_copy(update={"pooling": "avg"})),
        "content": replace(request, content=save(tmp_path / "other.png", 7)),
        "weight": replace(request, styles=(request.styles[0], Style(save(tmp_path / "third.png", 8)))),
        "scale": replace(request, styles=[request.styles[0]._replace(scale=0.5)]),
    }[change]
    expected = list(steps_of(engine, request))
    engine.prepare(other)
    found = list(steps_of(engine, request))
    assert _numbers(found) == _numbers(expected)
    assert _numbers(list(steps_of(engine, other))) != _numbers(expected)


def test_an_error_of_the_prefetch_is_raised_by_the_painting(
    engine: LocalEngine, request_for: Ask, tmp_path: Path
) -> None:
    """A broken picture is no error of the hint; painting it raises, and the next one is painted."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"this is no picture")
    request = replace(request_for(), content=broken)
    engine.start()
    engine.prepare(request)
    with pytest.raises(JobError, match="not a readable picture"):
        list(steps_of(engine, request))
    assert list(steps_of(engine, request_for()))[-1].painting is not None


def test_huge_pictures_are_not_decoded_ahead(
    engine: LocalEngine, request_for: Ask, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would take memory from the running picture; they are painted all the same."""
    monkeypatch.setattr(local, "_PREPARED_MEGAPIXELS", 0.0001)
    engine.start()
    engine.prepare(request_for())
    assert list(steps_of(engine, request_for()))[-1].painting is not None
    assert [thread for _, thread in reads] == ["prefetch_0", "MainThread", "MainThread"]


def test_a_hint_to_an_engine_that_is_not_started_is_passed_over(
    fresh: LocalEngine, request_for: Ask, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is loaded for the sake of a hint."""
    monkeypatch.setattr(local.weights, "load", lambda _source: pytest.fail("loaded"))
    fresh.prepare(request_for())
    assert reads == []
