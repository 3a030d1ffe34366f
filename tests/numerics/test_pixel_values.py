"""Pixels to VGG19's input and back."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from daemon.transfer import pixels

EVERY_VALUE = np.arange(256 * 3, dtype=np.uint32).reshape(16, 16, 3).astype(np.uint8)  # wraps at 256
MEAN = (103.939, 116.779, 123.68)


def test_all_values_survive_the_round_trip() -> None:
    """Each of the 256 values in each channel comes back as itself."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[np.newaxis, :, np.newaxis], 3, axis=2)
    assert np.array_equal(pixels.from_vgg(pixels.to_vgg(ramp)), ramp)


def test_channels_keep_their_places_over_the_round_trip() -> None:
    """A picture whose channels differ comes back unchanged and contiguous, uint8 RGB."""
    back = pixels.from_vgg(pixels.to_vgg(EVERY_VALUE))
    assert np.array_equal(back, EVERY_VALUE)
    assert back.dtype == np.uint8
    assert back.flags.c_contiguous


def test_sixteen_bits_are_rounded_from_the_exact_values() -> None:
    """Fractions of a gray level are kept to a 257th, in a picture that 8 bits round as ever; all is clipped."""
    exact = np.linspace(-2, 257, 16 * 16 * 3).reshape(16, 16, 3)[::-1]
    image = tf.constant((exact[:, :, ::-1] - MEAN)[np.newaxis], tf.float32)
    deep = pixels.deep(pixels.unrounded(image))
    assert deep.dtype == np.uint16
    assert np.array_equal(deep, np.rint(np.clip(pixels.unrounded(image).astype(np.float64), 0, 255) * 257))
    assert np.abs(deep / 257 - np.clip(exact, 0, 255)).max() < 1 / 256
    assert np.array_equal(np.rint(deep / 257), pixels.from_vgg(image))
    assert (deep.min(), deep.max()) == (0, 65535)


def test_input_is_bgr_minus_the_mean() -> None:
    """Red, green, blue become blue, green, red, each minus ImageNet's mean of that channel."""
    image = np.asarray(pixels.to_vgg(np.array([[[10, 20, 30]]], np.uint8)))
    assert image.shape == (1, 1, 1, 3)
    assert image[0, 0, 0] == pytest.approx([30 - MEAN[0], 20 - MEAN[1], 10 - MEAN[2]], abs=1e-5)


def test_input_equals_keras_preprocessing() -> None:
    """Keras' preprocess_input makes the same numbers of the same picture."""
    theirs = keras.applications.vgg19.preprocess_input(EVERY_VALUE[np.newaxis].astype(np.float32))
    assert np.asarray(pixels.to_vgg(EVERY_VALUE)) == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize(
    ("value", "gray"),
    [
        (99.4, 99),
        (99.6, 100),
        (100.49, 100),
        (254.6, 255),
        (0.4, 0),
        (-3.0, 0),
        (-0.4, 0),
        (255.6, 255),
        (900, 255),
    ],
)
def test_values_between_gray_levels_are_rounded(value: float, gray: int) -> None:
    """A value goes to the nearest gray level, never down to the one below, and stays within 0 to 255."""
    image = np.full((1, 1, 1, 3), value, np.float32) - np.array(MEAN, np.float32)
    assert pixels.from_vgg(tf.constant(image)).tolist() == [[[gray] * 3]]


def test_clip_keeps_each_channel_between_black_and_white() -> None:
    """Clipping holds each channel within its own [-mean, 255 - mean], and leaves what is inside alone."""
    values = np.array([-1e9, -104.0, -50.0, 0.0, 131.0, 140.0, 152.0, 1e9], np.float32)
    image = np.repeat(values[np.newaxis, np.newaxis, :, np.newaxis], 3, axis=3)
    clipped = np.asarray(pixels.clip(tf.constant(image)))
    low, high = -np.array(MEAN, np.float32), np.float32(255) - np.array(MEAN, np.float32)
    assert np.array_equal(clipped, np.minimum(np.maximum(image, low), high))
