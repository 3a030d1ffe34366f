"""Pictures as files: format, depth, color profile, and what a file says of how it was made."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, PngImagePlugin
from PIL.ExifTags import IFD, Base

from daemon import __version__
from daemon.errors import Failure, JobError, Reason
from daemon.pictures import decoding, srgb
from daemon.settings import Output

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from daemon.job import DeepPicture, Picture

SUFFIXES: Final = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tiff", "avif": ".avif"}
WITH_ALPHA: Final = {"png", "webp", "tiff", "avif"}
PLAIN: Final = Output(metadata="none")
SOFTWARE: Final = f"styletransferd {__version__}"
# The IPTC's term for "augmentation, correction or enhancement using a Generative AI model".
SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
XMP: Final = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="{SOFTWARE}"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/>
</rdf:RDF></x:xmpmeta><?xpacket end="r"?>"""
_SAFE: Final = {
    *(Base.Make, Base.Model, Base.Artist, Base.Copyright),
    *(Base.DateTime, Base.DateTimeOriginal, Base.DateTimeDigitized),
}
# Of EXIF's main directory; what is not in it says how a TIFF or a thumbnail is stored.
_ALL: Final = {
    *(*_SAFE, Base.ImageDescription, Base.XResolution, Base.YResolution, Base.ResolutionUnit, Base.Software),
    *(Base.HostComputer, *range(Base.XPTitle, Base.XPSubject + 1)),
}
_NOT_OF_THE_RESULT: Final = {Base.ColorSpace, Base.ExifImageWidth, Base.ExifImageHeight, IFD.Interop}
_MAX_EXIF_BYTES: Final = 65_000  # a segment of a JPEG holds little more
_SAVE: Final[dict[str, dict[str, Any]]] = {  # without `output.quality`
    "png": {"compress_level": 4},
    "jpeg": {"quality": 95, "subsampling": "4:4:4"},
    "webp": {"lossless": True},
    # Slower speeds gain 0.3 dB in six times the time; with more threads the bytes would depend on their number.
    "avif": {"quality": 90, "subsampling": "4:4:4", "speed": 8, "max_threads": 1},
}


def carried_exif(path: Path, metadata: str) -> bytes:
    """Take from a photo's EXIF what `output.metadata` lets a result carry; nothing where it is damaged.

    Neither its orientation is carried, as `decoding.decode` applies it, nor a thumbnail.
    """
    if metadata == "none":
        return b""
    carried, is_all = Image.Exif(), metadata == "all"
    # Pillow raises exceptions of many kinds.
    with contextlib.suppress(Exception), decoding.opened(path) as image:
        found = Image.Image.getexif(image)  # a PNG's own method decodes the picture
        carried.update(_as_read(found, _ALL if is_all else _SAFE))
        inner = found.get_ifd(IFD.Exif)
        tags = set(inner) - _NOT_OF_THE_RESULT if is_all else _SAFE & set(inner)
        if tags:
            carried[IFD.Exif] = {tag: inner[tag] for tag in tags}
        if is_all and (place := found.get_ifd(IFD.GPSInfo)):
            carried[IFD.GPSInfo] = place
        data = carried.tobytes()
        return data if carried and len(data) <= _MAX_EXIF_BYTES else b""
    return b""


def _as_read(exif: Image.Exif, tags: Iterable[int]) -> dict[int, Any]:
    """Take tags, and give texts back their bytes: Pillow reads Latin-1, but would write ASCII."""
    found = {tag: exif[tag] for tag in tags if tag in exif}
    return {tag: value.encode("latin-1") if isinstance(value, str) else value for tag, value in found.items()}


