"""VGG19's weights from three sources: the bundled file, Keras' download, a file of the user's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import h5py
import keras
import numpy as np
import numpy.typing as npt

from daemon.errors import NotReady
from daemon.settings import CONVOLUTIONS_PER_BLOCK, LAYERS

Array = npt.NDArray[np.float32]
Layers = dict[str, tuple[Array, Array]]  # kernel (3, 3, C_in, C_out) and bias (C_out,)

CHANNELS: Final = (64, 128, 256, 512, 512)
BUNDLED: Final = "vgg19_imagenet_8bit.npz"
# Keras' own file, address and MD5 (keras/src/applications/vgg19.py, WEIGHTS_PATH_NO_TOP).
KERAS_NAME: Final = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
KERAS_URL: Final = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg19/{KERAS_NAME}"
KERAS_MD5: Final = "253f8cb515780f3b799900260a226db6"


@dataclass(frozen=True)
class Weights:
    """The numbers of every convolution, and where they are from."""

    layers: Layers
    source: str
    sha256: str


def shapes() -> dict[str, tuple[int, int, int, int]]:
    """Give each layer's kernel shape."""
    result, previous = {}, 3
    for block, (count, channels) in enumerate(zip(CONVOLUTIONS_PER_BLOCK, CHANNELS, strict=True), start=1):
        for convolution in range(1, count + 1):
            result[f"block{block}_conv{convolution}"] = (3, 3, previous, channels)
            previous = channels
    return result


def load(source: str) -> Weights:
    """Load and check weights: `bundled`, `imagenet` (Keras' download and cache, hash-checked), or a path.

    The path is of an `.h5` file of Keras in the old or the new layout, or of an `.npz` of the bundled kind.

    Raises:
        NotReady: the file is missing, damaged or of another network; the message names layer and shape.
    """
    if source == "bundled":
        path = Path(str(resources.files("daemon.transfer") / "weights_data" / BUNDLED))
    elif source == "imagenet":
        path = _download()
    else:
        path = Path(source)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        layers = _read_npz(path) if path.suffix == ".npz" else _read_h5(path)
    except Exception as error:  # noqa: BLE001 - h5py and numpy raise nearly anything on foreign files
        detail = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise NotReady(f"weights {path}: not a readable weights file ({detail})") from None
    _check(layers, path)
    return Weights(layers, source, digest)


def _download() -> Path:
    try:
        return Path(keras.utils.get_file(KERAS_NAME, KERAS_URL, cache_subdir="models", file_hash=KERAS_MD5))
    except Exception as error:  # noqa: BLE001 - the network's many errors have one meaning here
        raise NotReady(f"weights imagenet: cannot download {KERAS_URL} ({error})") from None


def _check(layers: Layers, path: Path) -> None:
    for name, shape in shapes().items():
        if name not in layers:
            raise NotReady(f"weights {path}: layer {name} is missing, kernel {shape} expected")
        for what, array, expected in zip(("kernel", "bias"), layers[name], (shape, shape[3:]), strict=True):
            if array.shape != expected:
                raise NotReady(f"weights {path}: {name} {what} has shape {array.shape}, expected {expected}")
            if not np.isfinite(array).all():
                raise NotReady(f"weights {path}: {name} {what} holds values that are no numbers")


def _read_npz(path: Path) -> Layers:
    """Read the bundled kind: 8-bit indices into 256 values a layer (see weights_data/README.md)."""
    layers = {}
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        for name in LAYERS:
            if f"{name}/kernel_index" in file:
                kernel = file[f"{name}/kernel_codebook"][file[f"{name}/kernel_index"]]
                layers[name] = kernel.astype(np.float32), file[f"{name}/bias"].astype(np.float32)
    return layers


def _read_h5(path: Path) -> Layers:
    """Read any layout of Keras: a group a layer, with a kernel and a bias somewhere inside.

    Keras 1 and 2 name a group as its layer, in a file of weights or under `model_weights` of a whole model.
    Keras 3's `.weights.h5` has `layers`, each by its own name or conv2d, conv2d_1, ... in the network's order.
    """
    layers = {}
    with h5py.File(path, "r") as file:
        root = file.get("model_weights") or file.get("layers") or file
        for index, name in enumerate(LAYERS):
            group = root.get(name) or root.get(f"conv2d_{index}" if index else "conv2d")
            if group:
                layers[name] = _kernel_and_bias(name, group)
    return layers


def _kernel_and_bias(layer: str, group: h5py.Group) -> tuple[Array, Array]:
    """Find both arrays of a layer; a kernel has more dimensions than a bias."""
    items: list[Any] = []
    group.visititems(lambda _, item: items.append(item))
    arrays = [np.asarray(item, np.float32) for item in items if isinstance(item, h5py.Dataset)]
    if len(arrays) != 2:  # noqa: PLR2004 - a kernel and a bias
        raise ValueError(f"{layer}: {len(arrays)} arrays found, expected a kernel and a bias")
    bias, kernel = sorted(arrays, key=np.ndim)
    return kernel, bias
