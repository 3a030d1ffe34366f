"""Where a job's settings come from: presets, the config's defaults and the sidecar, merged."""

from __future__ import annotations

import itertools
from typing import Any, Final

from daemon.settings import AUTO_ITERATIONS, DEEP_FORMATS, Settings

_BALANCED: Final = Settings().model_dump(
    exclude={
        *("size", "background", "alpha", "seed", "early_stop", "frames", "output", "priority"),
        *("learning_rate", "content_weight", "style_weight"),  # of another optimizer or objective
    }
)
_PAPER: Final = {
    **{name: value for name, value in _BALANCED.items() if name not in {"strength", "match_weight"}},
    "iterations": 100,
    "scales": "none",
    "objective": "paper",
    "optimizer": "adam",
    "learning_rate": 2,
    "content_weight": 1000,
    "style_weight": 0.01,
    "content_layers": {"block5_conv2": 1},
    "init_colors": "content",
    "chroma_limit": False,
    "protect": "none",
}
PRESETS: Final[dict[str, dict[str, Any]]] = {
    "default": _BALANCED,
    "paper": _PAPER,
    "preview": {**_BALANCED, "size": 256, "iterations": AUTO_ITERATIONS[256]},
    "sheet": {**_BALANCED, "size": 256, "iterations": AUTO_ITERATIONS[256], "frames": {"every": 0}},
    "fine": {**_BALANCED, "size": 1024, "iterations": AUTO_ITERATIONS[1024]},
}


def merged(preset: str | None, house: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Merge the sources of settings; the sidecar's own keys come first.

    A preset named in the sidecar overrides the config's `defaults`, because the person asked for it. Without
    one, the preset of `defaults` applies below the other defaults. A key set to null counts as not set. If the
    sidecar sets a size but no scales, only the scales of `defaults` below that size are kept. Of an `output`
    below, the bits are kept where the format holds them.

    `preset` is the one named in the sidecar, `house` the config's `defaults`, and `own` the sidecar's keys.
    """
    house_keys = {key: value for key, value in house.items() if key != "preset"}
    if preset:
        layers = [house_keys, PRESETS.get(preset, {}), own]
    else:
        layers = [PRESETS.get(str(house.get("preset") or "default"), {}), house_keys, own]
    result: dict[str, Any] = {}
    for key, value in itertools.chain.from_iterable(layer.items() for layer in layers):
        below = result.get(key)
        if key in {"frames", "output"} and isinstance(below, dict) and isinstance(value, dict):
            is_deep = value.get("format", "png") in DEEP_FORMATS
            kept = {name: item for name, item in below.items() if is_deep or name != "bits"}
            result[key] = {**kept, **value}
        elif value is not None or not isinstance(key, str):  # which is a fault in any case
            result[key] = value
    final = own.get("size")
    if isinstance(final, int) and isinstance(result.get("scales"), list) and own.get("scales") is None:
        result["scales"] = [scale for scale in result["scales"] if int(scale["size"]) < final]
    return result
