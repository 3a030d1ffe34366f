"""Every mode, depth and profile becomes sRGB: compared with what NumPy makes of the profile's definition."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from support import profiles
from support.hostile import png_chunk
from support.profiles import ADOBE_RGB, DISPLAY_P3, SRGB, gray_in_srgb, rgb_in_srgb

from daemon.pictures import decoding, srgb

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 32
RGB_LIMIT, CMYK_LIMIT = 1.0, 3.0  # of the mean error in levels
RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
GRAY = RANDOM.integers(0, 256, (SIDE, SIDE), np.uint8)
DEEP = RANDOM.integers(0, 65536, (SIDE, SIDE), np.uint16)
DEEP_RGB = RANDOM.integers(0, 65536, (SIDE, SIDE, 3), np.uint16)
INKS = RANDOM.integers(0, 256, (SIDE, SIDE, 4), np.uint8)
ALPHA = RANDOM.integers(0, 255, (SIDE, SIDE), np.uint8)
SMOOTH = np.add.outer(np.arange(SIDE), 5 * np.arange(SIDE))[..., None] * np.array([1, -1, 0.5]) % 200 + 30
CMYK = Image.frombytes("CMYK", (SIDE, SIDE), INKS.tobytes())
PALETTE = Image.fromarray(RGB).quantize(64)
P3, ADOBE, DIM, INK = profiles.rgb(DISPLAY_P3), profiles.rgb(ADOBE_RGB), profiles.gray(1.8), profiles.cmyk()
GAMMA = 461 / 256  # 1.8, as a profile holds it
SAVED_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
OPTIONS = {
    "jpg": {"format": "JPEG", "quality": 100, "subsampling": 0},
    "webp": {"format": "WEBP", "lossless": True},
    "avif": {"format": "AVIF", "quality": 100, "subsampling": "4:4:4"},
    "tif": {"format": "TIFF"},
    "png": {"format": "PNG"},
}


def saved(picture: Any, suffix: str = "png", profile: bytes | None = None) -> bytes:
    """Write a Pillow image, or an array of 8 bits."""
    buffer = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture.astype(np.uint8))
    image.save(buffer, icc_profile=profile, **OPTIONS[suffix])
    return buffer.getvalue()


def deep_png(pixels: Any, profile: bytes) -> bytes:
    """Write a PNG of 16 bits a channel."""
    data = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()
    return data[:33] + png_chunk(b"iCCP", b"it\0\0" + zlib.compress(profile)) * bool(profile) + data[33:]


def deep_tiff(pixels: Any, order: str) -> bytes:
    """Write a TIFF of 16 bits a channel in a byte order."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, byteorder=order, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    return buffer.getvalue()


# Name: what is saved with its suffix, its profile, and the colors that its definition gives it in sRGB.
CASES: dict[str, tuple[Any, bytes | None, Any]] = {
    "RGB.png": (RGB, None, RGB),
    **{f"P3.{suffix}": (RGB, P3, rgb_in_srgb(RGB, DISPLAY_P3)) for suffix in ("png", "tif", "webp")},
    "Adobe.png": (RGB, ADOBE, rgb_in_srgb(RGB, ADOBE_RGB)),
    "smooth Adobe.jpg": (SMOOTH, ADOBE, rgb_in_srgb(SMOOTH, ADOBE_RGB)),
    "smooth P3.avif": (SMOOTH, P3, rgb_in_srgb(SMOOTH, DISPLAY_P3)),
    "palette P3.png": (PALETTE, P3, rgb_in_srgb(np.asarray(PALETTE.convert("RGB")), DISPLAY_P3)),
    "gray.png": (GRAY, None, GRAY[..., None]),
    "gray dim.png": (GRAY, DIM, gray_in_srgb(GRAY, GAMMA)),
    "gray dim.jpg": (GRAY, DIM, gray_in_srgb(GRAY, GAMMA)),
    "gray with an RGB profile.png": (GRAY, ADOBE, rgb_in_srgb(GRAY[..., None].repeat(3, -1), ADOBE_RGB)),
    "one bit.png": (Image.fromarray(GRAY > 99), None, (GRAY > 99)[..., None] * 255),
    "one bit dim.png": (Image.fromarray(GRAY > 99), DIM, (GRAY > 99)[..., None] * 255),
    "16-bit gray.png": (deep_png, b"", DEEP[..., None] / 257),
    "16-bit gray dim.png": (deep_png, DIM, gray_in_srgb(DEEP / 257, GAMMA)),
    "16-bit gray linear.png": (deep_png, profiles.gray(1), gray_in_srgb(DEEP / 257, 1)),
    "16-bit gray, little endian.tif": (deep_tiff, "<", DEEP[..., None] / 257),
    "16-bit gray, big endian.tif": (deep_tiff, ">", DEEP[..., None] / 257),
    "16-bit RGB.png": (deep_png, b"", DEEP_RGB / 257),
    "16-bit RGB P3.png": (deep_png, P3, rgb_in_srgb(DEEP_RGB / 257, DISPLAY_P3)),
    "16-bit RGB, little endian.tif": (deep_tiff, "<", DEEP_RGB / 257),
    "16-bit RGB, big endian.tif": (deep_tiff, ">", DEEP_RGB / 257),
    "CMYK.tif": (CMYK, None, (255.0 - INKS[..., :3]) * (255 - INKS[..., 3:]) / 255),
    "CMYK inks.tif": (CMYK, INK, profiles.cmyk_in_srgb(INKS)),
    "CMYK inks.jpg": (CMYK, INK, profiles.cmyk_in_srgb(INKS)),
}


