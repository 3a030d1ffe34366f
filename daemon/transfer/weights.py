"""VGG19's weights from three sources: the bundled file, Keras' download, a file of the user's."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import h5py
import keras
import numpy as np
import numpy.typing as npt

from daemon.errors import NotReady
from daemon.settings import CONVOLUTIONS_PER_BLOCK, LAYERS

if TYPE_CHECKING:
    from collections.abc import Iterator

Array = npt.NDArray[np.float32]

CHANNELS: Final = (64, 128, 256, 512, 512)
BUNDLED: Final = "vgg19_imagenet_8bit.npz"
# Keras' own file, address and MD5 (keras/src/applications/vgg19.py, WEIGHTS_PATH_NO_TOP).
KERAS_NAME: Final = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
KERAS_URL: Final = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg19/{KERAS_NAME}"
KERAS_MD5: Final = "253f8cb515780f3b799900260a226db6"


@dataclass(frozen=True)
class Weights:
    """Every convolution's kernel (3, 3, C_in, C_out) and bias (C_out,), and where they are from."""

    layers: dict[str, tuple[Array, Array]]
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
    """Load and check weights.

    Args:
        source: `bundled`, `imagenet` (Keras' download and cache, hash-checked), or a file's path: `.h5` of
            Keras in the old or the new layout, or `.npz` of the bundled kind.

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
    return Weights(layers, source if source in {"bundled", "imagenet"} else str(path), digest)


def _download() -> Path:
    try:
        return Path(keras.utils.get_file(KERAS_NAME, KERAS_URL, cache_subdir="models", file_hash=KERAS_MD5))
    except Exception as error:  # noqa: BLE001 - the network's many errors have one meaning here
        raise NotReady(f"weights imagenet: cannot download {KERAS_URL} ({error})") from None


def _check(layers: dict[str, tuple[Array, Array]], path: Path) -> None:
    for name, shape in shapes().items():
        if name not in layers:
            raise NotReady(f"weights {path}: layer {name} is missing, kernel {shape} expected")
        kernel, bias = layers[name]
        for what, array, expected in (("kernel", kernel, shape), ("bias", bias, shape[3:])):
            if array.shape != expected:
                raise NotReady(f"weights {path}: {name} {what} has shape {array.shape}, expected {expected}")
            if not np.isfinite(array).all():
                raise NotReady(f"weights {path}: {name} {what} holds values that are no numbers")


def _read_npz(path: Path) -> dict[str, tuple[Array, Array]]:
    """Read the bundled kind: 8-bit indices into 256 values a layer (see weights_data/README.md)."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        layers = {}
        for name in LAYERS:
            if f"{name}/kernel_index" in file:
                with _naming(name):
                    kernel = file[f"{name}/kernel_codebook"][file[f"{name}/kernel_index"]]
                    layers[name] = (kernel.astype(np.float32), file[f"{name}/bias"].astype(np.float32))
        return layers


def _read_h5(path: Path) -> dict[str, tuple[Array, Array]]:
    with h5py.File(path, "r") as file:
        root = file.get("model_weights", file)
        return _read_new_h5(root) if "layers" in root else _read_old_h5(root)


def _read_old_h5(root: Any) -> dict[str, tuple[Array, Array]]:
    """Read the layout of Keras 1 and 2: a group a layer, whose `weight_names` give kernel and bias."""
    layers = {}
    for name in LAYERS:
        if name in root:
            with _naming(name):
                stored = root[name].attrs["weight_names"]
                names = [item.decode() if isinstance(item, bytes) else item for item in stored]
                layers[name] = _pair([np.asarray(root[name][item], np.float32) for item in names])
    return layers


def _read_new_h5(root: Any) -> dict[str, tuple[Array, Array]]:
    """Read Keras 3's `.weights.h5`: `layers/<name>/vars/0` and `1`.

    Depending on Keras' version the name is the layer's own, or conv2d, conv2d_1, ... in the network's order.
    """
    group, layers = root["layers"], {}
    for index, layer in enumerate(LAYERS):
        for name in (layer, f"conv2d_{index}" if index else "conv2d"):
            if name in group and "vars" in group[name]:
                with _naming(layer):
                    variables = group[name]["vars"]
                    layers[layer] = _pair([np.asarray(variables[key], np.float32) for key in sorted(variables)])
                break
    return layers


def _pair(arrays: list[Array]) -> tuple[Array, Array]:
    if len(arrays) != 2:  # noqa: PLR2004 - a kernel and a bias
        raise ValueError(f"{len(arrays)} arrays found, expected a kernel and a bias")
    return arrays[0], arrays[1]


@contextlib.contextmanager
def _naming(layer: str) -> Iterator[None]:
    """Say in whose layer a file is damaged; h5py and numpy name the place inside it at best."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{layer}: {error.args[0] if error.args else error}") from error
