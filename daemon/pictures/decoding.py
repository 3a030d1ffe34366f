"""Picture files to arrays: recognized, limited, turned upright, in sRGB."""

from __future__ import annotations

import contextlib
import errno
import re
import warnings
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from daemon.errors import SCALE_DOWN, Failure, JobError, Reason, too_large, unreadable
from daemon.job import printable
from daemon.pictures import srgb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon.job import Picture

FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")  # JPEG includes MPO, which phones write
_HEIF: Final = re.compile(rb"....ftyp.{0,24}?(hei[cxms]|hev[cxms])", re.DOTALL)  # brands of HEIC files
WHITE: Final = "#ffffff"
ANIMATED: Final = "it is animated: only its first picture is used"
_OF_THE_DISK: Final = {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_FILMS: Final = {"PNG", "WEBP", "GIF", "AVIF"}  # the further pictures of the others are no animation
_OPAQUE: Final = 255
_BLACK: Final = 16  # levels below which a mask has no white: what JPEG makes of black


class Decoded(NamedTuple):
    """A picture in 8-bit sRGB: RGB, or RGBA where anything is transparent; and what its owner should know."""

    image: Image.Image
    warnings: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Its (height, width)."""
        return self.image.height, self.image.width

    @property
    def alpha(self) -> Picture | None:
        """Its alpha channel, (H, W); None where everything is opaque."""
        return np.asarray(self.image.getchannel("A")) if self.image.mode == "RGBA" else None

    def cropped(self) -> Decoded:
        """Cut off what is transparent on every side."""
        return self if self.image.mode == "RGB" else self._replace(image=self.image.crop(self.image.getbbox()))

    def over(self, background: str) -> Picture:
        """Lay it on `#rrggbb`, or for `auto` on the mean color of its opaque part: (H, W, 3) RGB."""
        if self.image.mode == "RGB":
            return np.asarray(self.image)
        color = self._mean_color() if background == "auto" else background
        ground = Image.new("RGBA", self.image.size, color)
        return np.asarray(Image.alpha_composite(ground, self.image).convert("RGB"))

    def _mean_color(self) -> tuple[int, ...] | str:
        """Average the colors, each as far as it is opaque; white where nothing is."""
        pixels = np.asarray(self.image)  # (H, W, 4)
        colors, alpha = pixels[..., :3], pixels[..., 3]
        whole = alpha.sum(dtype=np.uint64)
        sums = np.einsum("hwc,hw->c", colors, alpha, dtype=np.uint64)  # in pieces: no copy of the picture
        return tuple(np.rint(sums / whole).astype(int).tolist()) if whole else WHITE


def read(path: Path, max_megapixels: float, name: str = "") -> Picture:
    """Decode a picture as `decode` does, and lay it on white: (H, W, 3) uint8 sRGB."""
    with _errors_of(name or path.name):
        return decode(path, max_megapixels, name).over(WHITE)


def require_white(mask: Picture, name: str) -> None:
    """Raise JobError for a mask, (H, W, 3), that is black everywhere."""
    if mask.max() < _BLACK:
        hint = "paint white where the painting counts, and save the mask again"
        raise JobError(Failure(Reason.EMPTY_MASK, f"{name}: the mask is black everywhere", hint, file=name))


def decode(path: Path, max_megapixels: float, name: str = "") -> Decoded:
    """Decode a picture, apply its EXIF orientation, and convert it to sRGB as `srgb.converted` does.

    A picture above `max_megapixels` is refused before anything is decoded. Errors call the file `name`.

    Raises:
        JobError: the file is not a picture of an allowed format, is damaged, or is too large.
        OSError: the disk cannot read the file.
    """
    name = name or path.name
    with _errors_of(name), opened(path) as image:
        _check_header(image, max_megapixels, name)
        image.load()
        converted, warning = srgb.converted(ImageOps.exif_transpose(image))
        if converted.mode == "RGBA" and converted.getchannel("A").getextrema()[0] == _OPAQUE:
            converted = converted.convert("RGB")
        animated = ANIMATED if _is_film(image) else ""
        return Decoded(converted, tuple(filter(None, (warning, animated))))


@contextlib.contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """Raise what goes wrong with a picture as JobError, but errors of the disk as they are."""
    try:
        yield
    except JobError:
        raise
    except MemoryError:
        raise JobError(too_large(name, "it needs more memory than there is")) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise
        raise JobError(_no_picture(name, error)) from None  # Pillow raises exceptions of many kinds


def _is_film(image: Image.Image) -> bool:
    with contextlib.suppress(Exception):  # it is the later pictures that are damaged
        return image.format in _FILMS and bool(getattr(image, "is_animated", False))
    return False


def header_size(path: Path) -> tuple[int, int]:
    """Read a picture's stored height and width, before any EXIF orientation; OSError if it is not one."""
    with opened(path) as image:
        return image.height, image.width


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture without decoding it; Pillow's warnings about damaged metadata are suppressed.

    A file is opened, not its path: Pillow memory-maps some files and then ignores their orientation.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with path.open("rb") as file, Image.open(file, formats=_formats(file.peek())) as image:
            yield image


def _formats(head: bytes) -> tuple[str, ...]:
    """List the formats that a file may have; ImportError if it begins like a HEIC that nothing can decode."""
    if not _HEIF.match(head):
        return FORMATS
    import pillow_heif  # noqa: PLC0415 - an extra, and only needed now

    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return ("HEIF",)


def _check_header(image: Image.Image, max_megapixels: float, name: str) -> None:
    width, height = image.size
    if width * height > max_megapixels * 1e6:
        why = f"{width} x {height} px is more than {max_megapixels:g} megapixels"
        raise JobError(too_large(name, why, f"{SCALE_DOWN}, or raise inbox.max_megapixels"))


def _no_picture(name: str, error: Exception) -> Failure:
    if isinstance(error, FileNotFoundError):
        return Failure(Reason.NOT_A_PICTURE, f"{name}: no such file", file=name)
    if isinstance(error, ImportError):
        hint = "install the decoder, the extra `heif`: pip install pillow-heif; or export the picture as JPEG"
        return Failure(Reason.NOT_A_PICTURE, f"{name}: HEIC pictures cannot be decoded here", hint, file=name)
    if isinstance(error, UnidentifiedImageError):
        return unreadable(name, f"not a readable picture in any of the formats {', '.join(FORMATS)}")
    cause = printable(str(error))[:100] or type(error).__name__
    return unreadable(name, f"not a readable picture ({cause})")
