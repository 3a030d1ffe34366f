"""The settings of one job: every key, what it may be, and the sizes and iterations of `auto`."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, WithJsonSchema, WrapValidator

from daemon.errors import Reason
from daemon.validation import only, refusal, suggestion

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidationInfo, ValidatorFunctionWrapHandler

MIN_SIZE_PX: Final = 16
MAX_SIZE_PX: Final = 16384
MAX_ITERATIONS: Final = 100_000
# The coarse sizes of `scales: auto`.
_COARSEST_PX: Final = 128  # the least longest side
_NARROWEST_PX: Final = 32  # the least shortest side
# Iterations of `scales: auto` from each longest side on, in proportion: large forms settle at the coarse sizes,
# where a step is cheap, and the largest ones add strokes.
AUTO_ITERATIONS: Final = {0: 56, 256: 28, 512: 18, 1024: 12}
# VGG19 (Simonyan and Zisserman, 2015, table 1, column E): here, because sidecars name layers.
CONVOLUTIONS_PER_BLOCK: Final = (2, 2, 4, 4, 4)
LAYERS: Final = tuple(
    f"block{block}_conv{convolution}"
    for block, count in enumerate(CONVOLUTIONS_PER_BLOCK, start=1)
    for convolution in range(1, count + 1)
)


DEEP_FORMATS: Final = ("png", "tiff")  # which hold 16 bits
MATCH_LAYERS: Final = ("block3_conv1", "block4_conv1")  # of the relaxed earth mover's distance


def number(value: Any) -> Any:
    """Refuse booleans, YAML's reading of `yes` and `on`; pydantic would accept True as 1."""
    if isinstance(value, bool):
        raise refusal("a number")
    return value


def _layers(value: Any, handler: ValidatorFunctionWrapHandler) -> dict[str, float]:
    """Read `[a, b]` as equal weights, and `{a: 2}` as weights."""
    allowed = f"VGG19 layers from {LAYERS[0]} to {LAYERS[-1]}, as a list or as `layer: weight`"
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        names = [item for item in value if isinstance(item, str)]
        if len(names) != len(value) or len(set(names)) != len(names):
            raise refusal(f"{allowed}, each once")
        value = dict.fromkeys(names, 1.0)
    if not isinstance(value, dict) or not value:
        raise refusal(allowed)
    unknown = [str(name) for name in value if name not in LAYERS]
    if unknown:
        raise refusal(allowed, hint=suggestion(unknown[0], list(LAYERS)))
    weights: dict[str, float] = handler(value)
    has_share(weights.values())
    return weights


def has_share(weights: Iterable[float]) -> None:
    """Refuse weights that cannot be normalized to a sum of 1."""
    if not 0 < sum(weights) < float("inf"):
        raise refusal("weights with a sum above 0")


def plain_name(value: Any) -> Any:
    """Accept only the plain name of a file in the sidecar's own folder."""
    if not isinstance(value, str) or not value.strip():
        raise refusal("the name of a file in the same folder")
    if "/" in value or "\\" in value or "\0" in value or value.strip() in {".", ".."}:
        raise refusal("the plain name of a file in the same folder, not a path", Reason.PATH_OUTSIDE)
    return value


def _protect(value: Any) -> Any:
    """Refuse what is neither a word nor looks like a file: `protect: face` would wait for it forever."""
    words = ["faces", "none"]
    if isinstance(value, str) and (value in words or "." in plain_name(value)):
        return value
    hint = suggestion(str(value), words)
    raise refusal("faces, none, or the name of a mask picture in the same folder", hint=hint)


def _color(value: Any) -> Any:
    """Read `#RRGGBB` and `[r, g, b]` alike."""
    if isinstance(value, list) and len(value) == 3 and all(type(level) is int for level in value):  # noqa: PLR2004
        value = "#" + "".join(f"{level:02x}" for level in value)
    if isinstance(value, str) and re.fullmatch("auto|#[0-9a-f]{6}", value.lower()):
        return value.lower()
    raise refusal("auto, a color such as '#ffffff' (in quotes), or [255, 255, 255]")


