"""Any decoded picture to 8-bit sRGB: by its embedded color profile, or by a plain conversion."""

from __future__ import annotations

import functools
import io
from typing import Final

import numpy as np
from PIL import Image, ImageCms

UNUSABLE: Final = "its color profile cannot be used: it is read as sRGB, or as plain CMYK"
_SAME_LEVELS: Final = 1  # files of the one sRGB profile round its curve differently
_LEVELS: Final = np.arange(0, 256, 15)  # of each channel of the colors that are compared
_DATE: Final = slice(24, 36)  # in a profile's header
_YEAR_2000: Final = b"\x07\xd0\0\1\0\1\0\0\0\0\0\0"


@functools.cache
def profile() -> bytes:
    """Give the profile of every result; its date is not that of now, so that results are repeatable."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    made[_DATE] = _YEAR_2000
    return bytes(made)


def converted(image: Image.Image) -> tuple[Image.Image, str]:
    """Convert to RGB, or to RGBA where there is an alpha channel; and say if its profile cannot be used.

    By the profile: perceptual intent, black point compensation, 16-bit gray before it is rounded to 8 bits; one
    that moves no color by more than a level is sRGB, and changes nothing. Without one, RGB and gray are sRGB,
    and red is (255 - C) (255 - K) / 255 of CMYK, and so on. The picture itself may be changed.
    """
    data = None if image.mode == "LAB" else image.info.get("icc_profile")
    coded = _coded(image)
    if not data:
        return _plain(coded), ""
    try:
        return _by_profile(coded, data), ""
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return _plain(coded), UNUSABLE


def _coded(image: Image.Image) -> Image.Image:
    """Bring any mode to L, LA, I;16, RGB, RGBA or CMYK, without a loss."""
    if image.mode == "F":
        raise ValueError("floating-point pictures have no defined white")
    if image.mode.startswith("I"):
        return Image.fromarray(np.clip(np.asarray(image), 0, 65535).astype(np.uint16))
    if image.mode == "CMYK":
        return image
    mode = "L" if image.mode in {"1", "L", "LA"} else "RGB"
    if image.has_transparency_data:
        mode += "A"
    return image if image.mode == mode else image.convert(mode)


def _plain(image: Image.Image) -> Image.Image:
    if image.mode == "I;16":  # a direct conversion would clip to white
        gray = (np.asarray(image).astype(np.uint32) + 128) // 257
        image = Image.fromarray(gray.astype(np.uint8))
    mode = "RGBA" if image.mode.endswith("A") else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _by_profile(image: Image.Image, data: bytes) -> Image.Image:
    """Convert by an embedded profile; PyCMSError, OSError, TypeError or ValueError if it cannot be used."""
    embedded = ImageCms.ImageCmsProfile(io.BytesIO(data))
    if embedded.profile.xcolor_space == "RGB " and image.mode != "CMYK":
        image = _plain(image)  # gray has such a profile, too
    colors, alpha = image, None
    if image.mode == "LA":
        colors, alpha = image.split()
    transform = ImageCms.buildTransform(
        embedded,
        ImageCms.createProfile("sRGB"),
        colors.mode,
        "RGBA" if colors.mode == "RGBA" else "RGB",
        ImageCms.Intent.PERCEPTUAL,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if _is_srgb(transform, colors.mode):
        return _plain(image)
    if colors.mode.startswith("RGB"):
        transform.apply_in_place(colors)
    else:
        colors = transform.apply(colors)
    if alpha is not None:
        colors.putalpha(alpha)
    return colors


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Compare a transform with the plain conversion of gray levels, or of thousands of colors."""
    if mode == "CMYK":
        return False
    if mode.startswith("RGB"):
        colors = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS), -1).reshape(1, -1, 3)
        probe = Image.fromarray(colors.astype(np.uint8)).convert(mode)
    elif mode == "L":
        probe = Image.fromarray(_LEVELS.astype(np.uint8)[None])
    else:
        probe = Image.fromarray((_LEVELS * 257).astype(np.uint16)[None])
    found, plain = (np.asarray(item, np.int16) for item in (transform.apply(probe), _plain(probe)))
    return bool(np.abs(found - plain).max() <= _SAME_LEVELS)
