"""Picture files to arrays and back; the only module that imports Pillow."""

from __future__ import annotations

import contextlib
import errno
import io
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from daemon.errors import SCALE_DOWN, Failure, JobError, Reason, too_large, unreadable
from daemon.job import printable
from daemon.settings import scaled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from daemon.job import Picture

FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # JPEG includes MPO, which phones write
SUFFIXES: Final = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tiff"}
LUMA: Final = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601
MIN_SIDE_PX: Final = 16  # VGG19 pools a picture four times before its fifth block: 16 px become 1
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

# `read` checks the size in the header before decoding; Pillow's own limit only warns up to twice its value.
Image.MAX_IMAGE_PIXELS = None


def read(path: Path, max_megapixels: float, name: str = "") -> Picture:
    """Decode a picture: apply its EXIF orientation, convert any mode to RGB, put transparency on white.

    A picture above `max_megapixels` is refused before anything is decoded. Errors call the file `name`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        JobError: the file is not a picture of an allowed format, is damaged, or is too large.
        OSError: the disk cannot read the file.
    """
    name = name or path.name
    try:
        with _opened(path) as image:
            _check_header(image, max_megapixels, name)
            image.load()
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except JobError:
        raise
    except MemoryError:
        raise JobError(too_large(name, "it needs more memory than there is")) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise
        raise JobError(_no_picture(name, error)) from None  # Pillow raises exceptions of many kinds


def header_size(path: Path) -> tuple[int, int]:
    """Read a picture's stored height and width, before any EXIF orientation; OSError if it is not one."""
    with _opened(path) as image:
        return image.height, image.width


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture without decoding it; Pillow's warnings about damaged metadata are suppressed.

    A file is opened, not its path: Pillow memory-maps some files and then ignores their orientation.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            yield image


def _check_header(image: Image.Image, max_megapixels: float, name: str) -> None:
    width, height = image.size
    if width * height > max_megapixels * 1e6:
        why = f"{width} x {height} px is more than {max_megapixels:g} megapixels"
        raise JobError(too_large(name, why, f"{SCALE_DOWN}, or raise inbox.max_megapixels"))


def _no_picture(name: str, error: Exception) -> Failure:
    if isinstance(error, FileNotFoundError):
        return Failure(Reason.NOT_A_PICTURE, f"{name}: no such file", file=name)
    if isinstance(error, UnidentifiedImageError):
        return unreadable(name, f"not a readable picture in any of the formats {', '.join(FORMATS)}")
    cause = printable(str(error))[:100] or type(error).__name__
    return unreadable(name, f"not a readable picture ({cause})")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit gray; a direct conversion to RGB would clip to white
        gray = (np.clip(np.asarray(image), 0, 65535).astype(np.uint32) + 128) // 257
        return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pictures have no defined white")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def icc_profile(path: Path) -> bytes | None:
    """Read the RGB color profile of a picture, to be embedded in the result."""
    with _opened(path) as image:
        profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and profile[16:20] == b"RGB " else None


def fit(height: int, width: int, longest: int) -> tuple[int, int]:
    """Scale a (height, width) as `scaled` does; JobError if its short side would be below `MIN_SIDE_PX`."""
    fitted = scaled(height, width, longest)
    if min(fitted) < MIN_SIDE_PX:
        why = f"{width} x {height} px scaled to {longest} px is {min(fitted)} px on its short side"
        hint = f"VGG19 needs {MIN_SIDE_PX} px: use a larger size or style_scale, or crop the picture"
        raise JobError(Failure(Reason.PICTURE_TOO_NARROW, why, hint))
    return fitted


def resize(picture: Picture, height: int, width: int) -> Picture:
    """Resample to (height, width, 3) with Pillow's LANCZOS."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def cover(picture: Picture, height: int, width: int) -> Picture:
    """Resample to (height, width, 3); crop the longer dimension instead of distorting the picture."""
    return np.asarray(ImageOps.fit(Image.fromarray(picture), (width, height), Image.Resampling.LANCZOS))


def encode(picture: Picture, format: str, profile: bytes | None = None) -> bytes:  # noqa: A002
    """Encode a picture as a png, jpeg, webp or tiff file; JobError if it is too large (webp: over 16383 px)."""
    buffer = io.BytesIO()
    extra = {"icc_profile": profile} if profile else {}
    try:
        Image.fromarray(picture).save(buffer, format, **_SAVE[format], **extra)
    except (OSError, ValueError) as error:
        height, width = picture.shape[:2]
        why = f"{width} x {height} px cannot be written as {format}: {error}"
        hint = "choose another output.format, or a smaller size"
        raise JobError(Failure(Reason.PICTURE_TOO_LARGE, why, hint)) from None
    return buffer.getvalue()


def animate(frames: Sequence[Path], format: str, beat: Callable[[], None] = lambda: None) -> bytes:  # noqa: A002
    """Make a looping webp or gif animation that pauses on its last frame.

    It has at most `FILM_FRAMES` of the frames, evenly chosen, at the size of the last one, but at most
    `FILM_SIZE_PX` on its longest side, since the frames themselves are published beside it. An exception that
    `beat` raises before a frame ends the encoding.
    """
    step = max(1, -(-(len(frames) - 1) // (FILM_FRAMES - 1)))  # the last frame is added to these
    chosen = [*frames[:-1:step], frames[-1]]
    with Image.open(frames[-1]) as last:
        height, width = scaled(last.height, last.width, min(FILM_SIZE_PX, max(last.size)))

    def pictures() -> Iterator[Image.Image]:
        for path in chosen:
            beat()
            with Image.open(path) as image:
                yield image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)

    film = pictures()
    durations = [FRAME_MS] * (len(chosen) - 1) + [LAST_FRAME_MS]
    options: dict[str, Any] = {"quality": 85} if format == "webp" else {}
    buffer = io.BytesIO()
    next(film).save(buffer, format, save_all=True, append_images=film, duration=durations, loop=0, **options)
    return buffer.getvalue()