Whole = Annotated[int, BeforeValidator(number)]
Real = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(number)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(number)]
Count = Annotated[int, Field(ge=1, le=MAX_ITERATIONS), BeforeValidator(number)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(number)]
StyleScale = Annotated[float, Field(ge=0.1, le=4, allow_inf_nan=False), BeforeValidator(number)]
PlainName = Annotated[str, BeforeValidator(plain_name)]
Pixels = Annotated[int, Field(ge=MIN_SIZE_PX, le=MAX_SIZE_PX), BeforeValidator(number)]
Size = Annotated[
    Pixels | Literal["original"], only(f"a number of pixels from {MIN_SIZE_PX} to {MAX_SIZE_PX}, or original")
]
_LEVEL: Final = {"type": "integer", "minimum": 0, "maximum": 255}
_COLOR: Final = {
    "anyOf": [
        {"type": "string", "pattern": "^(auto|#[0-9A-Fa-f]{6})$"},
        {"type": "array", "items": _LEVEL, "minItems": 3, "maxItems": 3},
    ]
}
_LAYER: Final = {"enum": list(LAYERS)}
_LAYER_LIST: Final = {"type": "array", "items": _LAYER, "uniqueItems": True, "minItems": 1}
_LAYER_MAPPING: Final = {
    "type": "object",
    "propertyNames": _LAYER,
    "additionalProperties": {"type": "number", "minimum": 0},
    "minProperties": 1,
}
LayerWeights = Annotated[
    dict[str, Amount], WrapValidator(_layers), WithJsonSchema({"anyOf": [_LAYER_LIST, _LAYER_MAPPING]})
]
Preset = Literal["default", "paper", "preview", "sheet", "fine"]


