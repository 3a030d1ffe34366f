"""What the numeric tests share: the narrow network and the real one, a painter on each, and small pictures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from reference import network as keras_network
from support.narrow_vgg import narrow_vgg

from daemon.engine.session import Painter, Previews
from daemon.job import Style
from daemon.presets import PRESETS
from daemon.settings import Frames, Settings
from daemon.transfer import weights as weights_module
from daemon.transfer.backend import device
from daemon.transfer.scales import Subject
from daemon.transfer.vgg19 import Vgg19

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import keras

    from daemon.job import Step
    from daemon.transfer.weights import Weights

    Paint = Callable[..., list[Step]]


@pytest.fixture(scope="session")
def weights() -> Weights:
    """The bundled weights."""
    return weights_module.load("bundled")


@pytest.fixture(scope="session")
def network(weights: Weights) -> Vgg19:
    """The product's VGG19 in float32, computed as on this machine."""
    return Vgg19(weights, backward=device.choose_backward(None))


@pytest.fixture(scope="session")
def keras_vgg19() -> keras.Model:
    """Keras' own VGG19 with the same numbers, giving every convolution's features by name."""
    return keras_network()


@pytest.fixture(scope="session")
def real_painter(network: Vgg19) -> Painter:
    """A painter on the real weights: what is compiled once stays compiled."""
    return Painter(network)


@pytest.fixture(scope="session")
def narrow() -> Vgg19:
    """The narrow network."""
    return narrow_vgg()


@pytest.fixture(scope="session")
def painter(narrow: Vgg19) -> Painter:
    """A painter on the narrow network: what is compiled once stays compiled."""
    return Painter(narrow)


@pytest.fixture(scope="session")
def picture() -> Callable[..., np.ndarray]:
    """Make a smooth colorful picture of (height, width, seed)."""

    def make(height: int, width: int, seed: int = 0) -> np.ndarray:
        small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
        return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))

    return make


@pytest.fixture(scope="session")
def every_picture() -> Callable[[], Previews]:
    """Choose the picture of every iteration."""
    return lambda: Previews(Frames(every=1), time.monotonic())


@pytest.fixture(scope="session")
def paint(painter: Painter, picture: Callable[..., np.ndarray], every_picture: Callable[[], Previews]) -> Paint:
    """Paint with few settings on the narrow network and give every step, its picture included.

    Keywords are settings over the paper's, except `content`, `styles` (weighted pictures) and `start` (an init
    picture).
    """

    def run(
        content: np.ndarray | None = None,
        styles: Sequence[Style[np.ndarray]] | None = None,
        start: np.ndarray | None = None,
        **settings: Any,
    ) -> list[Step]:
        content = picture(30, 40) if content is None else content
        styles = [Style(picture(36, 28, 1))] if styles is None else styles
        chosen = Settings.model_validate({**PRESETS["paper"], "size": 32, "iterations": 3, **settings})
        subject = Subject(content, styles, chosen, start)
        return list(painter.begin(subject).steps(every_picture()))

    return run
