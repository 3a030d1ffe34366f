"""Any picture becomes 8-bit RGB as a person sees it; any other file is reported as not a picture."""

from __future__ import annotations

import io
import random
import struct
import sys
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from support import hostile, profiles
from support.profiles import DISPLAY_P3

from daemon.errors import JobError, Reason
from daemon.pictures import decoding

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.job import Picture

    Reader = Callable[..., Picture]

HEIGHT, WIDTH = 24, 32
RAMP = np.linspace(0, 255, HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3).astype(np.uint8)


def saved(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    """Write a picture with Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    """Read a picture from its bytes, in a file whose name says nothing."""

    def reader(data: bytes, max_megapixels: float = 1.0) -> Picture:
        (tmp_path / "dropped").write_bytes(data)
        return decoding.read(tmp_path / "dropped", max_megapixels, "a.jpg")

    return reader


def reason(read: Reader, data: bytes, **options: float) -> Reason:
    """Read what must be refused, and give the reason; any other exception leaves this function."""
    with pytest.raises(JobError) as caught:
        read(data, **options)
    assert caught.value.failure.file == "a.jpg"
    return caught.value.failure.reason


# What is read


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied(read: Reader, orientation: int, format_: str) -> None:
    """All eight orientations are turned upright, by the definition of the tag and not by Pillow's word."""
    upright = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    upright[: HEIGHT // 2, : WIDTH // 2] = 255, 0, 0
    upright[: HEIGHT // 2, WIDTH // 2 :] = 0, 255, 0
    upright[HEIGHT // 2 :, : WIDTH // 2] = 0, 0, 255
    stored = {
        1: upright,
        2: upright[:, ::-1],  # row 0 at the top, column 0 at the right
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),  # row 0 at the left, column 0 at the top
        6: upright.transpose(1, 0, 2)[::-1],  # row 0 at the right, column 0 at the top
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
        "WEBP": {"lossless": True},
    }.get(format_, {})

    picture = read(saved(Image.fromarray(np.ascontiguousarray(stored)), format_, exif=exif, **options))

    assert picture.shape == upright.shape
    assert np.abs(picture.astype(int) - upright).max() < (90 if format_ in {"JPEG", "AVIF"} else 1)
    for row, column in ((2, 2), (2, -3), (-3, 2), (-3, -3)):
        assert np.abs(picture[row, column].astype(int) - upright[row, column]).max() < 10


@pytest.mark.parametrize(
    "exif",
    [
        b"garbage",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"MM\0*\0\0\0\x08\0\1" + struct.pack(">HHI4s", 0x0112, 2, 2, b"6\0\0\0") + b"\0" * 4,
        b"MM\0*\0\0\0\x08\0\1" + struct.pack(">HHI4s", 0x0112, 3, 1, b"\0\x63\0\0") + b"\0" * 4,
        b"MM\0*\0\0\0\x08\0\1" + struct.pack(">HHII", 0x8769, 4, 1, 0xFFFFFF) + b"\0" * 4,
    ],
    ids=["garbage", "cut off", "orientation as text", "orientation 99", "pointer into nowhere"],
)
def test_damaged_exif_costs_no_picture(read: Reader, exif: bytes) -> None:
    """A picture whose metadata is broken is read as it is stored."""
    plain = read(saved(Image.fromarray(RAMP), "JPEG"))

    assert np.array_equal(read(saved(Image.fromarray(RAMP), "JPEG", exif=b"Exif\0\0" + exif)), plain)


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF", "BMP"])
def test_rgb_is_read_as_it_is(read: Reader, format_: str) -> None:
    """A lossless picture comes out to the bit."""
    options = {"lossless": True} if format_ == "WEBP" else {}

    picture = read(saved(Image.fromarray(RAMP), format_, **options))

    assert picture.dtype == np.uint8
    assert np.array_equal(picture, RAMP)


def test_gray_becomes_three_equal_channels(read: Reader) -> None:
    """Gray levels are kept."""
    picture = read(saved(Image.fromarray(RAMP[..., 0])))

    assert np.array_equal(picture, np.repeat(RAMP[..., :1], 3, axis=2))


def test_one_bit_is_black_and_white(read: Reader) -> None:
    """Bits become 0 and 255."""
    bits = RAMP[..., 0] > 127

    assert np.array_equal(read(saved(Image.fromarray(bits)))[..., 1], bits * 255)


@pytest.mark.parametrize("format_", ["PNG", "GIF", "TIFF", "BMP"])
def test_palettes_are_looked_up(read: Reader, format_: str) -> None:
    """A palette picture has its palette's colors, not its indices."""
    image = Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 4)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])

    picture = read(saved(image, format_))

    assert picture[0, :4].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]]


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255, 51])], ids=["index", "alpha"])
def test_transparent_palette_entries_are_white(read: Reader, transparency: int | bytes) -> None:
    """An entry that is transparent lies on white, in part where it is so in part."""
    image = Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 4)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0])

    picture = read(saved(image, transparency=transparency))

    last = 0 if transparency == 1 else 204
    assert picture[0, :4].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255], [last] * 3]


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_on_white(read: Reader, format_: str) -> None:
    """RGBA is blended with white: color times alpha plus white times the rest."""
    alpha = np.linspace(0, 255, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1)
    rgba = np.concatenate([RAMP[::-1], alpha.astype(np.uint8)], axis=2)
    expected = rgba[..., :3] * (rgba[..., 3:] / 255.0) + 255.0 * (1 - rgba[..., 3:] / 255.0)
    options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}

    picture = read(saved(Image.fromarray(rgba), format_, **options))

    assert np.abs(picture - expected).max() <= 1.0
    assert picture[0, 0].tolist() == [255, 255, 255]


