"""The paper's run written a second time, apart from the product: Keras' own VGG19, eager, with Keras' own Adam.

Nothing of `daemon` computes here; only its data files are read. Run by hand, this writes the losses that the
tests compare with into `reference_losses.json`:

    python tests/numerics/reference.py
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

LOSSES = Path(__file__).with_name("reference_losses.json")
SIZE_PX = 128
ITERATIONS = 30
CONTENT_LAYERS = ("block5_conv2",)
STYLE_LAYERS = tuple(f"block{block}_conv1" for block in range(1, 6))
MEAN_BGR = np.array([103.939, 116.779, 123.68])


def bundled_layers() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read the bundled weights as their README describes them: kernel = codebook[index]."""
    path = resources.files("daemon.transfer") / "weights_data" / "vgg19_imagenet_8bit.npz"
    with path.open("rb") as stream, np.load(stream) as file:
        names = {key.partition("/")[0] for key in file.files}
        return {
            name: (file[f"{name}/kernel_codebook"][file[f"{name}/kernel_index"]], file[f"{name}/bias"])
            for name in sorted(names)
        }


def demo_picture(name: str) -> Image.Image:
    """Open a picture of the bundled demo."""
    with (resources.files("daemon.demo") / name).open("rb") as stream:
        return Image.open(stream).convert("RGB")


def scaled(picture: Image.Image, longest: int) -> np.ndarray:
    """Scale to (H, W, 3) uint8 with the longest side given, by Pillow's LANCZOS."""
    scale = longest / max(picture.size)
    size = round(picture.width * scale), round(picture.height * scale)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def network(dtype: str = "float32") -> keras.Model:
    """Build Keras' VGG19 with the bundled weights; its outputs are those of all convolutions, by name."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)  # whichever layer comes first fixes it for all that follow
    try:
        model = keras.applications.VGG19(include_top=False, weights=None)
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])
    for name, (kernel, bias) in bundled_layers().items():
        model.get_layer(name).set_weights([kernel, bias])
    outputs = {layer.name: layer.output for layer in model.layers if "conv" in layer.name}
    return keras.Model(model.input, outputs)


def vgg_input(picture: np.ndarray, dtype: str = "float32") -> Any:
    """Keras' own preprocessing: (H, W, 3) uint8 RGB -> (1, H, W, 3) BGR minus the mean."""
    return tf.constant(keras.applications.vgg19.preprocess_input(picture[np.newaxis].astype(dtype)), dtype)


def gram(features: Any) -> Any:
    """Correlate channels by Einstein's sum: (1, H, W, C) -> (C, C)."""
    positions = features.shape[1] * features.shape[2]
    return tf.einsum("bhwc,bhwd->cd", features, features) / positions


class Paper:
    """The paper's objective for one pair of pictures of any sizes."""

    def __init__(self, model: keras.Model, content: np.ndarray, style: np.ndarray) -> None:
        """Compute what every picture is compared with."""
        self.model = model
        self.dtype = model.input.dtype
        self._content = model(vgg_input(content, self.dtype))
        self._grams = {layer: gram(value) for layer, value in model(vgg_input(style, self.dtype)).items()}

    def losses(self, image: Any) -> tuple[Any, Any, Any]:
        """Total, style and content loss of (1, H, W, 3)."""
        found = self.model(image)
        style = sum(tf.reduce_mean((gram(found[layer]) - self._grams[layer]) ** 2) for layer in STYLE_LAYERS)
        style = 0.01 * style / len(STYLE_LAYERS)
        content = sum(tf.reduce_mean((found[layer] - self._content[layer]) ** 2) for layer in CONTENT_LAYERS)
        content = 1000 * content / len(CONTENT_LAYERS)
        return style + content, style, content


def descend(paper: Paper, start: np.ndarray, iterations: int) -> list[tuple[float, float, float]]:
    """Take the paper's steps; the n-th losses are of the picture after n updates, n = 0 ... iterations."""
    image = tf.Variable(vgg_input(start, paper.dtype))
    adam = keras.optimizers.Adam(2.0, beta_1=0.99, beta_2=0.999, epsilon=0.1)
    rows = []
    for _ in range(iterations):
        with tf.GradientTape() as tape:
            losses = paper.losses(image)
        rows.append(losses)
        adam.apply([tape.gradient(losses[0], image)], [image])
        image.assign(tf.clip_by_value(image, -MEAN_BGR, 255 - MEAN_BGR))
    rows.append(paper.losses(image))
    return [(float(total), float(style), float(content)) for total, style, content in rows]


def main() -> None:
    """Write the losses of the bundled demo pair."""
    content, style = (scaled(demo_picture(name), SIZE_PX) for name in ("photo.jpg", "painting.jpg"))
    rows = descend(Paper(network(), content, style), content, ITERATIONS)
    document = {
        "made_by": "tests/numerics/reference.py",
        "content": "daemon/demo/photo.jpg",
        "style": "daemon/demo/painting.jpg",
        "size_px": SIZE_PX,
        "columns": ["total", "style", "content"],
        "losses": [[float(f"{value:.7g}") for value in row] for row in rows],
    }
    LOSSES.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
