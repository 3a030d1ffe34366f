"""The settings of one job, and how presets, house defaults and a sidecar make them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
)

from daemon.errors import Reason
from daemon.validation import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

MIN_SIZE_PX: Final = 16
MAX_SIZE_PX: Final = 16384
MAX_ITERATIONS: Final = 100_000
# Of `scales: auto`.
_COARSEST_PX: Final = 128
_NARROWEST_PX: Final = 32
_AUTO_SHARES: Final = (1.5, 3.0)  # of the final iterations: at a half of the final size, at a quarter and less
CONVOLUTIONS_PER_BLOCK: Final = (2, 2, 4, 4, 4)
LAYERS: Final = tuple(
    f"block{block}_conv{convolution}"
    for block, count in enumerate(CONVOLUTIONS_PER_BLOCK, start=1)
    for convolution in range(1, count + 1)
)


def number(value: Any) -> Any:
    """Refuse what YAML makes of `yes` and `on`; pydantic would take True for 1."""
    if isinstance(value, bool):
        raise refusal("a number")
    return value


def _size(value: Any) -> Any:
    if value == "original":
        return value
    allowed = f"a number of pixels from {MIN_SIZE_PX} to {MAX_SIZE_PX}, or original"
    try:
        size = None if isinstance(value, bool) or int(value) != float(value) else int(value)
    except (ValueError, TypeError, OverflowError):
        size = None
    if size is None or not MIN_SIZE_PX <= size <= MAX_SIZE_PX:
        raise refusal(allowed)
    return size


def _layers(value: Any) -> Any:
    """Read `[a, b]` as equal weights, and `{a: 2}` as it stands."""
    allowed = f"a list of VGG19 layers, or layer: weight, out of {', '.join(LAYERS)}"
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        names = [item for item in value if isinstance(item, str)]
        if len(names) != len(value) or len(set(names)) != len(names):
            raise refusal(allowed + ", each once")
        value = dict.fromkeys(names, 1.0)
    if not isinstance(value, dict) or not value or any(name not in LAYERS for name in value):
        raise refusal(allowed)
    weights: dict[str, float] = {}
    for name, weight in value.items():
        weights[name] = _weight(weight)
    has_share(weights.values())
    return weights


def _weight(value: Any) -> float:
    try:
        weight = float("nan") if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError):
        weight = float("nan")
    if not 0 <= weight < float("inf"):
        raise refusal("a weight of 0 or more for each layer")
    return weight


def has_share(weights: Iterable[float]) -> None:
    """Refuse weights that cannot be scaled to sum to 1."""
    if not 0 < sum(weights) < float("inf"):
        raise refusal("weights with a sum above 0")


def _scales(value: Any) -> Any:
    if isinstance(value, list):
        return _SCALE_LIST.validate_python(value)  # apart, so that faults name no branch of the union
    if value in ("auto", "none"):
        return value
    raise refusal("auto, none, or a list of {size: 128, iterations: 60}")


def plain_name(value: Any) -> Any:
    """Accept the plain name of a file in the sidecar's own folder, nothing else."""
    if not isinstance(value, str) or not value.strip():
        raise refusal("the name of a file in the same folder")
    if "/" in value or "\\" in value or "\0" in value or value.strip() in {".", ".."}:
        raise refusal("the plain name of a file in the same folder, no path", Reason.PATH_OUTSIDE)
    return value


Count = Annotated[int, Field(ge=1, le=MAX_ITERATIONS), BeforeValidator(number)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(number)]
Rate = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False), BeforeValidator(number)]
PlainName = Annotated[str, BeforeValidator(plain_name)]
Size = Annotated[
    int | Literal["original"],
    BeforeValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": MIN_SIZE_PX, "maximum": MAX_SIZE_PX},
                {"const": "original"},
            ]
        }
    ),
]
LayerWeights = Annotated[
    dict[str, float],
    BeforeValidator(_layers),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"enum": list(LAYERS)}, "uniqueItems": True, "minItems": 1},
                {
                    "type": "object",
                    "propertyNames": {"enum": list(LAYERS)},
                    "additionalProperties": {"type": "number", "minimum": 0},
                    "minProperties": 1,
                },
            ]
        }
    ),
]
Preset = Literal["default", "paper", "preview", "fine"]