def test_gray_with_transparency_lies_on_white(read: Reader) -> None:
    """LA is gray and alpha, not two colors."""
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[: HEIGHT // 2] = 255

    picture = read(saved(Image.merge("LA", [Image.new("L", (WIDTH, HEIGHT), 100), Image.fromarray(alpha)])))

    assert picture[0, 0].tolist() == [100, 100, 100]
    assert picture[-1, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 8, 9)), ("1", 0)])
def test_a_color_named_transparent_is_white(read: Reader, mode: str, key: Any) -> None:
    """PNG can call one color transparent without an alpha channel."""
    assert read(saved(Image.new(mode, (20, 20), key), transparency=key)).min() == 255


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(read: Reader, format_: str) -> None:
    """16-bit gray keeps its shape: 0 to 0, 65535 to 255, everything between in proportion."""
    deep = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)

    picture = read(saved(Image.fromarray(deep), format_))

    assert np.array_equal(picture[..., 0], np.rint(deep / 257.0).astype(np.uint8))
    assert (picture[0, 0, 0], picture[-1, -1, 0]) == (0, 255)


@pytest.mark.parametrize("format_", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(read: Reader, format_: str) -> None:
    """Ink is taken from white: cyan alone leaves green and blue."""
    image = Image.new("CMYK", (WIDTH, HEIGHT), (255, 0, 0, 0))

    assert np.abs(read(saved(image, format_)).astype(int) - (0, 255, 255)).max() <= 2


def test_an_animation_is_its_first_frame(read: Reader) -> None:
    """A GIF with several frames is read as the first."""
    frames = [Image.new("RGB", (WIDTH, HEIGHT), color) for color in ("red", "green", "blue")]

    picture = read(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))

    assert picture.reshape(-1, 3).tolist() == [[255, 0, 0]] * (HEIGHT * WIDTH)


def test_floating_point_pictures_are_refused(read: Reader) -> None:
    """They have no agreed white."""
    assert reason(read, saved(Image.new("F", (WIDTH, HEIGHT), 0.5), "TIFF")) is Reason.NOT_A_PICTURE


def test_a_heic_is_read_by_the_extra(tmp_path: Path) -> None:
    """With its decoder, a HEIC is a picture like any other, upright and in sRGB."""
    heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (64, 48), (200, 30, 90))
    exif = Image.Exif()
    exif[0x0112] = 6
    heif.from_pillow(image).save(
        tmp_path / "a.heic", quality=100, chroma=444, exif=exif.tobytes(), icc_profile=profiles.rgb(DISPLAY_P3)
    )

    found = decoding.decode(tmp_path / "a.heic", 1.0)

    expected = profiles.rgb_in_srgb(np.array([200.0, 30, 90]), DISPLAY_P3)
    assert (found.size, found.warnings) == ((64, 48), ())
    assert np.abs(np.asarray(found.image, float) - expected).mean() < 2


