"""VGG19 with few channels and random weights: the same layers at a fraction of the cost."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from daemon import config
from daemon.engine import local
from daemon.engine.local import LocalEngine
from daemon.settings import CONVOLUTIONS_PER_BLOCK
from daemon.transfer.vgg19 import Vgg19
from daemon.transfer.weights import Weights

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = (8, 12, 16, 24, 32)


def narrow_weights(seed: int = 0) -> Weights:
    """Draw kernels that keep the size of what passes through them (He et al., 2015)."""
    random, previous, layers = np.random.default_rng(seed), 3, {}
    for block, (count, channels) in enumerate(zip(CONVOLUTIONS_PER_BLOCK, CHANNELS, strict=True), start=1):
        for convolution in range(1, count + 1):
            kernel = random.normal(0, (2 / (9 * previous)) ** 0.5, (3, 3, previous, channels))
            bias = random.normal(0, 1, channels)
            layers[f"block{block}_conv{convolution}"] = kernel.astype(np.float32), bias.astype(np.float32)
            previous = channels
    return Weights(layers, "narrow", f"{seed:064x}")


def narrow_vgg(precision: str = "float32") -> Vgg19:
    """Load the narrow network."""
    return Vgg19(narrow_weights(), precision)


def narrow_engine(folder: Path) -> LocalEngine:
    """Make an engine for the CPU, in float32, that has loaded the narrow network."""
    raw = {"engine": {"device": "cpu", "precision": "float32"}}
    made = LocalEngine(config.build(raw, folder, environment={}))
    with mock.patch.object(local.weights, "load", return_value=narrow_weights()):
        made.start()
    return made