class Model(BaseModel):
    """A frozen model in which an unknown key is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Scale(Model):
    """One coarse size on the road to the final one."""

    size: Annotated[int, Field(ge=MIN_SIZE_PX, le=MAX_SIZE_PX), BeforeValidator(number)]
    iterations: Count


_SCALE_LIST: Final = TypeAdapter(list[Scale])


def _growing(value: list[Scale] | str, info: ValidationInfo) -> list[Scale] | str:
    """See that each scale is larger than the one before it, and the final size larger than all."""
    if isinstance(value, list):
        final = info.data.get("size")
        sizes = [scale.size for scale in value] + ([final] if isinstance(final, int) else [])
        if any(smaller >= larger for smaller, larger in itertools.pairwise(sizes)):
            raise refusal("sizes that grow from one scale to the next and stay below the final size")
    return value


class EarlyStop(Model):
    """When a size is left before its last iteration."""

    improvement: Annotated[float, Field(gt=0, lt=1), BeforeValidator(number)] = Field(
        0.01, description="The share of the loss that must be gained..."
    )
    iterations: Annotated[int, Field(ge=1, le=MAX_ITERATIONS), BeforeValidator(number)] = Field(
        10, description="...within so many iterations."
    )


def _early_stop(value: Any) -> Any:
    """Read it apart, so that faults name no branch of the union; 0 is not false."""
    if value is False or isinstance(value, EarlyStop):
        return value
    if isinstance(value, dict):
        return EarlyStop.model_validate(value)
    raise refusal("false, or {improvement: 0.01, iterations: 10}")


class Frames(Model):
    """Which pictures of the way are kept."""

    every: Annotated[
        int,
        Field(ge=0, le=MAX_ITERATIONS, description="Keep a frame every so many iterations; 0: none."),
        BeforeValidator(number),
    ] = 10
    animation: Literal["none", "webp", "gif"] = Field("webp", description="Also make a film of the frames.")

    def keeps(self, iteration: int) -> bool:
        """Tell whether an iteration's picture is kept as a frame."""
        return self.every > 0 and iteration % self.every == 0


class Output(Model):
    """How the result is written."""

    format: Literal["png", "jpeg", "webp", "tiff"] = "png"


class Settings(Model):
    """Everything that shapes one picture besides the pictures themselves."""

    strength: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(number)] = Field(
        0.5, description="From 0, a hint of the style, to 1, almost only style; objective balanced."
    )
    size: Size = Field(512, description="Longest side of the result in pixels, or original.")
    iterations: Count = Field(20, description="Iterations at the final size.")
    scales: Annotated[
        Literal["auto", "none"] | list[Scale], BeforeValidator(_scales), AfterValidator(_growing)
    ] = Field("auto", description="Coarse sizes before the final one; auto: halves of it, down to 128 px.")
    objective: Literal["balanced", "paper"] = Field("balanced", description="What is minimised.")
    optimizer: Literal["lbfgs", "adam"] = Field("lbfgs", description="How it is minimised.")
    learning_rate: Rate = Field(2.0, description="Adam's step, in grey levels.")
    content_weight: Amount = Field(1000.0, description="Weight of the content loss; objective paper.")
    style_weight: Amount = Field(0.01, description="Weight of the style loss; objective paper.")
    content_layers: LayerWeights = Field({"block4_conv2": 1.0}, description="Where the content is compared.")
    style_layers: LayerWeights = Field(
        {f"block{block}_conv1": 1.0 for block in range(1, 6)}, description="Where the style is compared."
    )
    tv_weight: Amount = Field(0.0, description="Weight of the total variation.")
    pooling: Literal["max", "avg"] = Field("max", description="VGG19's own max pooling, or average pooling.")
    init: PlainName = Field("content", description="Start from content, style, noise, or a file's picture.")
    init_colors: Literal["style", "content"] = Field(
        "style", description="Colours of a start from the content: moved to the style's, or its own."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63), BeforeValidator(number)] = Field(0, description="For noise.")
    early_stop: Annotated[EarlyStop | Literal[False], BeforeValidator(_early_stop)] = Field(
        False,  # noqa: FBT003 - null is what is not set
        description="Leave a size once its loss hardly falls; false: never.",
    )
    frames: Frames = Field(Frames(), description="Frames and film of the way.")
    output: Output = Field(Output(), description="The file of the result.")
    priority: Annotated[int, Field(ge=-1000, le=1000), BeforeValidator(number)] = Field(
        0, description="Higher first; then first come, first served."
    )

    def all_scales(self, height_px: int, width_px: int) -> tuple[Scale, ...]:
        """Give the sizes to paint at, coarse to fine, each with its iterations.

        `auto` halves the final size while pictures stay large enough to hold forms, and iterates more the
        smaller they are: a step at half the size costs a quarter.

        Args:
            height_px: of the content.
            width_px: of the content; `size: original` is the longer of both.
        """
        longest = max(height_px, width_px, 1)
        final = longest if self.size == "original" else self.size
        if isinstance(self.scales, list):
            coarse = [scale for scale in self.scales if scale.size < final]
        else:
            shape = min(height_px, width_px) / longest
            coarse = _halves(final, shape, self.iterations) if self.scales == "auto" else []
        return (*coarse, Scale.model_construct(size=final, iterations=self.iterations))

    def total_iterations(self, height_px: int, width_px: int) -> int:
        """Count the iterations over all sizes of a content's road."""
        return sum(scale.iterations for scale in self.all_scales(height_px, width_px))


