"""RGB pixels to what VGG19 was trained on, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    import numpy.typing as npt

    from daemon.job import DeepPicture, Picture
    from daemon.transfer import Tensor

    Floats = npt.NDArray[np.float32]

# Mean of ImageNet's training pictures in the order of the Caffe model that Simonyan & Zisserman (2014)
# published: blue, green, red. Keras' preprocess_input(mode="caffe") subtracts the same.
MEAN_BGR: Final = np.array([103.939, 116.779, 123.68], np.float32)
LOWEST: Final = -MEAN_BGR  # black
HIGHEST: Final = np.float32(255) - MEAN_BGR  # white
LUMA: Final = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601
_LEAST: Final = 1e-6


def to_vgg(picture: Picture) -> Tensor:
    """Turn (H, W, 3) uint8 RGB into VGG19's input, (1, H, W, 3) float32 BGR minus the mean."""
    bgr = picture[:, :, ::-1].astype(np.float32) - MEAN_BGR
    return tf.constant(bgr[np.newaxis])  # (H, W, 3) -> (1, H, W, 3)


def from_vgg(image: Tensor) -> Picture:
    """Turn VGG19's input into (H, W, 3) uint8 RGB, rounding to the nearest gray level (never truncating)."""
    return np.ascontiguousarray(np.rint(unrounded(image)).astype(np.uint8))


def unrounded(image: Tensor) -> Floats:
    """Turn VGG19's input into (H, W, 3) float32 RGB, 0 to 255."""
    bgr: Floats = np.asarray(image)[0] + MEAN_BGR
    return np.clip(bgr[:, :, ::-1], np.float32(0), np.float32(255))


def deep(picture: Floats) -> DeepPicture:
    """Round (H, W, 3) float32 RGB, 0 to 255, to 16 bits a channel: white is 65535."""
    exact = np.multiply(picture, 257, dtype=np.float64)
    return np.rint(exact, out=exact).astype(np.uint16)


def clip(image: Tensor) -> Tensor:
    """Keep every channel of (1, H, W, 3) within what a picture can show: [-mean, 255 - mean]."""
    return tf.clip_by_value(image, LOWEST, HIGHEST)


def toward_gray(gray: Floats, apart: Floats, white: float) -> Floats:
    """Add differences (H, W, 3) to gray (H, W, 1), less of them where the color could not be shown."""
    room = np.where(apart > 0, white - gray, gray) / np.maximum(np.abs(apart), _LEAST)
    return np.asarray(gray + np.clip(room.min(axis=-1, keepdims=True), 0, 1) * apart, np.float32)
