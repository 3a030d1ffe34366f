"""Mutates sidecars and pictures and reads them as the service does, for a chosen time.

    python tests/soak/fuzz.py --minutes 60 --target sidecar|picture|both [--seed N] [--dir D] [--first N]

Run by hand from the root of a clone. Every input follows from the seed and its number. A worker process reads
one after the other; this one watches it, and takes its death, or 2 s of its processor's time for one input,
for a finding like any other: an exception that is not documented, or an answer that contradicts itself.
Findings are kept in the folder that is printed, with what was seen. Exit 1 where there was one.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime as dt
import io
import json
import math
import mmap
import multiprocessing
import os
import random
import re
import resource
import string
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

_WEBP_SIDE_PX: Final = 16384  # from which on the format has no words for it
ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from support import hostile  # noqa: E402 - found by the line above

from daemon import (  # noqa: E402
    images,
    safe_yaml,
    sidecar,
)
from daemon.errors import Failure, JobError, Reason  # noqa: E402
from daemon.inbox import pairing  # noqa: E402
from daemon.job import Job  # noqa: E402
from daemon.outbox import record  # noqa: E402
from daemon.settings import Settings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_S: Final = 2.0  # of processor time
DEAD_S: Final = 60.0  # of wall-clock time: the worker hangs where no processor is used
MEMORY_BYTES: Final = 3 << 30  # the least that the inspector grants: a WebP reserves 2.1 GB for its canvases
MEGAPIXELS: Final = 4
KEPT_ALIKE: Final = 3
NOTHING: Final = 2**63  # the number of no input
_STATE: Final = struct.Struct("<QQ")  # number of the input in work, inputs done


def say(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


class Finding(Exception):  # noqa: N818 - what is looked for
    """An answer that contradicts itself."""


# Bytes


def mutate(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Change a few places of some bytes; `other` is what pieces may come from."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 5, 10])):
        chance.choice(_CHANGES)(chance, changed, other)
    return bytes(changed)


def _place(chance: random.Random, data: bytearray) -> int:
    """Choose a place, more often near the beginning, where headers are."""
    size = len(data) + 1
    return chance.randrange(min(size, 80)) if chance.random() < 0.4 else chance.randrange(size)


def _flip(chance: random.Random, data: bytearray, _other: bytes) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _set_number(chance: random.Random, data: bytearray, _other: bytes) -> None:
    size, order = chance.choice([1, 2, 4, 4, 8]), chance.choice(["little", "big"])
    limit = 1 << 8 * size
    number = chance.choice([0, 1, limit - 1, limit // 2, limit // 2 - 1, chance.randrange(limit), len(data)])
    place = _place(chance, data)
    data[place : place + size] = (number % limit).to_bytes(size, order)


def _cut(chance: random.Random, data: bytearray, _other: bytes) -> None:
    del data[_place(chance, data) :]


def _remove(chance: random.Random, data: bytearray, _other: bytes) -> None:
    place = _place(chance, data)
    del data[place : place + chance.choice([1, 2, 4, 16, 200])]


def _insert(chance: random.Random, data: bytearray, other: bytes) -> None:
    begin = chance.randrange(len(other) + 1)
    piece = other[begin : begin + chance.choice([1, 4, 30, 300])]
    place = _place(chance, data)
    data[place:place] = chance.choice([piece, chance.randbytes(4), bytes(8), piece * 20])


def _overwrite(chance: random.Random, data: bytearray, other: bytes) -> None:
    begin, place = chance.randrange(len(other) + 1), _place(chance, data)
    piece = other[begin : begin + chance.choice([2, 8, 64, 500])]
    data[place : place + len(piece)] = piece


def _repeat(chance: random.Random, data: bytearray, _other: bytes) -> None:
    place = _place(chance, data)
    data[place:place] = data[place : place + chance.choice([1, 8, 60])] * chance.choice([1, 2, 50])


def _zero(chance: random.Random, data: bytearray, _other: bytes) -> None:
    place, size = _place(chance, data), chance.choice([4, 40, 4000])
    data[place : place + size] = bytes(len(data[place : place + size]))


_CHANGES: Final = (_flip, _flip, _set_number, _set_number, _cut, _remove, _insert, _overwrite, _repeat, _zero)


# Pictures


def _saved(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def picture_seeds() -> list[bytes]:
    """Make sound pictures of every format in many of its ways."""
    noise = np.random.default_rng(1).integers(0, 256, (20, 24, 4), np.uint8)
    rgba = Image.fromarray(noise)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    palette, bits, cmyk = rgb.quantize(17), rgb.convert("1"), rgb.convert("CMYK")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    profile = struct.pack(">I", 200) + bytes(12) + b"RGB " + bytes(180)
    found = [
        *(_saved(image, "PNG") for image in (rgba, rgb, grey, deep, palette, bits, grey.convert("LA"))),
        _saved(rgb, "PNG", icc_profile=profile, exif=exif, dpi=(72, 72)),
        _saved(palette, "PNG", transparency=3),
        _saved(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90, expand=False)]),
        *(_saved(image, "JPEG") for image in (rgb, grey, cmyk)),
        _saved(rgb, "JPEG", progressive=True, icc_profile=profile, exif=exif, comment="here"),
        _saved(rgb, "MPO", save_all=True, append_images=[grey.convert("RGB")]),
        *(_saved(image, "WEBP", lossless=lossless) for image in (rgba, rgb) for lossless in (True, False)),
        _saved(rgb, "WEBP", icc_profile=profile, exif=exif),
        _saved(rgba, "WEBP", save_all=True, append_images=[rgba.rotate(90)], duration=50),
        *(_saved(image, "TIFF") for image in (rgba, rgb, grey, deep, palette, bits, cmyk)),
        *(
            _saved(rgb, "TIFF", compression=word)
            for word in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "zstd", "lzma")
        ),
        _saved(bits, "TIFF", compression="group4"),
        _saved(rgb, "TIFF", save_all=True, append_images=[grey], icc_profile=profile, exif=exif),
        _saved(Image.fromarray(noise[..., 0].astype(np.float32)), "TIFF"),
        *(_saved(image, "BMP") for image in (rgba, rgb, grey, palette, bits)),
        *(_saved(image, "GIF") for image in (rgb, grey, bits)),
        _saved(rgb, "GIF", interlace=True, transparency=2, comment=b"here"),
        _saved(rgb, "GIF", save_all=True, append_images=[grey, rgb.rotate(9)], disposal=2, loop=0),
    ]
    return [*found, *(case.files[name] for case in hostile.bombs() for name in case.files if "hostile" in name)]


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Take a PNG apart: kind and data of each chunk."""
    place, found = 8, []
    while place + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, place)
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    return found