def scaled(height_px: int, width_px: int, longest_px: int) -> tuple[int, int]:
    """Scale a (height, width) so that its longest side is `longest_px`, keeping the aspect."""
    factor = longest_px / max(height_px, width_px, 1)
    return max(1, round(height_px * factor)), max(1, round(width_px * factor))


def _halves(final: int, shape: float, iterations: int) -> list[Scale]:
    """Give the coarse sizes of `auto`; `shape` is short side over long side."""
    coarse: list[Scale] = []
    size = final // 2
    while size >= _COARSEST_PX and size * shape >= _NARROWEST_PX:
        share = _AUTO_SHARES[min(len(coarse), len(_AUTO_SHARES) - 1)]
        coarse.insert(0, Scale(size=size, iterations=min(round(share * iterations), MAX_ITERATIONS)))
        size //= 2
    return coarse


_SHARED: Final[dict[str, Any]] = {
    "style_layers": [f"block{block}_conv1" for block in range(1, 6)],
    "tv_weight": 0,
    "pooling": "max",
    "init": "content",
}
_BALANCED: Final[dict[str, Any]] = {
    **_SHARED,
    "strength": 0.5,
    "iterations": 20,
    "scales": "auto",
    "objective": "balanced",
    "optimizer": "lbfgs",
    "content_layers": {"block4_conv2": 1},
    "init_colors": "style",
}
_PAPER: Final[dict[str, Any]] = {
    **_SHARED,
    "iterations": 100,
    "scales": "none",
    "objective": "paper",
    "optimizer": "adam",
    "learning_rate": 2,
    "content_weight": 1000,
    "style_weight": 0.01,
    "content_layers": {"block5_conv2": 1},
    "init_colors": "content",
}
PRESETS: Final[dict[str, dict[str, Any]]] = {
    "default": _BALANCED,
    "paper": _PAPER,
    "preview": {**_BALANCED, "size": 256},
    "fine": {**_BALANCED, "size": 1024, "iterations": 30},
}


def merged(preset: str | None, house: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Lay the layers of settings over each other, the sidecar's own on top.

    A preset that the sidecar names overrides the house's keys, since the person asked for it, and takes the
    place of the house's own preset, which lies below them. A key set to null counts as not set. Of the house's
    scales those are kept that are smaller than a size which the sidecar names without scales.

    Args:
        preset: the sidecar's preset, or None where it names none.
        house: the config's `defaults`, its `preset` included.
        own: the sidecar's keys.
    """
    house_keys = {key: value for key, value in house.items() if key != "preset"}
    if preset:
        layers = [house_keys, PRESETS.get(preset, {}), own]
    else:
        layers = [PRESETS.get(str(house.get("preset") or "default"), {}), house_keys, own]
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if value is None:
                continue
            below = result.get(key)
            if key in {"frames", "output"} and isinstance(below, dict) and isinstance(value, dict):
                result[key] = {**below, **value}
            else:
                result[key] = value
    if isinstance(result.get("scales"), list) and own.get("scales") is None:
        result["scales"] = [scale for scale in result["scales"] if not _reaches(scale, own.get("size"))]
    return result


def _reaches(scale: Any, size: Any) -> bool:
    """Tell whether a scale, not validated yet, is as large as a size."""
    longest = scale.get("size") if isinstance(scale, dict) else None
    return isinstance(longest, int) and isinstance(size, int) and longest >= size
