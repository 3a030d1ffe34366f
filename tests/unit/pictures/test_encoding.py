"""A result's file: its format, depth and profile, and what it says of the photo and of how it was made."""

from __future__ import annotations

import io
import struct
import tracemalloc
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from PIL.ExifTags import IFD, Base

from daemon.errors import JobError, Reason
from daemon.pictures import encoding, srgb
from daemon.settings import Output

if TYPE_CHECKING:
    from pathlib import Path

HEIGHT, WIDTH = 24, 32
RAMP = np.linspace(0, 255, HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
DEEP = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 4), np.uint16)

LOSSLESS = ["png", "webp", "tiff"]
EVERY = [*({"format": format_} for format_ in encoding.SUFFIXES), {"format": "png", "bits": 16}]
EVERY += [{"format": "tiff", "bits": 16}]
DATE = "2023:01:02 03:04:05"
PLACE = {1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 36.0)}
SAFE = {Base.Make: "Canon", Base.Model: "EOS", Base.Artist: "Zo\u00eb", Base.Copyright: "(c) Zo\u00eb"}


def opened(data: bytes) -> Image.Image:
    """Decode a file with Pillow."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def encoded(keys: dict[str, Any], **parts: Any) -> bytes:
    """Encode a small picture of the depth that is asked for."""
    picture = DEEP[..., :3] if keys.get("bits") == 16 else RAMP
    return encoding.encode(np.ascontiguousarray(picture), Output(**keys), **parts)


# Formats, quality and depth


@pytest.mark.parametrize("format_", encoding.SUFFIXES)
def test_every_format_can_be_written_and_read(format_: str) -> None:
    """What is encoded decodes again, to the bit where the format loses nothing."""
    image = opened(encoded({"format": format_}))

    assert image.format == format_.upper()
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - RAMP).max() <= (0 if format_ in LOSSLESS else 12)


@pytest.mark.parametrize("format_", ["jpeg", "webp", "avif"])
def test_quality_is_size(format_: str) -> None:
    """A higher quality takes more bytes and has less error; without one a webp has none."""
    found = [encoding.encode(NOISE, Output(format=format_, quality=quality)) for quality in (20, 60, 100)]
    errors = [np.abs(np.asarray(opened(data)).astype(int) - NOISE).mean() for data in found]
    assert len(found[0]) < len(found[1]) < len(found[2])
    assert errors[0] > errors[1] > errors[2]
    if format_ != "webp":
        default = Output(format=format_, quality={"jpeg": 95, "avif": 90}[format_])
        assert encoding.encode(NOISE, Output(format=format_)) == encoding.encode(NOISE, default)


@pytest.mark.parametrize("format_", ["jpeg", "avif"])
def test_color_has_the_resolution_of_brightness(format_: str) -> None:
    """Red and blue pixels in turn stay apart: 4:4:4, where 4:2:0 would make them purple."""
    turns = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    turns[:, ::2, 0] = turns[:, 1::2, 2] = 255

    image = opened(encoding.encode(turns, Output(format=format_)))

    assert np.abs(np.asarray(image).astype(int) - turns).max() < 40
    if format_ == "jpeg":
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("format_", ["png", "tiff"])
def test_sixteen_bits_are_kept(tmp_path: Path, format_: str, channels: int) -> None:
    """Another reader finds every value, with alpha or without."""
    picture = np.ascontiguousarray(DEEP[..., :channels])
    path = tmp_path / f"deep.{format_}"
    path.write_bytes(encoding.encode(picture, Output(format=format_, bits=16)))

    read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)

    order = cv2.COLOR_BGR2RGB if channels == 3 else cv2.COLOR_BGRA2RGBA
    assert np.array_equal(cv2.cvtColor(read, order), picture)


@pytest.mark.parametrize("format_", LOSSLESS)
def test_alpha_is_kept(format_: str) -> None:
    """A picture with alpha is read with the same alpha; only colors that cannot be seen may differ."""
    picture = np.dstack([RAMP, np.full((HEIGHT, WIDTH), 128, np.uint8)])
    image = opened(encoding.encode(picture, Output(format=format_)))
    assert image.mode == "RGBA"
    assert np.array_equal(np.asarray(image), picture)
    if format_ == "tiff":
        assert image.tag_v2[Base.ExtraSamples] == (2,)  # not premultiplied


def test_a_picture_too_large_for_its_format_is_a_jobs_failure() -> None:
    """WebP ends at 16383 px a side, AVIF at 65536; that fails the job, with a way out, and not the service."""
    for format_, width in (("webp", 16400), ("avif", 70_000), ("jpeg", 70_000)):
        with pytest.raises(JobError) as caught:
            encoding.encode(np.zeros((1, width, 3), np.uint8), Output(format=format_))
        assert caught.value.failure.reason is Reason.PICTURE_TOO_LARGE
        assert "output.format" in caught.value.failure.hint


# What a file says


@pytest.mark.parametrize("keys", EVERY)
def test_a_color_profile_is_embedded(tmp_path: Path, keys: dict[str, Any]) -> None:
    """Every format and depth says that it is sRGB."""
    assert opened(encoded(keys)).info["icc_profile"] == srgb.profile()


@pytest.mark.parametrize("keys", EVERY)
def test_a_result_says_how_it_was_made(keys: dict[str, Any]) -> None:
    """XMP has the program and the IPTC's source type, unless nothing is to be said; PNG has a text as well."""
    image = opened(encoded(keys))
    (description,) = ET.fromstring(image.info["xmp"])[0]  # noqa: S314
    facts = {name.partition("}")[2]: value for name, value in description.attrib.items()}
    assert facts["CreatorTool"] == encoding.SOFTWARE
    assert facts["DigitalSourceType"].endswith("/digitalsourcetype/compositeWithTrainedAlgorithmicMedia")
    if keys["format"] == "png":
        assert image.text["Software"] == encoding.SOFTWARE
    if keys["format"] == "tiff":
        assert image.tag_v2[Base.Software] == encoding.SOFTWARE
    silent = encoded({**keys, "metadata": "none"})
    assert b"adobe" not in silent
    assert b"styletransferd" not in silent


