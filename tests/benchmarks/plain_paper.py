"""The paper's loop written plainly with Keras and eager TensorFlow: the baseline of all speeds.

Of the product only the weights are used.
"""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daemon.transfer import weights

CONTENT_LAYER = "block5_conv2"
STYLE_LAYERS = [f"block{block}_conv1" for block in range(1, 6)]
MEAN_BGR = np.array([103.939, 116.779, 123.68], np.float32)


def build_network() -> keras.Model:
    """Build Keras' VGG19 up to block5_conv2, with the layers of the paper's losses as outputs."""
    vgg = keras.applications.VGG19(include_top=False, weights=None)
    for name, kernel_and_bias in weights.load("bundled").layers.items():
        vgg.get_layer(name).set_weights(list(kernel_and_bias))
    vgg.trainable = False
    return keras.Model(vgg.input, {name: vgg.get_layer(name).output for name in [*STYLE_LAYERS, CONTENT_LAYER]})


def gram(features: Any) -> Any:
    """(1, H, W, C) -> (C, C)."""
    flat = tf.reshape(features, [-1, features.shape[-1]])
    return tf.matmul(flat, flat, transpose_a=True) / flat.shape[0]


class Paper:
    """The paper's objective for a content and a style picture, (H, W, 3) uint8 RGB each."""

    def __init__(self, content: Any, style: Any) -> None:
        """Compute the targets, once."""
        self.network = build_network()
        self.content = self.network(to_input(content))[CONTENT_LAYER]
        self.grams = {name: gram(value) for name, value in self.network(to_input(style)).items()}

    def loss(self, image: Any) -> Any:
        """Compute the total loss of (1, H, W, 3)."""
        found = self.network(image)
        style = [tf.reduce_mean((gram(found[name]) - self.grams[name]) ** 2) for name in STYLE_LAYERS]
        content = tf.reduce_mean((found[CONTENT_LAYER] - self.content) ** 2)
        return 0.01 * tf.add_n(style) / len(style) + 1000.0 * content


def to_input(picture: Any) -> Any:
    """(H, W, 3) uint8 RGB -> (1, H, W, 3) BGR minus the mean."""
    return tf.constant(picture[np.newaxis, :, :, ::-1].astype(np.float32) - MEAN_BGR)


def paint(content: Any, style: Any, iterations: int) -> list[tuple[int, float, float]]:
    """Run the paper's loop; returns for each step its number, its loss, and the seconds since the start."""
    paper = Paper(content, style)
    image = tf.Variable(to_input(content))
    optimizer = keras.optimizers.Adam(learning_rate=2.0, beta_1=0.99, beta_2=0.999, epsilon=0.1)
    best, best_loss, marks = image.numpy(), float("inf"), []
    begun = time.perf_counter()
    for iteration in range(iterations):
        with tf.GradientTape() as tape:
            loss = paper.loss(image)
        gradient = tape.gradient(loss, image)
        if float(loss) < best_loss:
            best, best_loss = image.numpy(), float(loss)
        optimizer.apply_gradients([(gradient, image)])
        image.assign(tf.clip_by_value(image, -MEAN_BGR, 255 - MEAN_BGR))
        marks.append((iteration, float(loss), time.perf_counter() - begun))
    assert best.shape == image.shape
    return marks