class Model(BaseModel):
    """A frozen model in which an unknown key is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def keyed(default: Any, description: str, *examples: Any, **rules: Any) -> Any:
    """Declare a key: what editors show of it, and what its value must keep to, as `Field` knows it."""
    return Field(default, description=description, examples=list(examples), **rules)


class Scale(Model):
    """One size of the coarse-to-fine painting, with its iterations."""

    size: Pixels = Field(description="Longest side in pixels.", examples=[128])
    iterations: Count = Field(description="Iterations at this size.", examples=[60])


_SCALE_LIST: Final = TypeAdapter(list[Scale])


def _scales(value: Any, info: ValidationInfo) -> Any:
    """Require that each scale is larger than the one before it, and the final size larger than all."""
    if value in ("auto", "none"):
        return value
    if not isinstance(value, list):
        raise refusal("auto, none, or a list of {size: 128, iterations: 60}")
    scales = _SCALE_LIST.validate_python(value)  # here, so that the key path names no branch of the union
    final = info.data.get("size")
    sizes = [scale.size for scale in scales] + ([final] if isinstance(final, int) else [])
    if any(smaller >= larger for smaller, larger in itertools.pairwise(sizes)):
        raise refusal("sizes that grow from one scale to the next and stay below the final size")
    return scales


class EarlyStop(Model):
    """When a scale ends before its last iteration."""

    improvement: Real = keyed(0.01, "The fraction by which the loss must fall...", 0.02, gt=0, lt=1)
    iterations: Count = keyed(10, "...within this many iterations.", 20)


def _early_stop(value: Any) -> Any:
    """Validate here, as in `_scales`; 0 is not false."""
    if value is False or isinstance(value, EarlyStop):
        return value
    if isinstance(value, dict):
        return EarlyStop.model_validate(value)
    raise refusal("false, or {improvement: 0.01, iterations: 10}")


class Frames(Model):
    """Which intermediate pictures are kept."""

    every: Whole = keyed(10, "Iterations from frame to frame; 0: none.", 5, ge=0, le=MAX_ITERATIONS)
    animation: Literal["none", "webp", "gif"] = keyed("webp", "Format of the animation, if any.", "gif")

    def keeps(self, iteration: int) -> bool:
        """Whether the picture of an iteration is kept as a frame."""
        return self.every > 0 and iteration % self.every == 0


class Region(Model):
    """A part of the photo that is painted with a painting of its own."""

    content: PlainName = Field(description="The mask, white where the photo is in it.", examples=["mask.png"])
    style: PlainName = Field(description="The painting for it.", examples=["waves.jpg"])
    style_mask: PlainName | None = keyed(
        None, "A mask of the painting, white where it counts; default: all of it.", "sky.png"
    )
    weight: Amount = keyed(1.0, "Strength of the style in this region.", 2)


def _bits(value: Any, info: ValidationInfo) -> Any:
    format_ = info.data.get("format", "png")  # a faulty format is reported as such
    if value == 16 and format_ not in DEEP_FORMATS:  # noqa: PLR2004
        raise refusal(f"8 for {format_}; 16 bits are for png and tiff")
    return value


class Output(Model):
    """How the result is saved."""

    format: Literal["png", "jpeg", "webp", "tiff", "avif"] = keyed("png", "The kind of file.", "jpeg")
    quality: Annotated[int, Field(ge=1, le=100), BeforeValidator(number)] | None = keyed(
        None, "1 to 100; default: 95 for jpeg, 90 for avif, no loss for webp.", 85
    )
    bits: Annotated[Literal[8, 16], BeforeValidator(_bits)] = keyed(8, "16 for png and tiff.", 16)
    metadata: Literal["none", "safe", "all"] = keyed(
        "safe", "What is carried of the photo's EXIF: safe leaves out the place and the device.", "none"
    )


class Settings(Model):
    """Everything that determines a result besides its input pictures."""

    strength: Fraction = keyed(
        0.5, "From 0, a hint of the style, to 1, almost only style; for objective balanced.", 0.2, 0.8
    )
    size: Size = keyed(512, "Longest side of the result in pixels, or original.", 1024, "original")
    iterations: Count = keyed(18, "Iterations at the final size.", 40)
    scales: Annotated[Literal["auto", "none"] | list[Scale], BeforeValidator(_scales)] = keyed(
        "auto", "Coarse sizes before the last; auto: its halves.", [{"size": 128, "iterations": 60}], "none"
    )
    objective: Literal["balanced", "paper"] = keyed("balanced", "The loss that is minimized.", "paper")
    optimizer: Literal["lbfgs", "adam"] = keyed("lbfgs", "The method that minimizes it.", "adam")
    learning_rate: Real = keyed(2.0, "Step size of Adam, in gray levels of 255.", 5, gt=0, le=1e6)
    content_weight: Amount = keyed(1000.0, "Weight of the content loss; for objective paper.", 2000)
    style_weight: Amount = keyed(0.01, "Weight of the style loss; for objective paper.", 0.1)
    content_layers: LayerWeights = keyed({"block4_conv2": 1.0}, "Layers of the content.", ["block5_conv2"])
    style_layers: LayerWeights = keyed(
        {f"block{block}_conv1": 1.0 for block in range(1, 6)}, "Layers of the style.", {"block3_conv1": 2}
    )
    style_scale: StyleScale = keyed(
        1.0, "Size of the strokes: the painting's size, in longest sides of the result.", 0.5, 2
    )
    match_weight: Fraction = keyed(0.2, "Share of the style loss of the nearest features; for balanced.", 0)
    tv_weight: Amount = keyed(0.0, "Weight of the total variation loss.", 0.0001)
    pooling: Literal["max", "avg"] = keyed("max", "VGG19's max pooling, or average pooling.", "avg")
    init: PlainName = keyed(
        "content", "The start: content, style, noise, or a picture's name.", "noise", "start.jpg"
    )
    init_colors: Literal["style", "content"] = keyed(
        "style", "Colors of a start from the content: adapted to the style, or unchanged.", "content"
    )
    preserve_color: Literal["none", "luminance", "match"] = keyed(
        "none", "What is kept of the photo's colors: none, luminance (all), match (their range).", "luminance"
    )
    chroma_limit: bool = keyed(True, "Limit the finest color contrasts to the painting's.", False)
    regions: tuple[Region, ...] = keyed(
        (),
        "Parts of the photo with paintings of their own.",
        [{"content": "mask.png", "style": "waves.jpg"}],
        max_length=16,
    )
    protect: Annotated[str, BeforeValidator(_protect)] = keyed(
        "faces", "Where the photo counts more: faces, none, or the white of a mask.", "none", "mask.png"
    )
    background: Annotated[str, BeforeValidator(_color), WithJsonSchema(_COLOR)] = keyed(
        "auto", "Color below transparent parts: auto, the mean of the opaque part, or a color.", "#ffffff"
    )
    alpha: Literal["keep", "flatten"] = keyed(
        "keep", "Transparency of the photo: kept in the result, but not in jpeg; or not.", "flatten"
    )
    seed: Whole = keyed(0, "For noise.", 7, ge=0, lt=2**63)
    early_stop: Annotated[EarlyStop | Literal[False], BeforeValidator(_early_stop)] = keyed(
        False, "End a scale once its loss hardly falls; false: never.", {"improvement": 0.01, "iterations": 10}
    )
    frames: Frames = keyed(Frames(), "Pictures of the way, and their animation.", {"every": 5})
    output: Output = keyed(Output(), "The file of the result.", {"format": "jpeg", "quality": 95})
    priority: Whole = keyed(
        0, "Jobs of higher priority start first; then first come, first served.", 10, ge=-1000, le=1000
    )

    @property
    def match_layers(self) -> tuple[str, ...]:
        """Give the layers whose features are matched with the style's nearest ones."""
        return MATCH_LAYERS if self.objective == "balanced" and self.match_weight > 0 else ()

    def all_scales(self, height_px: int, width_px: int) -> tuple[Scale, ...]:
        """List the sizes to paint at, coarse to fine, each with its iterations.

        `auto` halves the final size while the pictures stay large enough to show shapes, with more iterations
        at smaller sizes: a step at half the size costs a quarter. Height and width are the content's.
        """
        longest = max(height_px, width_px, 1)
        final = longest if self.size == "original" else self.size
        if isinstance(self.scales, list):
            coarse = [scale for scale in self.scales if scale.size < final]
        else:
            shape = min(height_px, width_px) / longest
            coarse = _halves(final, shape, self.iterations) if self.scales == "auto" else []
        return (*coarse, Scale.model_construct(size=final, iterations=self.iterations))


def scaled(height_px: int, width_px: int, longest_px: int) -> tuple[int, int]:
    """Scale a (height, width) so that its longest side is `longest_px`, keeping the aspect."""
    factor = longest_px / max(height_px, width_px, 1)
    return max(1, round(height_px * factor)), max(1, round(width_px * factor))


def at_most(height_px: int, width_px: int, most_px: int) -> tuple[int, int]:
    """Scale a (height, width) down to a longest side of `most_px`; what is smaller stays."""
    return scaled(height_px, width_px, min(most_px, max(height_px, width_px)))


def _halves(final: int, shape: float, iterations: int) -> list[Scale]:
    """List the coarse sizes of `auto`; `shape` is short side over long side."""
    coarse: list[Scale] = []
    size = final // 2
    while size >= _COARSEST_PX and size * shape >= _NARROWEST_PX:
        share = _auto_iterations(size) / _auto_iterations(final)
        coarse.insert(0, Scale(size=size, iterations=min(round(share * iterations), MAX_ITERATIONS)))
        size //= 2
    return coarse


def _auto_iterations(size: int) -> int:
    """Give the iterations at a longest side, as many as the default preset would make there."""
    return next(count for least, count in reversed(AUTO_ITERATIONS.items()) if size >= least)