def test_a_heic_without_the_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is sound, so that the hint is not to export it again but the command."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(40))

    with pytest.raises(JobError) as caught:
        decoding.decode(tmp_path / "a.heic", 1.0)

    assert caught.value.failure.reason is Reason.NOT_A_PICTURE
    assert "pip install pillow-heif" in caught.value.failure.hint


# What is refused


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"I am a text file.\n" * 100,
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM",
        b"II*\0",
        b"RIFF\0\0\0\0WEBP",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0" * 1000,
    ],
)
def test_other_files_are_not_pictures(read: Reader, data: bytes) -> None:
    """Text, empty files, bare signatures and formats that run programs are no pictures."""
    assert reason(read, data) is Reason.NOT_A_PICTURE


@pytest.mark.parametrize("format_", ["PPM", "ICO", "PCX", "TGA", "SGI", "JPEG2000", "EPS"])
def test_only_formats_of_the_list_are_opened(read: Reader, format_: str) -> None:
    """A good picture of any other format is refused: each decoder is a way in."""
    image = Image.fromarray(np.ascontiguousarray(RAMP))

    assert reason(read, saved(image, format_)) is Reason.NOT_A_PICTURE


def test_a_missing_file_is_no_picture(tmp_path: Path) -> None:
    """A file that vanished fails the job, not the daemon; without a given name the error has the file's own."""
    with pytest.raises(JobError) as caught:
        decoding.read(tmp_path / "gone.jpg", 1.0)

    assert caught.value.failure.file == "gone.jpg"


def encodings() -> dict[str, bytes]:
    """Write the same picture in every format, with details that need their bytes."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    files = {
        format_: saved(noise, format_) for format_ in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF")
    }
    return {
        **files,
        "progressive JPEG": saved(noise, "JPEG", progressive=True),
        "deflated TIFF": saved(noise, "TIFF", compression="tiff_deflate"),
        "lossless WEBP": saved(noise, "WEBP", lossless=True),
    }


@pytest.mark.parametrize("name", encodings())
def test_a_truncated_picture_is_refused_or_whole(read: Reader, name: str) -> None:
    """Cut anywhere, a file is no picture, unless all its pixels came before the cut."""
    data = encodings()[name]
    whole = read(data)
    cuts = {*range(0, len(data), max(1, len(data) // 120)), *range(len(data) - 30, len(data))}

    refused = 0
    for cut in sorted(cuts):
        try:
            assert np.array_equal(read(data[:cut]), whole), cut
        except JobError as error:
            assert error.failure.reason is Reason.NOT_A_PICTURE  # noqa: PT017 - both endings are allowed
            refused += 1

    assert refused >= len(cuts) - 31


@pytest.mark.parametrize("name", encodings())
def test_flipped_bits_make_another_picture_or_none(read: Reader, name: str) -> None:
    """Damage ends in a picture or in a JobError, never in another exception."""
    data, chance = encodings()[name], random.Random(name)  # noqa: S311 - the same damage every time
    endings = set()
    for turn in range(150):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(data) if turn % 2 else min(len(data), 120))
            damaged[place] ^= 1 << chance.randrange(8)
        try:
            endings.add(read(bytes(damaged)).dtype)
        except JobError as error:
            endings.add(error.failure.reason)

    assert Reason.NOT_A_PICTURE in endings
    assert endings <= {np.dtype(np.uint8), Reason.NOT_A_PICTURE, Reason.PICTURE_TOO_LARGE}


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_a_png_with_a_tail_of_zeros_is_refused(read: Reader, kept: float) -> None:
    """A copy whose end is still a hole in the file is no picture."""
    data = encodings()["PNG"]
    start = int(len(data) * kept)

    assert reason(read, data[:start] + b"\0" * (len(data) - start)) is Reason.NOT_A_PICTURE


def chunk(kind: bytes, data: bytes) -> bytes:
    """Make one PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_text_bomb_in_a_png_is_refused(read: Reader) -> None:
    """A compressed comment of 100 MB does not unfold."""
    data = saved(Image.fromarray(RAMP))
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 100_000_000, 9))

    assert reason(read, data[:33] + bomb + data[33:]) is Reason.NOT_A_PICTURE


