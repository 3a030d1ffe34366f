"""VGG19 up to the last layer that is asked for. The whole network is `Vgg19.features`.

Simonyan & Zisserman (2014), configuration E: 16 convolutions of 3 x 3 in five blocks, each followed by a ReLU,
2 x 2 pooling between the blocks. `blockB_convK` names the features after the ReLU, as in Keras.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

from daemon.settings import CONVOLUTIONS_PER_BLOCK, LAYERS
from daemon.transfer.backend import operations
from daemon.transfer.backend.tile_layout import layer_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from daemon.job import Backward
    from daemon.transfer import Tensor
    from daemon.transfer.weights import Weights


class Vgg19:
    """The frozen network; convolutions are in float32 or bfloat16, features leave in float32 in both.

    A step at 512 x 384 px is 2 x 146 GFLOP: nearly all of it is the convolutions here, forward and backward.
    """

    def __init__(self, weights: Weights, precision: str = "float32", backward: Backward = "gradient") -> None:
        """Put the weights on the device, each kernel twice for `backward` "convolution" (`operations`)."""
        self.precision = precision
        self.backward = backward
        self.sha256 = weights.sha256  # of the file
        self._layers: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}
        for name, (weight, bias) in weights.layers.items():
            kernel = tf.constant(weight, self.precision)
            rotated = operations.rotated(kernel) if backward == "convolution" else None
            self._layers[name] = kernel, tf.constant(bias, self.precision), rotated

    def features(self, image: Tensor, layers: Collection[str], pooling: str = "max") -> dict[str, Tensor]:
        """Run the network as far as needed.

        Args:
            image: (1, H, W, 3) float32 BGR minus the mean, each side 16 px or more.
            layers: names out of `LAYERS`, or made of them by `regional`; nothing past the last is computed.
            pooling: max or avg.

        Returns:
            layer -> (1, H / 2^(block - 1), W / 2^(block - 1), C) float32.
        """
        pool = tf.nn.max_pool2d if pooling == "max" else tf.nn.avg_pool2d
        wanted = {layer_of(layer) for layer in layers}
        last = max(map(LAYERS.index, wanted))
        found: dict[str, Tensor] = {}
        x = tf.cast(image, self.precision)
        for block, count in enumerate(CONVOLUTIONS_PER_BLOCK, start=1):
            if block > 1:
                x = pool(x, 2, 2, "VALID")  # halves height and width, dropping an odd last row
            for convolution in range(1, count + 1):
                name = f"block{block}_conv{convolution}"
                x = operations.layer(x, *self._layers[name])
                if name in wanted:
                    found[name] = tf.cast(x, tf.float32)
                if LAYERS.index(name) == last:
                    return {layer: found[layer_of(layer)] for layer in layers}
        raise AssertionError
