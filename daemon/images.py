"""Pictures in files to arrays and back; the only place that knows Pillow."""

from __future__ import annotations

import errno
import io
import itertools
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from daemon.errors import Failure, JobError, Reason
from daemon.job import printable
from daemon.settings import scaled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from daemon.job import Picture

FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # JPEG includes phones' MPO
SUFFIXES: Final = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tiff"}
MIN_SIDE_PX: Final = 16  # VGG19 halves a picture four times before its fifth block
FILM_FRAMES: Final = 120
FILM_SIZE_PX: Final = 1024
FRAME_MS: Final = 120
LAST_FRAME_MS: Final = 2000
_OF_THE_DISK: Final = {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
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
        OSError: the disk it lies on does not give it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata that Pillow can do without
            # An open file, not its path: Pillow maps the pixels of some files, and then forgets to turn them.
            with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
                _check_header(image, max_megapixels, name or path.name)
                image.load()
                return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except JobError:
        raise
    except MemoryError:
        raise JobError(_too_large(name or path.name, "it needs more memory than there is")) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise
        raise JobError(_no_picture(name or path.name, error)) from None  # Pillow raises nearly anything


def header_size(path: Path) -> tuple[int, int]:
    """Read height and width as they are stored, before any EXIF orientation; nothing is decoded.

    Raises:
        OSError: it cannot be read, or is no picture of an allowed format.
    """
    with Image.open(path, formats=FORMATS) as image:
        return image.height, image.width


def _check_header(image: Image.Image, max_megapixels: float, name: str) -> None:
    width, height = image.size
    if width * height > max_megapixels * 1e6:
        raise JobError(_too_large(name, f"{width} x {height} px is more than {max_megapixels:g} megapixels"))


def _too_large(name: str, why: str) -> Failure:
    return Failure(
        Reason.PICTURE_TOO_LARGE,
        f"{name}: {why}",
        hint="scale it down, or raise inbox.max_megapixels",
        file=name,
    )


def _no_picture(name: str, error: Exception) -> Failure:
    if isinstance(error, FileNotFoundError):
        return Failure(Reason.NOT_A_PICTURE, f"{name}: no such file", file=name)
    known = isinstance(error, UnidentifiedImageError)
    cause = "" if known else f" ({printable(str(error))[:100] or type(error).__name__})"
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
        grey = (np.clip(np.asarray(image), 0, 65535).astype(np.uint32) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
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
    fitted = scaled(height, width, longest)
    if min(fitted) < MIN_SIDE_PX:
        raise JobError(
            Failure(
                Reason.PICTURE_TOO_NARROW,
                f"{width} x {height} px scaled to {longest} px is {min(fitted)} px on its short side",
                hint=f"VGG19 needs {MIN_SIDE_PX} px: use a larger size, or crop the picture",
            )
        )
    return fitted


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


def animate(frames: Sequence[Path], format: str, beat: Callable[[], None] = lambda: None) -> bytes:  # noqa: A002
    """Make a looping film of frame files, scaled to the last one's size, that rests on the last.

    At most `FILM_FRAMES` of them, evenly chosen, and at most `FILM_SIZE_PX` on the longest side: a film is to
    be watched, and its frames lie beside it. `beat` is called for each of them, and may end it.
    """
    step = max(1, -(-(len(frames) - 1) // (FILM_FRAMES - 1)))  # the last one comes on top
    chosen = [*frames[:-1:step], frames[-1]]
    with Image.open(frames[-1]) as last:
        scale = min(1.0, FILM_SIZE_PX / max(last.size))
        size = (max(1, round(last.width * scale)), max(1, round(last.height * scale)))

    def pictures() -> Iterator[Image.Image]:
        for path in chosen:
            beat()
            with Image.open(path) as image:
                yield image.convert("RGB").resize(size, Image.Resampling.LANCZOS)

    first = next(pictures())
    options: dict[str, Any] = {"quality": 85} if format == "webp" else {}
    buffer = io.BytesIO()
    first.save(
        buffer,
        format.upper(),
        save_all=True,
        append_images=itertools.islice(pictures(), 1, None),
        duration=[FRAME_MS] * (len(chosen) - 1) + [LAST_FRAME_MS],
        loop=0,
        **options,
    )
    return buffer.getvalue()