@pytest.mark.parametrize("size", [(1001, 1000), (100_000, 100_000)])
def test_a_picture_of_too_many_pixels_is_refused_from_its_header(
    read: Reader, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    """A header that promises more than the cap is enough: nothing is decoded."""
    monkeypatch.setattr(Image.Image, "load", lambda _self: pytest.fail("decoded"))
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")

    assert reason(read, data, max_megapixels=1.0) is Reason.PICTURE_TOO_LARGE


def test_a_picture_at_the_cap_is_read(read: Reader) -> None:
    """The cap itself is allowed."""
    megapixels = HEIGHT * WIDTH / 1e6

    assert read(saved(Image.fromarray(RAMP)), max_megapixels=megapixels).shape == RAMP.shape
    assert (
        reason(read, saved(Image.fromarray(RAMP)), max_megapixels=megapixels * 0.99) is Reason.PICTURE_TOO_LARGE
    )


def test_reading_warns_nobody(read: Reader) -> None:
    """More pixels than Pillow itself likes are this program's own affair (warnings are errors here)."""
    assert read(saved(Image.new("L", (12_000, 8_000))), max_megapixels=100).shape == (8_000, 12_000, 3)


# What lies below transparent parts


def decoded(rgba: Any) -> decoding.Decoded:
    """A picture with an alpha channel."""
    return decoding.Decoded(Image.fromarray(np.asarray(rgba, np.uint8)))


@pytest.mark.parametrize(
    ("background", "ground"),
    [("auto", [round((200 * 5 + 100) / 6), round(500 / 6), round(50 / 6)]), ("#102030", [16, 32, 48])],
)
def test_the_background_is_the_mean_color_of_the_opaque_part(background: str, ground: list[int]) -> None:
    """Each color counts as far as it is opaque, and what is hidden does not; or it is the color asked for."""
    row = decoded([[[200, 100, 0, 255], [100, 0, 50, 51], [0, 255, 0, 0]]]).over(background)[0]

    assert (row[0].tolist(), row[2].tolist()) == ([200, 100, 0], ground)
    assert np.abs(row[1] - (np.array([100, 0, 50]) * 0.2 + np.array(ground) * 0.8)).max() <= 1


def test_what_is_transparent_everywhere_is_white() -> None:
    """A picture without an opaque part has no mean color."""
    assert decoded([[[9, 9, 9, 0]] * 2]).over("auto").tolist() == [[[255] * 3] * 2]


def test_an_opaque_alpha_channel_is_none(read: Reader, tmp_path: Path) -> None:
    """A picture with an alpha channel that hides nothing is read as one without."""
    image = Image.fromarray(RAMP)
    image.putalpha(255)

    assert np.array_equal(read(saved(image)), RAMP)
    assert decoding.decode(tmp_path / "dropped", 1.0).alpha is None


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP", "AVIF"])
def test_only_an_animation_is_warned_of(tmp_path: Path, format_: str) -> None:
    """Several pictures are reduced to the first, with a warning; one picture is not warned of."""
    frames = [Image.new("RGB", (WIDTH, HEIGHT), color) for color in ("red", "green", "blue")]
    for count, expected in ((1, ()), (3, (decoding.ANIMATED,))):
        data = saved(frames[0], format_, save_all=True, append_images=frames[1:count])
        (tmp_path / "film").write_bytes(data)
        assert decoding.decode(tmp_path / "film", 1.0).warnings == expected


def test_the_second_picture_of_a_phone_is_no_animation(tmp_path: Path) -> None:
    """JPEGs of phones carry a preview or a gain map, which is no animation; the first is the photo."""
    (tmp_path / "phone").write_bytes(
        saved(Image.fromarray(RAMP), "MPO", save_all=True, append_images=[Image.new("L", (8, 8))])
    )

    found = decoding.decode(tmp_path / "phone", 1.0)

    assert (found.size, found.warnings) == ((HEIGHT, WIDTH), ())


def test_damaged_metadata_is_not_a_warning(tmp_path: Path) -> None:
    """Pillow warns of an invalid animation in a PNG; size and picture are read without a word."""
    plain = saved(Image.fromarray(RAMP), "PNG")
    (tmp_path / "photo").write_bytes(plain[:33] + hostile.png_chunk(b"acTL", bytes(8)) + plain[33:])

    with pytest.warns(UserWarning, match="Invalid APNG"), Image.open(tmp_path / "photo"):
        pass
    assert decoding.header_size(tmp_path / "photo") == RAMP.shape[:2]
    assert np.array_equal(decoding.read(tmp_path / "photo", 1), RAMP)
