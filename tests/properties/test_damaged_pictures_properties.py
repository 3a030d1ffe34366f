"""Damaged pictures of every format in many variants are pictures or failures, within bounds."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from damage import damaged, limited
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image
from support import hostile, profiles

from daemon.errors import Failure, JobError, Reason
from daemon.pictures import decoding, encoding
from daemon.settings import Output

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.job import Picture

MEGAPIXELS: Final = 4
ENCODED_PIXELS: Final = 1e5
WEBP_SIDE_PX: Final = 16384  # the first size that a WebP header cannot hold
PNG_KINDS: Final = (
    b"IHDR PLTE IDAT IEND tRNS iCCP zTXt iTXt tEXt eXIf pHYs gAMA "
    b"acTL fcTL fdAT sRGB cHRM sBIT tIME bKGD abcd ABCD"
).split()


def _saved(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def _sound() -> list[bytes]:
    """Save small pictures in every allowed format: modes, compressions, metadata, animations, pages."""
    noise = np.random.default_rng(1).integers(0, 256, (10, 12, 4), np.uint8)
    rgba = Image.fromarray(noise)
    rgb, gray = rgba.convert("RGB"), rgba.convert("L")
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    palette, bits, cmyk = rgb.quantize(17), rgb.convert("1"), rgb.convert("CMYK")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"  # orientation, description
    metadata: dict[str, Any] = {
        "exif": exif,
        "icc_profile": struct.pack(">I", 200) + bytes(12) + b"RGB " + bytes(180),
    }
    compressions = ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "zstd", "lzma")
    return [
        *(_saved(image, "PNG") for image in (rgba, rgb, gray, deep, palette, bits, gray.convert("LA"))),
        _saved(rgb, "PNG", dpi=(72, 72), **metadata),
        _saved(palette, "PNG", transparency=3),
        _saved(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90, expand=False)]),
        *(_saved(image, "JPEG") for image in (rgb, gray, cmyk)),
        _saved(rgb, "JPEG", progressive=True, comment="here", **metadata),
        _saved(rgb, "MPO", save_all=True, append_images=[gray.convert("RGB")]),
        *(_saved(image, "WEBP", lossless=lossless) for image in (rgba, rgb) for lossless in (True, False)),
        _saved(rgb, "WEBP", **metadata),
        _saved(rgba, "WEBP", save_all=True, append_images=[rgba.rotate(90)], duration=50),
        *(_saved(image, "TIFF") for image in (rgba, rgb, gray, deep, palette, bits, cmyk)),
        *(_saved(rgb, "TIFF", compression=name) for name in compressions),
        _saved(bits, "TIFF", compression="group4"),
        _saved(rgb, "TIFF", save_all=True, append_images=[gray], **metadata),
        _saved(Image.fromarray(noise[..., 0].astype(np.float32)), "TIFF"),
        *(_saved(image, "AVIF", quality=50) for image in (rgba, rgb, gray)),
        _saved(rgb, "AVIF", save_all=True, append_images=[rgb.rotate(90)]),
        _saved(rgba, "PNG", icc_profile=profiles.rgb(profiles.DISPLAY_P3)),
        _saved(cmyk, "TIFF", icc_profile=profiles.cmyk()),
        _saved(gray, "JPEG", icc_profile=profiles.gray(1.8)),
        *(_saved(image, "BMP") for image in (rgba, rgb, gray, palette, bits)),
        *(_saved(image, "GIF") for image in (rgb, gray, bits)),
        _saved(rgb, "GIF", interlace=True, transparency=2, comment=b"here"),
        _saved(rgb, "GIF", save_all=True, append_images=[gray, rgb.rotate(9)], disposal=2, loop=0),
    ]


BOMBS: Final = [data for case in hostile.bombs() for name, data in case.files.items() if "hostile" in name]
SOURCES: Final = st.sampled_from([*_sound(), *BOMBS])
PNGS: Final = st.sampled_from([data for data in _sound() if data.startswith(b"\x89PNG")])


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Split a PNG into its chunks' kinds and contents."""
    place, found = 8, []
    while place + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, place)
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    return found


@st.composite
def damaged_png(draw: st.DrawFn) -> bytes:
    """Change chunks, pixels before their compression too, and make the check sums right again."""
    data = draw(PNGS)
    parts = chunks(data)
    for _ in range(draw(st.integers(1, 4))):
        number = draw(st.integers(0, len(parts) - 1))
        kind, content = parts[number]
        match draw(st.sampled_from(["remove", "copy", "rename", "pixels", "content"])):
            case "remove" if len(parts) > 1:
                del parts[number]
            case "copy":
                parts.insert(draw(st.integers(0, len(parts))), (kind, content))
            case "rename":
                parts[number] = (draw(st.sampled_from(PNG_KINDS)), content)
            case "pixels":
                with contextlib.suppress(zlib.error):
                    content = zlib.decompress(content)
                parts[number] = (kind, zlib.compress(draw(damaged(st.just(content)))))
            case _:
                parts[number] = (kind, draw(damaged(st.just(content))))
    return data[:8] + b"".join(hostile.png_chunk(kind, content) for kind, content in parts)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=damaged(SOURCES) | damaged_png(), format_=st.sampled_from(list(encoding.SUFFIXES)))
def test_a_damaged_picture_is_painted_or_refused_within_bounds(
    tmp_path: Path, data: bytes, format_: str
) -> None:
    """It is read as RGB no larger than allowed, and written with its EXIF; or a failure says why."""
    path = tmp_path / "damaged"
    path.write_bytes(data)
    with limited():
        picture = _read(path)
        if isinstance(picture, Failure):
            assert picture.reason in {Reason.NOT_A_PICTURE, Reason.PICTURE_TOO_LARGE}
            assert picture.message.encode("utf-8")
            event(picture.reason)
            return
        event("painted")
        height, width, depth = picture.shape
        assert (depth, picture.dtype) == (3, np.uint8)
        assert 0 < height * width <= MEGAPIXELS * 1e6
        exif = encoding.carried_exif(path, "all")
        if height * width < ENCODED_PIXELS and max(height, width) < WEBP_SIDE_PX:
            assert encoding.encode(picture, Output(format=format_), exif)


def _read(path: Path) -> Picture | Failure:
    try:
        return decoding.read(path, MEGAPIXELS)
    except JobError as error:
        return error.failure
