"""Drops that nobody should make, made on the spot: broken pictures, bombs, odd sidecars, names and kinds."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import struct
import unicodedata
import warnings
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from daemon.errors import Reason
from support import profiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

FORMATS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "TIFF": "tif",
    "BMP": "bmp",
    "GIF": "gif",
    "AVIF": "avif",
}
DONE = "done"
OWN = "case.yaml"  # the sidecar of most cases
_QUICK = "size: 32\niterations: 2\nframes: {every: 0}\n"
_NAMED = f"content: case.content.png\nstyle: case.style.png\n{_QUICK}"
_MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """One hostile drop and what has to become of it.

    Attributes:
        name: of the case, and of the folder it is put into.
        files: name -> bytes; the sidecar comes last.
        ends: the endings it may come to: `done`, or reasons of a failure. None: it waits.
        waits: what the reason for waiting says.
        where: the file that waits.
        prepare: makes in the folder what is no plain file; OSError where the system does not allow it.
        left: files that no one takes.
        again: files that are taken a second time, in another role.
    """

    name: str
    files: Mapping[str, bytes]
    ends: frozenset[str] = frozenset()
    waits: str = ""
    where: str = OWN
    prepare: Callable[[Path], None] | None = None
    left: frozenset[str] = field(default=frozenset())
    again: tuple[str, ...] = ()

    def put(self, inbox: Path) -> Path:
        """Make the drop in a folder of its own, which is returned."""
        folder = inbox / self.name
        folder.mkdir(parents=True)
        if self.prepare is not None:
            self.prepare(folder)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        return folder

    @property
    def taken(self) -> dict[str, bytes]:
        """The files that a job made of it holds."""
        taken = {name: data for name, data in self.files.items() if name not in self.left}
        return taken | {f"{name}, again": self.files[name] for name in self.again}


def picture(format_: str = "PNG", seed: int = 0, width: int = 48, height: int = 40) -> bytes:
    """Make a picture of colored noise, which no format packs tightly: nearly all its bytes are pixels."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format_)
    return buffer.getvalue()


def _seed(name: str) -> int:
    return zlib.crc32(name.encode())


def _with_picture(name: str, data: bytes, *ends: str, suffix: str = "png") -> Case:
    """Drop a hostile picture, as the photo or as the painting by turns, beside a sound one."""
    hostile, sound = f"hostile.{suffix}", "sound.png"
    content, style = (hostile, sound) if _seed(name) % 2 else (sound, hostile)
    sidecar = f"# {name}\ncontent: {content}\nstyle: {style}\n{_QUICK}"
    files = {hostile: data, sound: picture(seed=_seed(name)), OWN: sidecar.encode()}
    return Case(name, files, frozenset(ends))


# Pictures that are cut, flipped, zeroed