@pytest.mark.parametrize("keys", EVERY)
def test_the_same_picture_is_the_same_file(keys: dict[str, Any]) -> None:
    """No time and no chance gets into it."""
    assert encoded(keys) == encoded(keys)


def photo(path: Path, format_: str) -> Path:
    """Write a photo with EXIF: a turned picture, a thumbnail, a place, and much of the camera."""
    exif = Image.Exif()
    exif.update({tag: text.encode() for tag, text in SAFE.items()})
    exif.update({Base.Orientation: 6, Base.Software: "Other", Base.ImageDescription: "At home"})
    exif[IFD.Exif] = {
        Base.DateTimeOriginal: DATE,
        Base.BodySerialNumber: "SERIAL",
        Base.LensModel: "50 mm",
        Base.CameraOwnerName: "OWNER",
        Base.MakerNote: b"NOTE",
        Base.ExifImageWidth: 4000,
        Base.ExposureTime: TiffImagePlugin.IFDRational(1, 60),
    }
    exif[IFD.GPSInfo] = PLACE
    if format_ == "TIFF":
        path.write_bytes(encoding.encode(RAMP, Output(format="tiff"), exif=exif.tobytes()))
        return path
    if format_ == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    data = bytearray(exif.tobytes())
    behind_the_main_directory = 6 + 8 + 2 + 12 * len(exif)
    data[behind_the_main_directory : behind_the_main_directory + 4] = struct.pack(">I", len(data) - 6)
    entries = struct.pack(">HHHIIHHIII", 2, 0x201, 4, 1, len(data) - 6 + 30, 0x202, 4, 1, 9, 0)
    Image.fromarray(RAMP).save(path, format_, exif=bytes(data) + entries + b"THUMBNAIL")
    return path


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF"])
def test_safe_metadata_are_date_camera_and_names(tmp_path: Path, format_: str) -> None:
    """From a photo of any format into a result of any: nothing says where, or with which device."""
    exif = encoding.carried_exif(photo(tmp_path / "photo", format_), "safe")
    for keys in EVERY:
        result = encoded(keys, exif=exif)
        found = opened(result).getexif()
        texts = {tag: found[tag].encode("latin-1").decode() for tag in SAFE}
        assert texts == SAFE
        assert found.get_ifd(IFD.Exif) == {Base.DateTimeOriginal: DATE}
        assert IFD.GPSInfo not in found
        assert found.get(Base.Orientation, 1) == 1
        for secret in (b"SERIAL", b"NOTE", b"OWNER", b"At home", b"50 mm", b"Other", b"THUMBNAIL"):
            assert secret not in result


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_metadata_are_all_but_what_is_wrong_of_the_result(tmp_path: Path, format_: str) -> None:
    """Place, device and lens are carried; orientation, width and thumbnail are those of the photo alone."""
    exif = encoding.carried_exif(photo(tmp_path / "photo", format_), "all")
    for keys in EVERY:
        result = encoded({**keys, "metadata": "all"}, exif=exif)
        found = opened(result).getexif()
        inner = found.get_ifd(IFD.Exif)
        assert found.get_ifd(IFD.GPSInfo) == PLACE
        assert (found[Base.ImageDescription], found.get(Base.Orientation, 1)) == ("At home", 1)
        assert (inner[Base.BodySerialNumber], inner[Base.MakerNote]) == ("SERIAL", b"NOTE")
        assert inner[Base.ExposureTime] == TiffImagePlugin.IFDRational(1, 60)
        assert Base.ExifImageWidth not in inner
        assert b"THUMBNAIL" not in result


