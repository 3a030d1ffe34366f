"""The paper's preset against an independent implementation (`reference.py`), loss by loss."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import reference
from PIL import Image
from skimage import data

from daemon import sidecar
from daemon.job import Style
from daemon.presets import PRESETS
from daemon.settings import Settings
from daemon.transfer.scales import Subject

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras

    from daemon.engine.session import Painter
    from daemon.job import Step

EVERY = 0.01
FIRST = 0.001


def paper_steps(
    real_painter: Painter, content: np.ndarray, style: np.ndarray, size: int, iterations: int
) -> list[Step]:
    """Paint with the preset `paper`."""
    settings = Settings.model_validate({**PRESETS["paper"], "size": size, "iterations": iterations})
    return list(real_painter.begin(Subject(content, [Style(style)], settings)).steps())


def assert_agree(steps: list[Step], rows: Sequence[Sequence[float]]) -> None:
    """Every iteration's three losses agree within 1 %, the first total within 0.1 %."""
    assert [step.iteration for step in steps] == list(range(len(rows)))
    assert steps[0].losses.total == pytest.approx(rows[0][0], rel=FIRST)
    for step, (total, style, content) in zip(steps, rows, strict=True):
        assert step.losses.total == pytest.approx(total, rel=EVERY), step.iteration
        assert step.losses.style == pytest.approx(style, rel=EVERY), step.iteration
        assert step.losses.content == pytest.approx(content, rel=EVERY, abs=1e-6 * total), step.iteration


@pytest.mark.nightly
@pytest.mark.parametrize("names", [("coffee", "chelsea"), ("chelsea", "coffee")])
def test_paper_run_agrees_with_an_independent_one(
    real_painter: Painter, keras_vgg19: keras.Model, names: tuple[str, str]
) -> None:
    """On photographs at 96 px, twelve iterations give the losses of Keras' eager network and Adam."""
    content, style = (Image.fromarray(getattr(data, name)()) for name in names)
    start = reference.scaled(content, 96)
    rows = reference.descend(reference.Paper(keras_vgg19, start, reference.scaled(style, 96)), start, 12)
    assert rows[-1][0] < 0.8 * rows[0][0]  # it is on its way down, so the updates matter
    assert_agree(paper_steps(real_painter, np.asarray(content), np.asarray(style), 96, 12), rows)


@pytest.mark.parametrize("iterations", [8, pytest.param(30, marks=pytest.mark.nightly)])
def test_demo_pair_gives_the_recorded_losses(real_painter: Painter, iterations: int) -> None:
    """The bundled pair at 128 px gives the losses that the independent run recorded, of which there are 31."""
    recorded = json.loads(reference.LOSSES.read_text())
    content, style = (np.asarray(reference.demo_picture(name)) for name in ("photo.jpg", "painting.jpg"))
    steps = paper_steps(real_painter, content, style, recorded["size_px"], iterations)
    assert len(recorded["losses"]) == 31
    assert_agree(steps, recorded["losses"][: iterations + 1])


def test_recorded_losses_are_of_the_files_as_they_are(keras_vgg19: keras.Model) -> None:
    """The recorded first loss is that of the demo pair in the package, so neither went out of step."""
    recorded = json.loads(reference.LOSSES.read_text())
    content, style = (
        reference.scaled(reference.demo_picture(name), recorded["size_px"])
        for name in ("photo.jpg", "painting.jpg")
    )
    paper = reference.Paper(keras_vgg19, content, style)
    total, _, _ = paper.losses(reference.vgg_input(content))
    assert float(total) == pytest.approx(recorded["losses"][0][0], rel=FIRST)


def test_a_sidecar_that_asks_for_the_paper_gets_the_paper() -> None:
    """`preset: paper` has the paper's numbers whatever the default preset is, over any house's defaults."""
    house = {"preset": "fine", "strength": 1, "iterations": 3, "scales": "auto", "init_colors": "style"}
    for read in (
        sidecar.read({"preset": "paper"}, "s.yaml"),
        sidecar.read({"preset": "paper"}, "s.yaml", house),
    ):
        settings = read.settings
        assert (settings.objective, settings.optimizer, settings.learning_rate) == ("paper", "adam", 2.0)
        assert (settings.content_weight, settings.style_weight, settings.tv_weight) == (1000.0, 0.01, 0.0)
        assert (settings.init, settings.init_colors, settings.pooling) == ("content", "content", "max")
        assert settings.content_layers == {"block5_conv2": 1.0}
        assert settings.style_layers == {f"block{block}_conv1": 1.0 for block in range(1, 6)}
        assert [scale.iterations for scale in settings.all_scales(300, 400)] == [100]
        assert settings.early_stop is False
        assert settings.chroma_limit is False