def encode(picture: Picture | DeepPicture, output: Output = PLAIN, exif: bytes = b"") -> bytes:
    """Encode a picture, (H, W, 3) RGB or with alpha (H, W, 4), with the sRGB profile and EXIF.

    Its samples may have 16 bits for png and tiff.

    Raises:
        JobError: the format holds no picture so large (webp: over 16383 px a side).
    """
    if output.format == "tiff":
        return _tiff(picture, output, exif)
    if picture.dtype == np.uint16:
        return _deep_png(picture, output, exif)
    options = {**_SAVE[output.format], "icc_profile": srgb.profile(), "exif": exif, **_texts(output)}
    if output.quality and output.format != "png":
        options |= {"quality": output.quality, "lossless": False}
    buffer = io.BytesIO()
    try:
        Image.fromarray(picture).save(buffer, output.format, **options)
    except (OSError, ValueError, RuntimeError) as error:
        height, width = picture.shape[:2]
        why = f"{width} x {height} px cannot be written as {output.format}: {error}"
        hint = "choose another output.format, or a smaller size"
        raise JobError(Failure(Reason.PICTURE_TOO_LARGE, why, hint)) from None
    return buffer.getvalue()


def _texts(output: Output) -> dict[str, Any]:
    """Say how the picture was made: Pillow writes the first to PNG, the other to all other formats."""
    if output.metadata == "none":
        return {}
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Software", SOFTWARE)
    texts.add_itxt("XML:com.adobe.xmp", XMP)
    return {"pnginfo": texts, "xmp": XMP.encode()}


def _deep_png(picture: Picture | DeepPicture, output: Output, exif: bytes) -> bytes:
    """Put a picture of 16 bits, which Pillow does not write, in the place of a pixel (PNG, chapter 11)."""
    height, width, channels = picture.shape
    plain = encode(np.zeros((1, 1, channels), np.uint8), output, exif)
    rows = np.ones((height, 1 + 2 * channels * width), np.uint8)  # each begins with its filter: 1, Sub
    samples = picture.astype(">u2").view(np.uint8)  # (H, W, 2 * channels)
    rows[:, 1:] = np.diff(samples, axis=1, prepend=np.uint8(0)).reshape(height, -1)
    buffer = io.BytesIO()
    buffer.write(plain[:8])
    PngImagePlugin.putchunk(buffer, b"IHDR", struct.pack(">IIB", width, height, 16), plain[25:29])
    buffer.write(plain[33 : plain.rindex(b"IDAT") - 4])  # profile, EXIF and texts
    PngImagePlugin.putchunk(buffer, b"IDAT", zlib.compress(rows.data, 4))
    PngImagePlugin.putchunk(buffer, b"IEND")
    return buffer.getvalue()


def _tiff(picture: Picture | DeepPicture, output: Output, exif: bytes) -> bytes:
    """Write a TIFF, deflated in one strip after the horizontal predictor (TIFF 6.0); EXIF is its directory.

    Pillow writes none of 16 bits, and no EXIF into a deflated one.
    """
    height, width, channels = picture.shape
    rows = np.diff(picture, axis=1, prepend=picture.dtype.type(0))
    strip = zlib.compress(rows.astype(picture.dtype.newbyteorder("<"), copy=False).data, 4)
    directory = Image.Exif()
    directory.load(exif)
    directory.endian = "<"
    facts: dict[int, Any] = {
        Base.ImageWidth: width,
        Base.ImageLength: height,
        Base.BitsPerSample: (8 * picture.itemsize,) * channels,
        Base.Compression: 8,
        Base.PhotometricInterpretation: 2,  # RGB
        Base.StripOffsets: 0,  # to which Pillow adds the length of the directory
        Base.SamplesPerPixel: channels,
        Base.RowsPerStrip: height,
        Base.StripByteCounts: len(strip),
        Base.Predictor: 2,
    }
    directory.update(_as_read(directory, list(directory)) | facts)
    if channels == 4:  # noqa: PLR2004
        directory[Base.ExtraSamples] = 2  # alpha, not premultiplied
    directory[Base.InterColorProfile] = srgb.profile()
    if output.metadata != "none":
        directory.update({Base.Software: SOFTWARE, Base.XMLPacket: XMP.encode()})
    return directory.tobytes().removeprefix(b"Exif\0\0") + strip