def decode(data: bytes, tmp_path: Path) -> decoding.Decoded:
    """Decode a file from its bytes."""
    (tmp_path / "dropped").write_bytes(data)
    return decoding.decode(tmp_path / "dropped", 1.0)


@pytest.mark.parametrize("name", CASES)
def test_every_picture_is_read_in_srgb(name: str, tmp_path: Path) -> None:
    """The mean error is below one level for RGB and gray, below three for inks; nothing is warned about."""
    picture, profile, expected = CASES[name]
    if callable(picture):
        data = picture(DEEP_RGB if "RGB" in name else DEEP, profile)
    else:
        data = saved(picture, name.rpartition(".")[2], profile)

    found = decode(data, tmp_path)

    error = np.abs(np.asarray(found.image, float) - expected)
    assert found.warnings == ()
    assert error.mean() < (CMYK_LIMIT if "CMYK" in name else RGB_LIMIT)


@pytest.mark.parametrize(
    ("pixels", "profile", "expected"),
    [(RGB, P3, rgb_in_srgb(RGB, DISPLAY_P3)), (GRAY, DIM, gray_in_srgb(GRAY, GAMMA))],
    ids=["RGBA", "LA"],
)
def test_a_profile_leaves_alpha_alone(pixels: Any, profile: bytes, expected: Any, tmp_path: Path) -> None:
    """Colors are converted and the alpha channel is kept to the bit."""
    image = Image.fromarray(pixels)
    image.putalpha(Image.fromarray(ALPHA))

    found = decode(saved(image, profile=profile), tmp_path)

    assert np.abs(np.asarray(found.image, float)[..., :3] - expected).mean() < RGB_LIMIT
    assert np.array_equal(found.alpha, ALPHA)


@pytest.mark.parametrize("profile", [None, SAVED_SRGB, srgb.profile()], ids=["none", "saved", "own"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_srgb_stays_as_it_is(mode: str, profile: bytes | None, tmp_path: Path) -> None:
    """With an sRGB profile or without one, not one bit of a picture changes."""
    image = PALETTE if mode == "P" else Image.fromarray(INKS).convert(mode)

    found = decode(saved(image, profile=profile), tmp_path)

    assert np.array_equal(np.asarray(found.image), image if mode == "RGBA" else image.convert("RGB"))


def test_a_profile_that_is_nearly_srgb_is_not_taken_for_it(tmp_path: Path) -> None:
    """The primaries of sRGB with a plain power differ in the shadows, where they are converted."""
    found = np.asarray(decode(saved(RGB, profile=profiles.rgb(SRGB)), tmp_path).image, float)

    assert np.abs(found - rgb_in_srgb(RGB, SRGB)).mean() < 0.5
    assert np.abs(found - RGB).max() > 5


BROKEN = {
    "garbage": (b"garbage", RGB),
    "cut off": (P3[:200], RGB),
    "no curves": (P3[:132] + bytes(len(P3) - 132), RGB),
    "gray of RGB": (DIM, RGB),
    "inks of RGB": (INK, RGB),
    "inks of gray": (INK, GRAY),
    "RGB of inks": (P3, CMYK),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_profile_that_cannot_be_used_is_warned_of(name: str, tmp_path: Path) -> None:
    """The picture is then read as if it had none."""
    profile, picture = BROKEN[name]

    found = decode(saved(picture, "tif", profile), tmp_path)

    assert found.warnings == (srgb.UNUSABLE,)
    assert np.array_equal(found.image, decode(saved(picture, "tif"), tmp_path).image)


def test_the_profile_of_results_is_srgb_and_always_the_same() -> None:
    """It has no date of now, and any program reads it."""
    read = ImageCms.ImageCmsProfile(io.BytesIO(srgb.profile()))

    assert "sRGB" in ImageCms.getProfileDescription(read)
    assert srgb.profile()[24:36] == b"\x07\xd0\0\1\0\1\0\0\0\0\0\0"