def cut_pictures() -> Iterator[Case]:
    """Cut each format in its signature, its header and its pixels."""
    for format_, suffix in FORMATS.items():
        data = picture(format_, _seed(format_))
        for place in (0, 1, 3, 8, 16, *(len(data) * part // 100 for part in (10, 25, 50, 75, 90))):
            yield _with_picture(f"{suffix}-cut-{place}", data[:place], Reason.NOT_A_PICTURE, suffix=suffix)


def flipped_pictures() -> Iterator[Case]:
    """Flip the first bit of each format's signature, then single bits all over it.

    What the formats themselves cannot tell from a picture, namely most flips among the pixels, is painted.
    """
    decoded = (DONE, Reason.NOT_A_PICTURE, Reason.PICTURE_TOO_LARGE, Reason.PICTURE_TOO_NARROW)
    for format_, suffix in FORMATS.items():
        data = picture(format_, _seed(format_) + 1)
        yield _with_picture(f"{suffix}-flip-0", _flip(data, 0), Reason.NOT_A_PICTURE, suffix=suffix)
        places = np.random.default_rng(_seed(format_)).integers(8, len(data) * 8, 6)
        for place in sorted({9 * 8, *places.tolist()}):
            yield _with_picture(f"{suffix}-flip-{place}", _flip(data, place), *decoded, suffix=suffix)
        half = data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
        sure = format_ in {"PNG", "GIF"}  # the others hold zeros for pixels
        ends = (Reason.NOT_A_PICTURE,) if sure else decoded
        yield _with_picture(f"{suffix}-zero-tail", half, *ends, suffix=suffix)


def _flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


# Bombs


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Make one chunk of a PNG: length, kind, data, CRC."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *extra: bytes, late: bytes = b"") -> bytes:
    """Make a gray PNG whose header says anything; its pixels are enough for 48 x 40."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(49 * 40)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + late + png_chunk(b"IEND", b"")


def _text_bomb(kind: bytes, size: int, keyword: bytes = b"Comment") -> bytes:
    packed = zlib.compress(bytes(size), 9)
    return png_chunk(
        kind,
        {
            b"zTXt": keyword + b"\0\0" + packed,
            b"iTXt": keyword + b"\0\1\0\0\0" + packed,
            b"iCCP": keyword + b"\0\0" + packed,
        }[kind],
    )


def _patched(data: bytes, changes: Mapping[int, bytes]) -> bytes:
    changed = bytearray(data)
    for place, new in changes.items():
        changed[place : place + len(new)] = new
    return bytes(changed)


def _tiff(**tags: int) -> bytes:
    """Make a little TIFF, gray, one strip, whose tags say anything."""
    facts = {"width": 48, "height": 40, "bits": 8, "offset": 200, "count": 48 * 40, "next": 0, **tags}
    entries = [
        (256, 4, facts["width"]),
        (257, 4, facts["height"]),
        (258, 3, facts["bits"]),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, facts["offset"]),
        (277, 3, 1),
        (278, 4, facts["height"]),
        (279, 4, facts["count"]),
    ]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + struct.pack("<I", facts["next"])
    return head.ljust(200, b"\0") + bytes(48 * 40)


def _jpeg_size(width: int, height: int, mode: str = "RGB") -> bytes:
    data = _saved("JPEG", mode)
    return _patched(data, {data.index(b"\xff\xc0") + 5: struct.pack(">HH", height, width)})


def _avif_size(width: int, height: int) -> bytes:
    data = picture("AVIF")
    return _patched(data, {data.index(b"ispe") + 8: struct.pack(">II", width, height)})


def _saved(format_: str, mode: str = "RGB", **options: bytes) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Pillow drops some of these formats one day
        Image.new(mode, (48, 40), 0).save(buffer, format_, **options)
    return buffer.getvalue()


def bombs() -> Iterator[Case]:
    """Small files that claim, or unpack to, more than anybody can hold."""
    large, broken, narrow = Reason.PICTURE_TOO_LARGE, Reason.NOT_A_PICTURE, Reason.PICTURE_TOO_NARROW
    yield _with_picture("png-pixels", _png(50_000, 50_000), large)
    yield _with_picture("png-widest", _png(2**31 - 1, 2**31 - 1), large)
    yield _with_picture("png-past-31-bits", _png(2**32 - 1, 40), broken, large)
    yield _with_picture("png-nothing-wide", _png(0, 40), broken, narrow)
    yield _with_picture("png-a-thread", _png(48, 1), narrow)
    yield _with_picture("png-too-few-pixels", _png(1000, 1000), broken)
    for kind in (b"zTXt", b"iTXt", b"iCCP"):
        bomb, word = _text_bomb(kind, 64 * _MIB), kind.decode().lower()
        yield _with_picture(f"png-{word}", _png(48, 40, bomb), broken)
        if kind != b"iCCP":
            yield _with_picture(f"png-{word}-late", _png(48, 40, late=bomb), broken)
    many = [_text_bomb(b"zTXt", _MIB - 1, b"%d" % number) for number in range(70)]
    yield _with_picture("png-many-texts", _png(48, 40, *many), broken)
    huge = png_chunk(b"tEXt", b"Comment\0")
    yield _with_picture(
        "png-chunk-past-the-end", _png(48, 40, _patched(huge, {0: b"\x7f\xff\xff\xff"})), broken
    )
    yield _with_picture("png-no-pixels", b"\x89PNG\r\n\x1a\n" + _png(48, 40)[8:33], broken)
    for suffix, data in {
        "gif": _patched(picture("GIF"), {6: struct.pack("<HH", 65535, 65535)}),
        "tif": _tiff(width=2**31 - 1, height=2**31 - 1),
        "bmp": _patched(picture("BMP"), {18: struct.pack("<ii", 2**31 - 1, 2**31 - 1)}),
        "jpg": _jpeg_size(65_500, 65_500),
        "avif": _avif_size(16_000, 16_000),  # the most that libavif opens is 16384 x 16384
    }.items():
        yield _with_picture(f"{suffix}-pixels", data, large, suffix=suffix)
    gif = picture("GIF")
    frame = gif.index(b"\x2c\0\0\0\0") + 5
    yield _with_picture("gif-large-frame", _patched(gif, {frame: b"\xff\xff\xff\xff"}), large, suffix="gif")
    webp = picture("WEBP")
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xfe\x3f\0" * 2
    wide = b"RIFF" + struct.pack("<I", 4 + len(canvas) + len(webp) - 12) + b"WEBP" + canvas + webp[12:]
    yield _with_picture("webp-pixels", wide, large, broken, suffix="webp")
    for name, tags in {
        "bits": {"bits": 0},
        "far": {"offset": 2**32 - 2},
        "short": {"count": 3},
        "long": {"count": 2**32 - 1},
        "nothing-wide": {"width": 0},
    }.items():
        ends = (DONE, broken, large, narrow)  # Pillow reads a strip's pixels whatever its length is said to be
        yield _with_picture(f"tif-{name}", _tiff(**tags), *ends, suffix="tif")
    yield _with_picture("jpg-inks", _jpeg_size(65_500, 65_500, "CMYK"), large, suffix="jpg")
    yield _with_picture("avif-nothing-wide", _avif_size(0, 40), broken, narrow, suffix="avif")
    for name, profile in {
        "garbage": bytes(50 * _MIB),
        "padded": profiles.cmyk() + bytes(50 * _MIB),
        "grid": profiles.cmyk(grid=255),  # it says that it has 255 nodes on each of four axes
    }.items():
        inks = _saved("TIFF", "CMYK", icc_profile=profile)
        yield _with_picture(f"tif-profile-{name}", inks, DONE, suffix="tif")
    yield _with_picture("tif-loop", _tiff(next=8), DONE, broken, suffix="tif")
    yield _with_picture("bmp-negative", _patched(picture("BMP"), {18: struct.pack("<i", -48)}), broken, large)
    yield _with_picture("jpg-nothing-wide", _jpeg_size(0, 40), broken, narrow, suffix="jpg")
    yield _with_picture("png-too-narrow", picture(width=400, height=5), narrow)
    yield _with_picture("png-one-pixel", picture(width=1, height=1), narrow, DONE)


# Other formats, and wrong names


def other_formats() -> Iterator[Case]:
    """Pictures of formats that are not allowed, whatever they are called, and what is no picture at all."""
    others = {
        "ppm": _saved("PPM"),
        "ico": _saved("ICO", "RGBA"),
        "eps": _saved("EPS"),
        "pdf": _saved("PDF"),
        "tga": _saved("TGA"),
        "pcx": _saved("PCX"),
        "sgi": _saved("SGI"),
        "dds": _saved("DDS"),
        "im": _saved("IM"),
        "xbm": _saved("XBM", "1"),
        "msp": _saved("MSP", "1"),
        "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 40, 48, 8, 3) + bytes(14 + 48 * 40 * 3),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='48' height='40'/>",
        "heic": struct.pack(">I", 24) + b"ftypheic" + bytes(2000),
        "html": b"<html><body>404 Not Found</body></html>",
        "exe": b"MZ" + bytes(2000),
        "zip": b"PK\x03\x04" + bytes(2000),
        "gz": gzip.compress(picture()),
        "text": b"%PDF-1.7 is how it begins, and that is all\n",
        "yaml": b"content: me.jpg\n",
        "zeros": bytes(5000),
        "noise": np.random.default_rng(7).bytes(5000),
    }
    for name, data in others.items():
        yield _with_picture(f"other-{name}", data, Reason.NOT_A_PICTURE)
        if name in {"ppm", "ico", "eps", "pdf", "psd", "svg"}:
            yield _with_picture(f"other-own-{name}", data, Reason.NOT_A_PICTURE, suffix=name)
    for format_, suffix in FORMATS.items():
        wrong = "gif" if suffix != "gif" else "jpg"
        yield _with_picture(f"misnamed-{suffix}", picture(format_, _seed(suffix)), DONE, suffix=wrong)
    yield _with_picture("misnamed-nothing", picture(seed=5), DONE, suffix="x" * 200)


# Sidecars


def _with_sidecar(name: str, sidecar: bytes | str, *ends: str) -> Case:
    """Drop a sidecar beside two sound pictures that it gets by convention."""
    data = sidecar.encode() if isinstance(sidecar, str) else sidecar
    files = {
        "case.content.png": picture(seed=_seed(name)),
        "case.style.png": picture(seed=_seed(name) + 1),
        OWN: data,
    }
    return Case(name, files, frozenset(ends or (Reason.BAD_SIDECAR,)))


def _yaml_texts() -> dict[str, bytes | str]:
    """Texts that are not YAML of the kind that is read."""
    laughs = "a0: &a0 [ha]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20)
    )
    merges = "m0: &m0 {k: v}\n" + "".join(
        f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 9)
    )
    return {
        "alias-bomb": laughs,
        "merge-bomb": merges,
        "merge-key": "<<: {size: 64}\n",
        "anchor": "size: &s 64\n",
        "alias-of-nothing": "size: *nothing\n",
        "alias-of-itself": "frames: &f {every: *f}\n",
        "duplicate-key": _NAMED + "seed: 1\nseed: 2\n",
        "duplicate-key-below": "frames: {every: 1, every: 2}\n",
        "duplicate-key-quoted": "size: 64\n'size': 32\n",
        "deep-lists": "size: " + "[" * 10_000,
        "deep-lists-closed": "size: " + "[" * 500 + "]" * 500,
        "deep-maps": "size: " + "{a: " * 500 + "}" * 500,
        "deep-blocks": "".join(f"{' ' * n}a:\n" for n in range(300)),
        "deep-dashes": "- " * 5_000,
        "bad-date": "priority: 2024-13-45\n",
        "huge-int": "size: " + "9" * 6_000 + "\n",
        "huge-hex": "size: 0x" + "f" * 6_000 + "\n",
        "huge-base-60": "size: " + "1:" * 3_000 + "1\n",
        "huge-exponent": "size: 1e999999999\n",
        "python-object": "size: !!python/object/apply:os.system ['touch /tmp/hostile']\n",
        "python-name": "size: !!python/name:os.system\n",
        "own-tag": "size: !mine 3\n",
        "bad-bool-tag": "seed: !!bool maybe\n",
        "bad-int-tag": "seed: !!int none\n",
        "bad-binary-tag": "seed: !!binary '%%%'\n",
        "bad-timestamp-tag": "seed: !!timestamp never\n",
        "set-tag": "frames: !!set {a, b}\n",
        "omap-tag": "frames: !!omap [a: 1]\n",
        "two-documents": "size: 64\n---\nsize: 32\n",
        "yaml-9": "%YAML 9.0\n---\nsize: 64\n",
        "tabs": "frames:\n\tevery: 1\n",
        "open-quote": 'content: "case.content.png\n',
        "open-bracket": "style: [a.png, b.png\n",
        "no-colon": "size 64\niterations 2\n",
        "stray-bracket": "}\n",
        "backtick": "`size: 1\n",
        "list": "- content: a.png\n",
        "word": "please paint this",
        "number": "12",
        "key-of-a-list": "? [a, b]\n: 1\n",
        "key-of-a-map": "? {a: b}\n: 1\n",
        "key-number": "1: 2\n",
        "key-null": "null: 2\n",
        "key-bool": "yes: 2\n",
        "key-nan": ".nan: 2\n",
        "key-date": "2024-01-01: 2\n",
        "utf-16-le": b"\xff\xfe" + _NAMED.encode("utf-16-le"),
        "utf-16-be": b"\xfe\xff" + _NAMED.encode("utf-16-be"),
        "utf-16-without-mark": _NAMED.encode("utf-16-le"),
        "utf-32": _NAMED.encode("utf-32"),
        "latin-1": "content: é.png\n".encode("latin-1"),
        "overlong": b"content: \xc0\xae\xc0\xae/x.png\n",
        "surrogate": b"content: \xed\xa0\x80.png\n",
        "nul": b"size: 64\0\n",
        "control": b"size: 64 # \x01\x1b[31m\n",
        "binary": np.random.default_rng(3).bytes(3_000),
        "a-picture": picture(),
        "gzip": gzip.compress(_NAMED.encode()),
        "html": "<!DOCTYPE html><html><body>Sign in to the share</body></html>",
        "json-cut": '{"content": "case.content.png", "sty',
        "64-kib-and-1": _NAMED + "#" * (64 * 1024 - len(_NAMED) + 1),
        "1-mib": _NAMED + "# long\n" * 150_000,
        "1-mib-of-keys": "".join(f"k{n}: {n}\n" for n in range(100_000)),
        "8-mib-of-brackets": "[" * 8 * _MIB,
    }


def _yaml_values() -> Iterator[str]:
    """Values of the wrong kind or out of any range, a key at a time."""
    any_key = ("[[1]]", "{a: 1}", ".nan", "2024-01-01", "!!binary aGVsbG8=", "yes")
    for key in ("size", "iterations", "seed", "learning_rate", "preset", "content_layers", "frames", "output"):
        for value in any_key:
            yield f"{key}: {value}"
    yield from (
        *("size: 0", "size: -64", "size: 15", "size: 16385", "size: 64.5", "size: 1e400", "size: huge"),
        *("iterations: 0", "iterations: 100001", "iterations: 1.5", "iterations: -1", "iterations: 1e9"),
        *("seed: -1", f"seed: {2**63}", "seed: 0.5", "priority: 1001", "priority: -1001", "priority: top"),
        *("learning_rate: 0", "learning_rate: -2", "learning_rate: .inf", "learning_rate: fast"),
        *("content_weight: -1", "content_weight: .nan", "style_weight: .inf", "tv_weight: -.inf"),
        *("content_layers: block9_conv9", "content_layers: {block1_conv1: -1}", "style_layers: [1, 2]"),
        *("style_layers: {block1_conv1: 0}", "style_layers: {block1_conv1: .nan}"),
        *("style_layers: [block1_conv1, block1_conv1]", "style_layers: {block1_conv1: [1]}"),
        *("frames: {every: -1}", "frames: {every: 1.5}", "frames: {evry: 1}", "frames: {animation: mp4}"),
        *("frames: webp", "output: {format: exe}", "output: {format: ../../x}", "output: png"),
        *("scales: 3", "scales: [1, 2]", "scales: [{size: 128}]", "scales: [{size: 1, iterations: 1}]"),
        "scales: [{size: 64, iterations: 1}, {size: 32, iterations: 1}]",
        *("preset: best", "pooling: min", "objective: art", "optimizer: sgd", "sise: 64", "Size: 64"),
        *("content: 5", "content: [a.png]", "content: {a: b}", "content: ' '", "content: 2024-01-01"),
        *("style: 5", "style: []", "style: [5]", "style: [[a.png]]"),
        *("style: [{image: case.style.png, weight: 0}]", "style: [{image: case.style.png, weight: -1}]"),
        *("style: [{image: case.style.png, weight: .nan}]", "style: [{image: case.style.png, wait: 1}]"),
        *("style: [{weight: 1}]", "init: 5", "init: []", "result: 5", "result: []"),
    )


def _yaml_paths() -> Iterator[str]:
    """Names that lead out of the folder."""
    for key in ("content", "style", "init"):
        for path in (
            *("../case.content.png", "../../../../etc/passwd", "/etc/passwd", "a/../../case.content.png"),
            *("./case.content.png", "sub/case.content.png", "..", ".", "~/../x", "C:\\\\x.png", "..\\\\x.png"),
            *("//server/share/x.png", "\\0", "case.content.png\\0.jpg", "file:///etc/passwd", "/dev/zero"),
        ):
            yield f'{key}: "{path}"'


def bad_sidecars() -> Iterator[Case]:
    """Sidecars that fail: texts, values and paths."""
    for name, text in _yaml_texts().items():
        yield _with_sidecar(f"text-{name}", text)
    for number, text in enumerate(_yaml_values()):
        yield _with_sidecar(f"value-{number}", f"{text} # {number}\n")
    for number, text in enumerate(_yaml_paths()):
        yield _with_sidecar(f"path-{number}", f"{text} # {number}\n", Reason.PATH_OUTSIDE)


def good_sidecars() -> Iterator[Case]:
    """Sidecars that look odd and are sound all the same."""
    yield _with_sidecar("good-byte-order-mark", b"\xef\xbb\xbf" + _NAMED.encode() + b"# bom", DONE)
    yield _with_sidecar("good-64-kib", (_NAMED + "#" * (64 * 1024 - len(_NAMED)))[: 64 * 1024], DONE)
    yield _with_sidecar("good-crlf", _NAMED.replace("\n", "\r\n") + "# crlf", DONE)
    yield _with_sidecar("good-json", '{"size": 32, "iterations": 2, "frames": {"every": 0}}', DONE)
    yield _with_sidecar("good-quoted-number", f"{_NAMED}seed: '7'\n", DONE)
    yield _with_sidecar("good-end-mark", f"---\n{_NAMED}...\n", DONE)
    yield Case(
        "good-one-picture-twice",
        {"one.png": picture(seed=12), OWN: f"content: one.png\nstyle: one.png\n{_QUICK}".encode()},
        frozenset({DONE}),
        again=("one.png",),
    )


# Names


NAMES = {
    "newline": "a\nb\n",
    "option": "-rf",
    "double-dash": "--",
    "long": "n" * 236,  # with `.content.png` 248 bytes
    "long-accents": "é" * 118,
    "composed": unicodedata.normalize("NFC", "Café Ångström"),
    "decomposed": unicodedata.normalize("NFD", "Café Ångström"),
    "not-utf-8": os.fsdecode(b"\xff\xfe\x80caf\xe9"),
    "emoji": "🌅👩‍🎨🖼️",
    "spaces": "   ",
    "space-and-dots": " . . ",
    "tab": "\t",
    "return": "a\rb",
    "escape": "\x1b[31mred\x1b[0m\x07",
    "delete": "\x7f\x01\x02",
    "right-to-left": "\u202egnp.exe",
    "zero-width": "\u200b\ufeff",
    "line-separator": "a\u2028b\x85c",
    "shell": "$(touch x);`id`|&>x",
    "quotes": "'\"\\'",
    "glob": "[a-z]*?{x,y}",
    "format": "%s%n{0}{job_id}",
    "html": "<script>alert(1)<!--&amp;",
    "yaml": "a: [b, *c] # d",
    "windows": "CON",
    "backslash": "a\\..\\..\\x",
    "percent": "%2e%2e%2fx",
    "running": "_running",
    "failed": "x.failed",
    "index": "index.html",
    "rejected-like": "_accepted-not",
    "digits": "0000",
    "id-like": "x-3f9c21ab",
    "turkish": "I\u0131\u0130i",
    "sharp-s": "STRASSE-straße",
    "several-dots": "a.b..c...d",
    "cyrillic": "закат",
    "chinese": "日落",
}


def odd_names() -> Iterator[Case]:
    """Sound drops under every kind of name: each is painted."""
    for name, stem in NAMES.items():
        files = {
            f"{stem}.content.png": picture(seed=_seed(name)),
            f"{stem}.style.png": picture(seed=_seed(name) + 1),
            f"{stem}.yaml": f"{_QUICK}# {name}\n".encode(),
        }
        yield Case(f"name-{name}", files, frozenset({DONE}))
    full = "f" * 250 + ".yaml"  # 255 bytes, the longest there is
    content, style = "c" * 251 + ".png", "s" * 251 + ".png"
    yield Case(
        "name-255-bytes",
        {
            content: picture(seed=1),
            style: picture(seed=2),
            full: f"content: {content}\nstyle: {style}\n{_QUICK}".encode(),
        },
        frozenset({DONE}),
    )
    upper = {
        "CASE.CONTENT.PNG": picture(seed=3),
        "Case.Style.Png": picture(seed=4),
        "case.YML": _QUICK.encode(),
    }
    yield Case("name-upper-case", upper, frozenset({DONE}))


def waiting_names() -> Iterator[Case]:
    """Names that leave open what is meant, and so wait."""
    twins = [unicodedata.normalize(form, "Bücher.png") for form in ("NFC", "NFD")]
    sidecar = f"content: BÜCHER.PNG\nstyle: style.png\n{_QUICK}".encode()
    files = {twins[0]: picture(seed=1), twins[1]: picture(seed=2), "style.png": picture(seed=3), OWN: sidecar}
    yield Case("name-twins", files, waits="waiting for BÜCHER.PNG")
    several = {"case.content.png": picture(seed=4), "case.content.jpg": picture("JPEG", 5), OWN: b"# two\n"}
    yield Case("name-two-contents", several, waits="only one of")
    spaced = {"case.yaml ": _QUICK.encode()}
    yield Case("name-space-at-the-end", spaced, waits="no sidecar names it", where="case.yaml ")
    hidden = {".hidden.png": picture(seed=6), OWN: f"content: .hidden.png\nstyle: s.png\n{_QUICK}".encode()}
    yield Case("name-hidden", hidden | {"s.png": picture(seed=7)}, waits="waiting for .hidden.png")


def ignored_names() -> Iterator[str]:
    """Names of sidecars that are never looked at."""
    yield from (
        "....yaml",
        ".yaml",
        ". .yaml",
        "~$case.yaml",
        "~.yaml",
        ".#case.yaml",
        "case.yaml~",
        "x.yaml.part",
    )


# Kinds of file


def odd_kinds(outside: Path) -> Iterator[Case]:
    """Everything that is no regular file, where a picture or a sidecar should be; all of it waits.

    Args:
        outside: a folder outside the inbox that holds a whole drop: `case.yaml`, `photo.png`, `style.png`.
    """
    text = f"content: photo.png\nstyle: style.png\n{_QUICK}".encode()

    def as_picture(name: str, make: Callable[[Path], None], waits: str) -> Case:
        files = {"style.png": picture(seed=_seed(name)), OWN: text + f"# {name}".encode()}
        return Case(f"kind-{name}", files, waits=waits, prepare=lambda folder: make(folder / "photo.png"))

    def as_sidecar(name: str, make: Callable[[Path], None], waits: str) -> Case:
        return Case(f"kind-{name}-sidecar", {}, waits=waits, prepare=lambda folder: make(folder / OWN))

    def special(kind: int, device: int = 0) -> Callable[[Path], None]:
        return lambda path: os.mknod(path, kind | 0o600, device)

    def link(target: str) -> Callable[[Path], None]:
        return lambda path: path.symlink_to(target)

    zero, null = os.makedev(1, 5), os.makedev(1, 3)
    kinds = {
        "fifo": special(stat.S_IFIFO),
        "socket": special(stat.S_IFSOCK),
        "device": special(stat.S_IFCHR, zero),
        "null": special(stat.S_IFCHR, null),
        "block-device": special(stat.S_IFBLK, os.makedev(7, 250)),
    }
    for name, make in kinds.items():
        yield as_picture(name, make, "photo.png is not a regular file")
        yield as_sidecar(name, make, "not a regular file")
    links = {
        "link": str(outside / "photo.png"),
        "relative-link": os.path.relpath(outside / "photo.png", "/") and f"../../../{outside.name}/photo.png",
        "dangling-link": str(outside / "nothing"),
        "loop": "photo.png",
        "link-to-zero": "/dev/zero",
        "link-to-a-folder": str(outside),
        "link-to-itself-folder": ".",
        "link-inside": "style.png",
    }
    for name, target in links.items():
        yield as_picture(name, link(target), "photo.png is a symbolic link")
    for name, target in {**links, "link": str(outside / OWN), "loop": OWN}.items():
        yield as_sidecar(name, link(target), "a symbolic link")
    yield as_picture("folder", lambda path: path.mkdir(), "waiting for photo.png")
    yield Case(
        "kind-full-folder",
        {"style.png": picture(seed=8), OWN: text},
        waits="waiting for photo.png",
        prepare=lambda folder: ((folder / "photo.png").mkdir(), (folder / "photo.png" / "photo.png").touch())[
            0
        ],
    )
    yield Case(
        "kind-linked-folder",
        {},
        waits="a symbolic link",
        where="below",
        prepare=lambda folder: (folder / "below").symlink_to(outside),
    )
    yield Case(
        "kind-folder-loop",
        {},
        waits="a symbolic link",
        where="below",
        prepare=lambda folder: (folder / "below").symlink_to(folder.parent),
    )


def put_all(cases: Iterator[Case], inbox: Path) -> list[Case]:
    """Put every case that the system allows to be made; returns them."""
    made = []
    for case in cases:
        with contextlib.suppress(PermissionError):
            case.put(inbox)
            made.append(case)
    return made
