"""pastiche 1.6 as a contestant, in a virtual environment without the product.

Reads a JSON request from stdin; the last line of stdout is the answer. pastiche runs by its own class and its
own optimizer; only its weights are replaced by the product's.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from pastiche import pastiche
from pastiche.vgg19 import VGG19

STYLE_LAYERS = [f"block{block}_relu1" for block in range(1, 6)]


def use_weights(path: str) -> None:
    """Make pastiche build its network with these weights."""
    with np.load(path) as file:
        layers = {
            name: (torch.from_numpy(file[f"{name}/kernel"]), torch.from_numpy(file[f"{name}/bias"]))
            for name in VGG19.Weights._fields
        }
    VGG19.from_quantized_bin = staticmethod(lambda _path, pooling: VGG19(VGG19.Weights(**layers), pooling))


def to_loss(request: dict[str, Any]) -> dict[str, Any]:
    """Minimize the paper's objective on given pixels until a loss is reached.

    `marks` are the number of updates before the loss was computed, the loss, and the seconds from the start of
    the loop to the end of that call, which includes the next update.
    """
    artist = pastiche.PasticheArtist(
        request["content"],
        [request["style"]],
        content_layers=["block5_relu2"],
        style_layers=STYLE_LAYERS,
        content_layer_weights=[1.0],
        style_layer_weights=[1 / len(STYLE_LAYERS)],
        content_weight=1000.0,
        style_weights=[0.01],
        size=_size(request["content"]),  # the file's own: nothing is resampled
        style_size=_size(request["style"]),
    )
    start_loss, marks = artist.loss, []
    begun = time.perf_counter()
    while len(marks) <= request["iterations"] and (not marks or marks[-1][1] > request["target"]):
        artist.draw()
        marks.append([len(marks), artist.loss, time.perf_counter() - begun])
    return {"start_loss": start_loss, "marks": marks}


def by_defaults(request: dict[str, Any]) -> dict[str, Any]:
    """Paint with the defaults of pastiche's command line; save the pictures at given seconds of its loop."""
    artist = pastiche.PasticheArtist(
        request["content"], [request["style"]], size=request["size"], style_weights=[1.0]
    )
    seconds, iterations, elapsed_s = [], [], 0.0
    drawn = 0
    for stop_s, output in request["stops"]:
        while elapsed_s < stop_s:
            begun = time.perf_counter()
            artist.draw()
            elapsed_s += time.perf_counter() - begun
            drawn += 1
        pastiche.save_image(artist.pastiche, output)
        seconds.append(elapsed_s)
        iterations.append(drawn)
    return {"seconds": seconds, "iterations": iterations}


def _size(path: str) -> tuple[int, int]:
    with pastiche.Image.open(path) as image:
        return image.height, image.width


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    use_weights(request["weights"])
    answer = {"to_loss": to_loss, "by_defaults": by_defaults}[request["kind"]](request)
    versions = {"pastiche": pastiche.__version__, "torch": torch.__version__}
    print(json.dumps({**answer, "versions": versions, "threads": torch.get_num_threads()}))  # noqa: T201


if __name__ == "__main__":
    main()
