"""Pictures in files to arrays and back; the only place that knows Pillow."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from daemon.errors import Failure, JobError, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from daemon.job import Picture

FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # JPEG includes phones' MPO
SUFFIXES: Final = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tiff"}
MIN_SIDE_PX: Final = 16  # VGG19 halves a picture four times before its fifth block
_SAVE: Final[dict[str, dict[str, Any]]] = {
    "png": {"compress_level": 4},
    "jpeg": {"quality": 95, "subsampling": 0},
    "webp": {"lossless": True},
    "tiff": {"compression": "tiff_deflate"},
}

# Our own cap is read from the header before anything is decoded; Pillow's would only warn at half of its limit.
Image.MAX_IMAGE_PIXELS = None


def read(path: Path, max_megapixels: float, name: str = "") -> Picture:
    """Decode a picture whole: EXIF orientation applied, any mode made RGB, transparency laid on white.

    Args:
        path: the file.
        max_megapixels: a larger picture is refused from its header, before anything is decoded.
        name: what errors call the file.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        JobError: it is not a picture of an allowed format, is damaged, or is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata that Pillow can do without
            with Image.open(path, formats=FORMATS) as image:
                _check_header(image, max_megapixels, name or path.name)
                image.load()
                return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except JobError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - Pillow raises nearly anything on hostile files
        raise JobError(_no_picture(name or path.name, error)) from None


def _check_header(image: Image.Image, max_megapixels: float, name: str) -> None:
    width, height = image.size
    if width * height > max_megapixels * 1e6:
        raise JobError(
            Failure(
                Reason.PICTURE_TOO_LARGE,
                f"{name}: {width} x {height} px is more than {max_megapixels:g} megapixels",
                hint="scale it down, or raise inbox.max_megapixels",
                file=name,
            )
        )


def _no_picture(name: str, error: Exception) -> Failure:
    cause = "" if isinstance(error, UnidentifiedImageError) else f" ({type(error).__name__})"
    return Failure(
        Reason.NOT_A_PICTURE,
        f"{name}: not a readable picture{cause}",
        hint=f"open it in a picture program and export it anew; formats: {', '.join(FORMATS)}",
        file=name,
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    """Make any mode 8-bit RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16 bits grey; converting to RGB directly would clip to white
        grey = np.asarray(image).astype(np.float64) / 257.0
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pictures have no agreed white")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def icc_profile(path: Path) -> bytes | None:
    """Get the RGB colour profile a readable picture carries, for the result to carry on."""
    with Image.open(path, formats=FORMATS) as image:
        profile = image.info.get("icc_profile")
    is_rgb = isinstance(profile, bytes) and profile[16:20] == b"RGB "
    return profile if is_rgb else None


def fit(height: int, width: int, longest: int) -> tuple[int, int]:
    """Scale a (height, width) so that its longest side is `longest`, keeping the aspect.

    Raises:
        JobError: the short side would be too short for VGG19.
    """
    scale = longest / max(height, width)
    scaled = round(height * scale), round(width * scale)
    if min(scaled) < MIN_SIDE_PX:
        raise JobError(
            Failure(
                Reason.PICTURE_TOO_NARROW,
                f"{width} x {height} px scaled to {longest} px is {min(scaled)} px on its short side",
                hint=f"VGG19 needs {MIN_SIDE_PX} px: use a larger size, or crop the picture",
            )
        )
    return scaled


def resize(picture: Picture, height: int, width: int) -> Picture:
    """Resample to (height, width, 3) with Pillow's LANCZOS."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def cover(picture: Picture, height: int, width: int) -> Picture:
    """Resample to fill (height, width, 3), cropping what overhangs instead of stretching."""
    return np.asarray(ImageOps.fit(Image.fromarray(picture), (width, height), Image.Resampling.LANCZOS))


def encode(picture: Picture, format: str, profile: bytes | None = None) -> bytes:  # noqa: A002
    """Write a picture as the bytes of a png, jpeg, webp or tiff file.

    Raises:
        JobError: the format holds no picture of this size (webp: 16383 px a side).
    """
    buffer = io.BytesIO()
    extra = {"icc_profile": profile} if profile else {}
    try:
        Image.fromarray(picture).save(buffer, format.upper(), **_SAVE[format], **extra)
    except (OSError, ValueError) as error:
        height, width = picture.shape[:2]
        message = f"{width} x {height} px cannot be written as {format}: {error}"
        raise JobError(
            Failure(Reason.PICTURE_TOO_LARGE, message, hint="choose another output.format, or a smaller size")
        ) from None
    return buffer.getvalue()


def animate(frames: Sequence[Path], format: str, frame_ms: int = 120, last_ms: int = 2000) -> bytes:  # noqa: A002
    """Make a looping film of frame files, all scaled to the last one's size; it rests on the last."""
    with Image.open(frames[-1]) as last:
        size = last.size
    pictures = []
    for path in frames:
        with Image.open(path) as image:
            pictures.append(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
    durations = [frame_ms] * (len(pictures) - 1) + [last_ms]
    options: dict[str, Any] = {"quality": 85} if format == "webp" else {}
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        format.upper(),
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
        **options,
    )
    return buffer.getvalue()