def _mutate_chunks(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Change a PNG's chunks, with check sums that are right again."""
    parts = chunks(data)
    for _ in range(chance.choice([1, 1, 2, 4])):
        if not parts:
            break
        number = chance.randrange(len(parts))
        kind, content = parts[number]
        act = chance.randrange(6)
        if act == 0:
            del parts[number]
        elif act == 1:
            parts.insert(chance.randrange(len(parts)), (kind, content))
        elif act == 2:
            parts[number] = (chance.choice(_KINDS), content)
        elif act == 3 and kind == b"IDAT":
            with contextlib.suppress(zlib.error):
                content = zlib.compress(mutate(chance, zlib.decompress(content), other))
            parts[number] = (kind, content)
        else:
            parts[number] = (kind, mutate(chance, content, other))
    return data[:8] + b"".join(hostile.png_chunk(kind, content) for kind, content in parts)


_KINDS: Final = (
    *(
        b"IHDR",
        b"PLTE",
        b"IDAT",
        b"IEND",
        b"tRNS",
        b"iCCP",
        b"zTXt",
        b"iTXt",
        b"tEXt",
        b"eXIf",
        b"pHYs",
        b"gAMA",
    ),
    *(b"acTL", b"fcTL", b"fdAT", b"sRGB", b"cHRM", b"sBIT", b"tIME", b"bKGD", b"abcd", b"ABCD"),
)


class Pictures:
    """Mutated pictures, read with `daemon.images` from a file."""

    def __init__(self, folder: Path) -> None:
        self._seeds = picture_seeds()
        self._path = folder / f"picture-{os.getpid()}"

    def make(self, chance: random.Random) -> bytes:
        """Make one input."""
        data, other = chance.choice(self._seeds), chance.choice(self._seeds)
        if data.startswith(b"\x89PNG") and chance.random() < 0.5:
            return _mutate_chunks(chance, data, other)
        return mutate(chance, data, other)

    def read(self, data: bytes, chance: random.Random) -> str:
        """Read it as intake and worker do; returns what came of it."""
        self._path.write_bytes(data)
        try:
            picture = images.read(self._path, MEGAPIXELS)
        except JobError as error:
            return self._refused(error.failure)
        height, width, depth = picture.shape
        if (depth, picture.dtype) != (3, np.uint8) or not 0 < height * width <= MEGAPIXELS * 1e6:
            raise Finding(f"a picture of {picture.shape} {picture.dtype}")
        profile = images.icc_profile(self._path)
        format_ = chance.choice(list(images.SUFFIXES))
        if height * width < 1e5 and max(height, width) < _WEBP_SIDE_PX:
            images.encode(picture, format_, profile)
        return "painted"

    def _refused(self, failure: Failure) -> str:
        if failure.reason not in {Reason.NOT_A_PICTURE, Reason.PICTURE_TOO_LARGE} or not failure.message:
            raise Finding(f"refused as {failure}")
        json.dumps(failure.message).encode("ascii")
        failure.message.encode("utf-8")
        # A PNG may claim a chunk of 4 GB: Pillow asks for as much before it reads.
        return "too much memory" if "memory" in failure.message else str(failure.reason)


# Sidecars


_WORDS: Final = (
    *(
        "null",
        "true",
        "yes",
        "~",
        ".nan",
        "-.inf",
        "1e3",
        "1_000",
        "0x1F",
        "0o17",
        "017",
        "1:30",
        "-0",
        "1e999",
    ),
    *("2024-01-01", "2024-13-45", "2024-01-01T00:00:00Z", "!!binary aGk=", "!!set {a}", "!!int '3'", "!!str 3"),
    *(
        "&a 1",
        "*a",
        "<<",
        "{}",
        "[]",
        "''",
        '"\\0"',
        '"\\uD800"',
        '"\\U0010FFFF"',
        "|\n  text",
        ">-\n  t",
        "? a",
    ),
    *(
        "../x",
        "/etc/passwd",
        "a/b",
        "a\\b",
        ".",
        "..",
        " ",
        "\u2028",
        "\x85",
        "é",
        "🌅",
        "% x",
        "@x",
        "`x`",
        "# x",
    ),
    *(
        "original",
        "auto",
        "none",
        "content",
        "noise",
        "block1_conv1",
        "block5_conv2",
        "paper",
        "preview",
        "fine",
    ),
    *(
        "0",
        "1",
        "-1",
        "16",
        "64",
        "512",
        "16384",
        "99999999999999999999",
        "0.5",
        "1e-320",
        "0.1",
        "1.7976931e308",
    ),
)
_KEYS: Final = tuple(sidecar.SidecarModel.model_fields)
_LAYERS: Final = ("block1_conv1", "[block1_conv1, block5_conv2]", "{block3_conv4: 0.25, block4_conv1: 1e3}")
_SOUND: Final = {
    "content": ("a.png", "sunset.jpg", "'5'", "é ☂.png", "~"),
    "style": ("wave.jpg", "[wave.jpg, {image: a.png, weight: 0.1}]", "[{image: scream.jpg}]", "null"),
    "preset": ("paper", "preview", "fine", "default"),
    "size": ("16", "64", "'300'", "original", "1e+3", "0x40"),
    "iterations": ("1", "100", "100000", "'7'", "2.0"),
    "scales": ("auto", "none", "[{size: 16, iterations: 1}]", "[]"),
    "learning_rate": ("2", "1e-9", "'0.5'", "1000000"),
    "content_weight": ("0", "1000", "1e+30"),
    "style_weight": ("0.01", "1_0", "1:30"),
    "content_layers": _LAYERS,
    "style_layers": _LAYERS,
    "tv_weight": ("0", "0.1", "1e-320"),
    "pooling": ("max", "avg"),
    "init": ("content", "style", "noise", "a.png"),
    "seed": ("0", "9223372036854775807", "'12'"),
    "frames": ("{}", "{every: 0}", "{every: 3, animation: gif}", "{animation: none}"),
    "output": ("{format: tiff}", "{}", "{format: webp}"),
    "priority": ("-1000", "1000", "0"),
    "result": ("{id: x, losses: {first: 1.0}}", "{}", "null"),
}


def sidecar_seeds() -> list[bytes]:
    """Give sound and hostile sidecars."""
    sound = [
        "",
        "content: sunset.jpg\nstyle: wave.jpg\n",
        "style: [{image: wave.jpg, weight: 2}, scream.jpg]\npreset: fine\n",
        "preset: preview\nsize: 300\niterations: 7\nseed: 5\npriority: -3\n",
        "scales: [{size: 128, iterations: 60}, {size: 256, iterations: 30}]\nsize: 512\n",
        "content_layers: {block4_conv2: 1, block5_conv2: 0.5}\nstyle_layers: [block1_conv1, block2_conv1]\n",
        "frames:\n  every: 10\n  animation: webp\noutput:\n  format: jpeg\ninit: noise\npooling: avg\n",
        "content_weight: 1000\nstyle_weight: 0.01\ntv_weight: 1e-3\nlearning_rate: 2\n",
        '{"content": "a.png", "style": ["b.png"], "init": "c.png", "size": "original"}',
        "result: {id: 3f9c, losses: {first: 1.5}, list: [1, 2, [3]]}\n",
    ]
    bad = [next(iter(reversed(case.files.values()))) for case in hostile.bad_sidecars()]
    return [*(text.encode() for text in sound), *(data for data in bad if len(data) < 5_000)]


class Sidecars:
    """Mutated sidecars, read with `daemon.sidecar` and told of with `error.yaml`."""

    def __init__(self, folder: Path) -> None:
        self._seeds = sidecar_seeds()

    def make(self, chance: random.Random) -> bytes:
        """Make one input: by grammar, by words, or by bytes."""
        kind = chance.random()
        if kind < 0.35:
            return self._made_up(chance).encode("utf-8", "surrogatepass")
        data, other = chance.choice(self._seeds), chance.choice(self._seeds)
        if kind < 0.65:
            return self._reworded(chance, data)
        return mutate(chance, data, other)

    def _made_up(self, chance: random.Random) -> str:
        keys = chance.sample(_KEYS, chance.randint(1, 6))
        keys += chance.sample(
            ["sise", "Size", "1", "null", "[a]", "content ", "<<"], chance.choice([0, 0, 0, 1])
        )
        odd = chance.choice(keys)
        is_sound = chance.random() < 0.5  # but for one key

        def value(key: str) -> str:
            return (
                chance.choice(_SOUND[key])
                if is_sound and key in _SOUND and key != odd
                else self._value(chance, 0)
            )

        return "".join(f"{key}: {value(key)}\n" for key in keys)

    def _value(self, chance: random.Random, depth: int) -> str:
        kind = chance.randrange(8 if depth < 3 else 6)
        if kind == 6:
            return "[" + ", ".join(self._value(chance, depth + 1) for _ in range(chance.randint(0, 4))) + "]"
        if kind == 7:
            pairs = (
                f"{chance.choice([*_FIELDS, *_WORDS])}: {self._value(chance, depth + 1)}"
                for _ in range(chance.randint(0, 3))
            )
            return "{" + ", ".join(pairs) + "}"
        if kind == 5:
            return "".join(chance.choices(string.printable + "éß\u0301\u202e\ufeff🌅", k=chance.randint(0, 12)))
        return chance.choice(_WORDS)

    def _reworded(self, chance: random.Random, data: bytes) -> bytes:
        """Exchange words for others."""
        tokens = re.split(rb"([\w.+-]+|\s)", data)
        for _ in range(chance.choice([1, 1, 2, 4])):
            tokens[chance.randrange(len(tokens))] = chance.choice([*_WORDS, *_KEYS]).encode(
                "utf-8", "surrogatepass"
            )
        return b"".join(tokens)

    def read(self, data: bytes, _chance: random.Random) -> str:
        """Read it as the intake does; returns what came of it."""
        try:
            raw = safe_yaml.parse(data)
        except safe_yaml.DocumentError as error:
            raw = None
            str(error).encode("utf-8")
        else:
            self._check_round_trip(raw)
        read = sidecar.parse(data, "fuzz.yaml")
        for name in read.names:
            if "/" in name or "\\" in name or "\0" in name or name.strip() in {"", ".", ".."}:
                raise Finding(f"it names {name!r}")
        self._check_pairing(read)
        if read.faults:
            self._check_telling(read)
            return "faulty"
        if read.settings is None or read.settings.total_iterations(480, 640) < 1:
            raise Finding("neither settings nor faults")
        text = safe_yaml.dump(read.settings.model_dump(mode="json"))
        if Settings.model_validate(safe_yaml.parse(text.encode())) != read.settings:
            raise Finding(f"the settings do not survive {text}")
        job = Job("0" * 16, 1, "fuzz", "", (), read.preset, read.settings, "now")
        if Job.from_json(job.to_json()) != job:
            raise Finding("the settings do not survive job.json")
        return "sound"

    def _check_round_trip(self, raw: Any) -> None:
        if isinstance(raw, dict) and _is_plain(raw):
            data = safe_yaml.dump(raw).encode()
            if len(data) <= safe_yaml.MAX_BYTES and safe_yaml.parse(data) != raw:
                raise Finding(f"{raw} does not survive {data!r}")

    def _check_pairing(self, read: sidecar.Sidecar) -> None:
        names = ["fuzz.yaml", "fuzz.content.png", "fuzz.style.jpg", "a.png", "SUNSET.JPG", "wave.jpg"]
        group = pairing.pair_sidecar("fuzz.yaml", read, names, ["scream.jpg"])
        if not {member.name for member in group.members} <= {*names, "scream.jpg"}:
            raise Finding(f"it pairs {group}")
        if not read.faults and not group.missing and {"content", "style"} - {m.role for m in group.members}:
            raise Finding(f"it is complete as {group}")

    def _check_telling(self, read: sidecar.Sidecar) -> None:
        failure = Failure.of_faults(read.faults)
        job = Job("0" * 16, 1, "fuzz", "", (), "default", None, "now", failure)
        told = safe_yaml.parse(record.error(job, failure, 1, "now", {})[: safe_yaml.MAX_BYTES * 4])
        if told["reason"] != failure.reason or len(told["faults"]) != len(read.faults):
            raise Finding(f"error.yaml tells {told}")
        if Job.from_json(job.to_json()) != job:
            raise Finding("the failure does not survive job.json")


_FIELDS: Final = ("image", "weight", "size", "iterations", "every", "animation", "format", "block1_conv1")


def _is_plain(value: Any) -> bool:
    """Whether a value is what JSON knows, and equal to itself."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, float):
        return not math.isnan(value)
    return value is None or isinstance(value, str | bool | int) or (type(value) is dt.date)


TARGETS: Final[dict[str, Callable[[Path], Sidecars | Pictures]]] = {"sidecar": Sidecars, "picture": Pictures}


# The worker, and who watches it


@dataclass(frozen=True)
class Task:
    """What a worker does, and where."""

    target: str
    seed: int
    folder: Path

    def chance(self, number: int) -> random.Random:
        """Give the source of chance of one input."""
        return random.Random(f"{self.target}-{self.seed}-{number}")  # noqa: S311 - chance, not secrets

    def note(self, number: int, data: bytes, what: str) -> None:
        """Keep a finding; of those that are alike only the first few."""
        key = zlib.crc32(re.sub(r"0x[0-9a-f]+|\d+", "", what.strip().splitlines()[-1][:80]).encode())
        if len(list(self.folder.glob(f"{self.target}-{key:08x}-*.txt"))) >= KEPT_ALIKE:
            return
        stem = self.folder / f"{self.target}-{key:08x}-{number}"
        stem.with_suffix(".bin").write_bytes(data)
        stem.with_suffix(".txt").write_text(
            f"--target {self.target} --seed {self.seed} --first {number}\n{what}", errors="backslashreplace"
        )


def work(task: Task, first: int, shared: mmap.mmap, tally: Any) -> None:
    """Read input after input; what is in work stands in the shared memory for the one who watches."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff tells what it thinks of each picture
    reader = TARGETS[task.target](task.folder)
    number = first
    counts: collections.Counter[str] = collections.Counter()
    while True:
        chance = task.chance(number)
        data = reader.make(chance)
        shared[:16] = _STATE.pack(number, number - first)
        begun = time.process_time()
        try:
            counts[reader.read(data, chance)] += 1
        except Exception:  # noqa: BLE001 - whatever it is, it is not documented
            task.note(number, data, traceback.format_exc())
            counts["FOUND"] += 1
        took = time.process_time() - begun
        if took > LIMIT_S:
            task.note(number, data, f"it took {took:.1f} s")
            counts["FOUND"] += 1
        number += 1
        if number % 100 == 0:
            tally.send(counts)
            counts = collections.Counter()


class Watch:
    """One worker, started again whenever it ends."""

    def __init__(self, task: Task, first: int) -> None:
        self.task = task
        self.counts: collections.Counter[str] = collections.Counter()
        self.done = 0
        self._next = first
        self._changed = time.monotonic()
        self._shared = mmap.mmap(-1, 16)
        self._reader = TARGETS[task.target](task.folder)
        self._start()

    def _start(self) -> None:
        self._shared[:16] = _STATE.pack(NOTHING, 0)
        self._last = self._shared[:16]
        self._changed = time.monotonic()
        self._tally, sends = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=work, args=(self.task, self._next, self._shared, sends))
        self._process.start()
        sends.close()

    def look(self) -> None:
        """Gather its counts; see whether it lives and moves."""
        with contextlib.suppress(EOFError, OSError):
            while self._tally.poll():
                self.counts += self._tally.recv()
        if self._shared[:16] != self._last:
            self._last, self._changed = self._shared[:16], time.monotonic()
        if not self._process.is_alive():
            self._ended(f"the worker ended with {self._process.exitcode}")
        elif time.monotonic() - self._changed > DEAD_S:
            self._process.kill()
            self._process.join()
            self._ended(f"nothing moved for {DEAD_S} s")

    def _ended(self, how: str) -> None:
        number, done = _STATE.unpack(self._shared[:16])
        if number == NOTHING:
            raise SystemExit(f"the worker of {self.task.target} does not start: {how}")
        self.task.note(number, self._reader.make(self.task.chance(number)), how)
        self.counts["FOUND"] += 1
        self.done += done
        self._next = number + 1
        self._start()

    def executions(self) -> int:
        """Give the number of inputs so far."""
        return self.done + _STATE.unpack(self._shared[:16])[1]

    def stop(self) -> None:
        """End the worker."""
        self._process.kill()
        self._process.join()
        self.look_at_rest()

    def look_at_rest(self) -> None:
        """Gather the last counts."""
        with contextlib.suppress(EOFError, OSError):
            while self._tally.poll():
                self.counts += self._tally.recv()


def main() -> int:
    """Fuzz."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--target", choices=[*TARGETS, "both"], default="both")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--dir", type=Path, help="where findings are kept; default: a temporary folder")
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    options = parser.parse_args()
    folder = options.dir or Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    targets = list(TARGETS) if options.target == "both" else [options.target]
    say(f"seed {options.seed}, findings in {folder}")
    begun = told = time.monotonic()
    watches = [Watch(Task(target, options.seed, folder), options.first) for target in targets]
    try:
        while (now := time.monotonic()) - begun < options.minutes * 60:
            for watch in watches:
                watch.look()
            if now - told > 60:
                told = now
                _tell(watches, now - begun)
            time.sleep(0.2)
    finally:
        for watch in watches:
            watch.stop()
    _tell(watches, time.monotonic() - begun)
    findings = sorted(path.name for path in folder.glob("*.txt"))
    say(f"{len(findings)} kept findings in {folder}: {findings}" if findings else "no finding")
    return 1 if findings else 0


def _tell(watches: list[Watch], seconds: float) -> None:
    for watch in watches:
        done = watch.executions()
        say(f"{watch.task.target}: {done} inputs, {done / seconds:.0f} a second, {dict(watch.counts)}")


if __name__ == "__main__":
    sys.exit(main())