@pytest.mark.parametrize("keys", EVERY)
def test_no_metadata_are_none(tmp_path: Path, keys: dict[str, Any]) -> None:
    """A result may be the picture alone."""
    assert encoding.carried_exif(photo(tmp_path / "photo", "JPEG"), "none") == b""
    found = opened(encoded({**keys, "metadata": "none"}))
    assert not set(found.getexif()) & {*SAFE, Base.Software, IFD.Exif, IFD.GPSInfo}
    assert "xmp" not in found.info


def test_damaged_and_huge_exif_is_left_out(tmp_path: Path) -> None:
    """What cannot be read, or is more than a JPEG can hold, costs its own loss and not the job."""
    path, exif = tmp_path / "photo", Image.Exif()
    exif[Base.ImageDescription] = "x" * 100_000
    for data in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0rubbish", exif.tobytes()):
        Image.fromarray(RAMP).save(path, "PNG", exif=data)
        assert encoding.carried_exif(path, "all") == b""
    assert encoding.carried_exif(path, "safe") == b""
    path.write_bytes(b"no picture")
    assert encoding.carried_exif(path, "all") == b""


def test_tags_that_share_their_values_do_not_fill_the_memory(tmp_path: Path) -> None:
    """A hundred tags may name the same megabyte: they take little more than the file does."""
    named, at = 1 << 20, 10_000
    tags = b"".join(struct.pack("<HHII", tag, 7, named, at) for tag in range(50_000, 50_100))
    head = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, IFD.Exif, 4, 1, 26, 0)
    exif = (head + struct.pack("<H", 100) + tags).ljust(at + named, b"x")
    Image.fromarray(RAMP).save(tmp_path / "photo", "PNG", exif=exif)
    tracemalloc.start()
    assert encoding.carried_exif(tmp_path / "photo", "all") == b""
    assert tracemalloc.get_traced_memory()[1] < 10 * named
    tracemalloc.stop()
