"""Every mode, depth and profile becomes sRGB: compared with what NumPy makes of the profile's definition."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from support import profiles
from support.hostile import png_chunk
from support.profiles import ADOBE_RGB, DISPLAY_P3, SRGB

from daemon import images, srgb

if TYPE_CHECKING:
    from pathlib import Path

    from support.profiles import Colors

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
SAVED_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GAMMA = 461 / 256  # 1.8, as a profile holds it


def saved(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    """Write a picture with Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def deep_png(pixels: Any, profile: bytes = b"") -> bytes:
    """Write a PNG of 16 bits a channel, which Pillow does not."""
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [png_chunk(b"IHDR", header)]
    if profile:
        chunks.append(png_chunk(b"iCCP", b"it\0\0" + zlib.compress(profile)))
    chunks += [png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def deep_tiff(pixels: Any, order: str) -> bytes:
    """Write a TIFF of 16 bits a channel, in one strip, in the byte order `<` or `>`."""
    data = pixels.astype(f"{order}u2").tobytes()
    start = 8 + len(data) + len(data) % 2
    tags = [(256, 4, 1, SIDE), (257, 4, 1, SIDE), (258, 3, 3, start), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, SIDE), (279, 4, 1, len(data))]
    entries = b"".join(
        struct.pack(f"{order}HHI", *tag[:3])
        + struct.pack(f"{order}H2x" if tag[1:3] == (3, 1) else f"{order}I", tag[3])
        for tag in tags
    )
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, start + 6)
    return head + data + struct.pack(f"{order}3HH", 16, 16, 16, len(tags)) + entries + bytes(4)


def with_alpha(image: Image.Image) -> Image.Image:
    """Add an alpha channel."""
    image = image.copy()
    image.putalpha(Image.fromarray(ALPHA))
    return image


def palette() -> Image.Image:
    """A picture of 64 colors."""
    return Image.fromarray(RGB).quantize(64)


def inks(**options: Any) -> Image.Image:
    """A picture of four inks."""
    return Image.frombytes("CMYK", (SIDE, SIDE), (options.get("inks", INKS)).tobytes())


def three(gray: Any) -> Colors:
    """Gray levels as red, green and blue."""
    return np.repeat(np.asarray(gray, float)[..., None], 3, -1)


PALETTE_RGB = np.asarray(palette().convert("RGB"), float)
P3, ADOBE, DIM = profiles.rgb(DISPLAY_P3), profiles.rgb(ADOBE_RGB), profiles.gray(1.8)
IN_P3 = profiles.rgb_in_srgb(RGB.astype(float), DISPLAY_P3)
PLAIN_CMYK = (255.0 - INKS[..., :3]) * (255 - INKS[..., 3:]) / 255
# Name: the file, and its colors in sRGB.
CASES: dict[str, tuple[bytes, Colors]] = {
    "RGB.png": (saved(Image.fromarray(RGB)), RGB),
    "RGB P3.png": (saved(Image.fromarray(RGB), icc_profile=P3), IN_P3),
    "RGB P3.tif": (saved(Image.fromarray(RGB), "TIFF", icc_profile=P3), IN_P3),
    "RGB P3.webp": (saved(Image.fromarray(RGB), "WEBP", lossless=True, icc_profile=P3), IN_P3),
    "RGB Adobe.png": (
        saved(Image.fromarray(RGB), icc_profile=ADOBE),
        profiles.rgb_in_srgb(RGB.astype(float), ADOBE_RGB),
    ),
    "smooth Adobe.jpg": (
        saved(Image.fromarray(SMOOTH.astype(np.uint8)), "JPEG", quality=100, subsampling=0, icc_profile=ADOBE),
        profiles.rgb_in_srgb(SMOOTH, ADOBE_RGB),
    ),
    "palette P3.png": (saved(palette(), icc_profile=P3), profiles.rgb_in_srgb(PALETTE_RGB, DISPLAY_P3)),
    "gray.png": (saved(Image.fromarray(GRAY)), three(GRAY)),
    "gray dim.png": (saved(Image.fromarray(GRAY), icc_profile=DIM), profiles.gray_in_srgb(GRAY * 1.0, GAMMA)),
    "gray dim.jpg": (
        saved(Image.fromarray(GRAY), "JPEG", quality=100, icc_profile=DIM),
        profiles.gray_in_srgb(GRAY * 1.0, GAMMA),
    ),
    "gray with an RGB profile.png": (
        saved(Image.fromarray(GRAY), icc_profile=ADOBE),
        profiles.rgb_in_srgb(three(GRAY), ADOBE_RGB),
    ),
    "one bit.png": (saved(Image.fromarray(GRAY > 99)), three((GRAY > 99) * 255)),
    "one bit dim.png": (saved(Image.fromarray(GRAY > 99), icc_profile=DIM), three((GRAY > 99) * 255)),
    "16-bit gray.png": (deep_png(DEEP), three(DEEP / 257)),
    "16-bit gray dim.png": (deep_png(DEEP, DIM), profiles.gray_in_srgb(DEEP / 257, GAMMA)),
    "16-bit gray linear.png": (deep_png(DEEP, profiles.gray(1)), profiles.gray_in_srgb(DEEP / 257, 1)),
    "16-bit gray big endian.tif": (
        saved(Image.frombytes("I;16B", (SIDE, SIDE), DEEP.astype(">u2").tobytes()), "TIFF"),
        three(DEEP / 257),
    ),
    "16-bit RGB.png": (deep_png(DEEP_RGB), DEEP_RGB / 257),
    "16-bit RGB P3.png": (deep_png(DEEP_RGB, P3), profiles.rgb_in_srgb(DEEP_RGB / 257, DISPLAY_P3)),
    "16-bit RGB.tif": (deep_tiff(DEEP_RGB, "<"), DEEP_RGB / 257),
    "16-bit RGB big endian.tif": (deep_tiff(DEEP_RGB, ">"), DEEP_RGB / 257),
    "CMYK.tif": (saved(inks(), "TIFF"), PLAIN_CMYK),
    "CMYK inks.tif": (saved(inks(), "TIFF", icc_profile=profiles.cmyk()), profiles.cmyk_in_srgb(INKS * 1.0)),
    "CMYK inks.jpg": (
        saved(inks(), "JPEG", quality=100, subsampling=0, icc_profile=profiles.cmyk()),
        profiles.cmyk_in_srgb(INKS * 1.0),
    ),
    "smooth P3.avif": (
        saved(
            Image.fromarray(SMOOTH.astype(np.uint8)), "AVIF", quality=100, subsampling="4:4:4", icc_profile=P3
        ),
        profiles.rgb_in_srgb(SMOOTH, DISPLAY_P3),
    ),
}


def decode(data: bytes, tmp_path: Path) -> images.Decoded:
    """Decode a file from its bytes."""
    (tmp_path / "dropped").write_bytes(data)
    return images.decode(tmp_path / "dropped", 1.0)


@pytest.mark.parametrize("name", CASES)
def test_every_picture_is_read_in_srgb(name: str, tmp_path: Path) -> None:
    """The mean error is below one level for RGB and gray, below three for inks; nothing is warned about."""
    data, expected = CASES[name]

    found = decode(data, tmp_path)

    error = np.abs(np.asarray(found.image, float) - expected)
    assert found.warnings == ()
    assert error.mean() < (CMYK_LIMIT if "CMYK" in name else RGB_LIMIT)


@pytest.mark.parametrize("name", ["RGBA", "LA"])
def test_a_profile_leaves_alpha_alone(name: str, tmp_path: Path) -> None:
    """Colors are converted and the alpha channel is kept to the bit."""
    image = with_alpha(Image.fromarray(RGB if name == "RGBA" else GRAY))
    expected = IN_P3 if name == "RGBA" else profiles.gray_in_srgb(GRAY * 1.0, GAMMA)

    found = decode(saved(image, icc_profile=P3 if name == "RGBA" else DIM), tmp_path)

    assert image.mode == name
    assert np.abs(np.asarray(found.image, float)[..., :3] - expected).mean() < RGB_LIMIT
    assert np.array_equal(found.alpha, ALPHA)


@pytest.mark.parametrize("profile", [None, SAVED_SRGB, srgb.profile()], ids=["none", "saved", "own"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_srgb_stays_as_it_is(mode: str, profile: bytes | None, tmp_path: Path) -> None:
    """With an sRGB profile or without one, not one bit of a picture changes."""
    image = {
        "RGB": Image.fromarray(RGB),
        "RGBA": with_alpha(Image.fromarray(RGB)),
        "L": Image.fromarray(GRAY),
        "P": palette(),
    }[mode]

    found = decode(saved(image, icc_profile=profile), tmp_path)

    expected = image if mode == "RGBA" else image.convert("RGB")
    assert np.array_equal(np.asarray(found.image), np.asarray(expected))


def test_a_profile_that_is_nearly_srgb_is_not_taken_for_it(tmp_path: Path) -> None:
    """The primaries of sRGB with a plain power differ in the shadows, where they are converted."""
    found = decode(saved(Image.fromarray(RGB), icc_profile=profiles.rgb(SRGB)), tmp_path)

    assert np.abs(np.asarray(found.image, float) - profiles.rgb_in_srgb(RGB * 1.0, SRGB)).mean() < 0.5
    assert np.abs(np.asarray(found.image, float) - RGB).max() > 5


BROKEN = {
    "garbage": (b"garbage", "RGB"),
    "cut off": (P3[:200], "RGB"),
    "no curves": (P3[:132] + bytes(len(P3) - 132), "RGB"),
    "another color space": (DIM, "RGB"),
    "inks": (profiles.cmyk(), "RGB"),
    "inks of gray": (profiles.cmyk(), "L"),
    "RGB of inks": (P3, "CMYK"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_profile_that_cannot_be_used_is_warned_of(name: str, tmp_path: Path) -> None:
    """The picture is then read as if it had none."""
    profile, mode = BROKEN[name]
    image = {"RGB": Image.fromarray(RGB), "L": Image.fromarray(GRAY), "CMYK": inks()}[mode]

    found = decode(saved(image, "TIFF", icc_profile=profile), tmp_path)

    assert found.warnings == (srgb.UNUSABLE,)
    assert np.array_equal(found.over("auto"), decode(saved(image, "TIFF"), tmp_path).over("auto"))


def test_the_profile_of_results_is_srgb_and_always_the_same() -> None:
    """It has no date of now, and any program reads it."""
    read = ImageCms.ImageCmsProfile(io.BytesIO(srgb.profile()))

    assert "sRGB" in ImageCms.getProfileDescription(read)
    assert srgb.profile()[24:36] == b"\x07\xd0\0\1\0\1\0\0\0\0\0\0"
