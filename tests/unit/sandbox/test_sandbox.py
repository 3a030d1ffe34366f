"""The decoder: what `decoding.decode` says, from a process that any picture may take down."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs
from support import profiles
from support.fakes import AskedLife
from support.programs import is_gone
from support.trees import wait_for

from daemon.errors import JobError, NotReady, NotTaken, Reason
from daemon.lifeline import Lifeline
from daemon.pictures import decoding
from daemon.sandbox import child as child_module
from daemon.sandbox import client
from daemon.sandbox.client import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[..., Decoder]

MEGAPIXELS = 1.0
LIFE = Lifeline()
P3 = profiles.rgb(profiles.DISPLAY_P3)
MOMENT_S = 10.0
HEIGHT = 20


def saved(path: Path, width: int = 30, height: int = HEIGHT, **options: Any) -> Path:
    """Write a picture of colors, in the format that the name asks for."""
    ramp = np.arange(height * width * 3, dtype=np.uint32).reshape(height, width, 3) % 251
    Image.fromarray(ramp.astype(np.uint8)).save(path, **options)
    return path


def peak_bytes(decoder: Decoder) -> int:
    """The largest address space that the child has had."""
    lines = Path(f"/proc/{decoder.pid}/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmPeak:")))


@pytest.fixture
def make() -> Iterator[Make]:
    """Make decoders of a test's own, for pictures of one megapixel."""
    made: list[Decoder] = []

    def build(max_megapixels: float = MEGAPIXELS) -> Decoder:
        made.append(Decoder(max_megapixels))
        return made[-1]

    yield build
    for decoder in made:
        decoder.stop()


@pytest.fixture(scope="module")
def shared() -> Iterator[Decoder]:
    """One decoder for all tests that leave its child alive."""
    decoder = Decoder(MEGAPIXELS)
    yield decoder
    decoder.stop()


@pytest.fixture
def decoder(shared: Decoder, tmp_path: Path) -> Iterator[Decoder]:
    """The shared decoder; a test that lost its child fails."""
    shared.inspect(saved(tmp_path / "first.png"), "first", LIFE)
    pid = shared.pid
    yield shared
    assert shared.inspect(saved(tmp_path / "last.png"), "last", LIFE)[0] == (HEIGHT, 30)
    assert shared.pid == pid


def failure(decoder: Decoder, path: Path, name: str = "it") -> Any:
    """The failure of a picture that is none."""
    with pytest.raises(JobError) as caught:
        decoder.inspect(path, name, LIFE)
    return caught.value.failure


def verdict(decoder: Decoder, path: Path) -> Any:
    """The size of a picture, or the reason why it is none."""
    try:
        return decoder.inspect(path, "it", LIFE)[0]
    except JobError as error:
        return error.failure.reason


# What it says


def test_it_says_what_reading_says(decoder: Decoder, tmp_path: Path) -> None:
    """Sizes, with EXIF orientation applied, and failures, word for word, are those of `decoding.decode`."""
    turned = Image.Exif()
    turned[0x112] = 6
    paths = [
        saved(tmp_path / f"good{suffix}")
        for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp", ".gif", ".avif")
    ]
    paths.append(saved(tmp_path / "turned.jpg", exif=turned))
    paths.append(saved(tmp_path / "large.png", 2000, 501))
    paths.append(saved(tmp_path / "format.ppm"))
    paths.append(tmp_path / "missing.png")
    half = saved(tmp_path / "half.jpg", 200, 200)
    half.write_bytes(half.read_bytes()[:-2000])
    (tmp_path / "words.png").write_text("no picture")
    paths += [half, tmp_path / "words.png", tmp_path]
    answers = []
    for path in paths:
        try:
            expected: Any = decoding.decode(path, MEGAPIXELS, path.name).size
        except JobError as error:
            expected = error.failure
        try:
            answers.append(decoder.inspect(path, path.name, LIFE)[0])
        except JobError as error:
            answers.append(error.failure)
        assert answers[-1] == expected
    assert answers[:8] == [(20, 30)] * 7 + [(30, 20)]
    assert [answer.reason for answer in answers[8:]] == [Reason.PICTURE_TOO_LARGE, *[Reason.NOT_A_PICTURE] * 5]


def test_any_name_is_asked_for(decoder: Decoder, tmp_path: Path) -> None:
    """Newlines, quotes and bytes that are no UTF-8 in a path reach the child as they are."""
    path = Path(os.fsdecode(os.fsencode(tmp_path / 'a\n"b') + b"\xff\xfe.png"))
    path.write_bytes(saved(tmp_path / "a.png", 31).read_bytes())
    assert decoder.inspect(path, "a", LIFE)[0] == (HEIGHT, 31)


def test_the_daemon_stays_small(tmp_path: Path) -> None:
    """Asking the decoder imports neither NumPy nor Pillow nor TensorFlow into the daemon."""
    code = (
        "import sys; from pathlib import Path; from daemon.lifeline import Lifeline\n"
        "from daemon.sandbox.client import Decoder\n"
        "decoder = Decoder(1)\n"
        "print(decoder.inspect(Path(sys.argv[1]), 'a', Lifeline())[0])\n"
        "decoder.stop()\n"
        "print([name for name in ('numpy', 'PIL', 'tensorflow') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, saved(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(20, 30)", "[]"]


def test_the_child_knows_no_tensorflow(decoder: Decoder) -> None:
    """The child maps no library of TensorFlow."""
    maps = Path(f"/proc/{decoder.pid}/maps").read_text()
    assert "numpy" in maps
    assert "tensorflow" not in maps


# Its child's life


def test_one_child_serves_many_pictures(make: Make, tmp_path: Path) -> None:
    """The child starts with the first question, not before, and answers the next ones too."""
    decoder, path = make(), saved(tmp_path / "a.png")
    assert decoder.pid is None
    pids = set()
    for _ in range(5):
        decoder.inspect(path, "a", LIFE)
        pids.add(decoder.pid)
    assert len(pids) == 1
    decoder.stop()
    assert is_gone(pids.pop())
    assert decoder.inspect(path, "a", LIFE)[0] == (HEIGHT, 30)


@pytest.mark.parametrize(("constant", "value", "answers"), [("PICTURES", 2, 2), ("IDLE_S", 0.5, 1)])
def test_a_child_ends_by_itself(
    constant: str, value: float, answers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After many pictures, or when no question comes for a while, the child ends by itself."""
    monkeypatch.setattr(child_module, constant, value)
    path = saved(tmp_path / "a.png")
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        thread = threading.Thread(target=child_module.serve, args=(theirs, MEGAPIXELS))
        thread.start()
        for _ in range(answers):
            ours.send_bytes(json.dumps([str(path), "a", {"wants_faces": False, "is_mask": False}]).encode())
            assert json.loads(ours.recv_bytes()) == {"size": [HEIGHT, 30], "warnings": []}
        thread.join(MOMENT_S)
        assert not thread.is_alive()


def test_a_child_that_ended_while_idle_is_replaced(make: Make, tmp_path: Path) -> None:
    """A child that ended between two pictures is no picture's fault, and no word is lost about it."""
    decoder, path = make(), saved(tmp_path / "a.png")
    decoder.inspect(path, "a", LIFE)
    pid = decoder.pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: decoder.pid is None, "the child's end", MOMENT_S)
    with capture_logs() as records:
        assert decoder.inspect(path, "a", LIFE)[0] == (HEIGHT, 30)
    assert decoder.pid != pid
    assert records == []


def test_a_child_that_does_not_start_is_no_fault_of_the_picture(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the child cannot even be imported the environment is to blame, and no drop fails for it."""
    folder, path = tmp_path / "broken", saved(tmp_path / "a.png")
    folder.mkdir()
    (folder / "numpy.py").write_text("raise ImportError('broken')")
    decoder = make()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    for _ in range(2):
        with pytest.raises(NotReady, match="the decoder's process does not start: exit code 1"):
            decoder.inspect(path, "a", LIFE)
    monkeypatch.delenv("PYTHONPATH")
    assert decoder.inspect(path, "a", LIFE)[0] == (HEIGHT, 30)


def test_a_child_ends_with_its_thread_and_the_next_thread_gets_another(make: Make, tmp_path: Path) -> None:
    """A thread's child ends with the thread; a question from another thread is answered all the same."""
    decoder, path = make(), saved(tmp_path / "a.png")
    pids = []

    def ask() -> None:
        decoder.inspect(path, "a", LIFE)
        pids.append(decoder.pid)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    wait_for(lambda: decoder.pid is None, "the child's end", MOMENT_S)
    assert is_gone(pids[0])
    assert decoder.inspect(path, "a", LIFE)[0] == (HEIGHT, 30)


# What takes it down

POISON = """
import errno, os, signal, time
from pathlib import Path
from daemon.pictures import decoding, srgb

def strike(image):
    folder = Path(os.environ["POISON"])
    if image.width == 101: os.kill(os.getpid(), signal.SIGSEGV)
    if image.width == 102: os._exit(0)
    if image.width == 103: os.kill(os.getpid(), signal.SIGKILL)
    if image.width == 104:
        (folder / "hangs").touch()
        while True: pass
    if image.width == 105: raise OSError(errno.EIO, "Input/output error")
    if image.width == 106: raise OSError(errno.ENOMEM, "Cannot allocate memory")
    if image.width == 107: held = [bytearray(1 << 26) for _ in range(10_000)]
    if image.width == 108: os.write(int(__import__("sys").argv[2]), b"\\0\\0\\0\\5nope!")
    if image.width == 109: os.abort()
    if image.width == 110 and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return real(image)

real, srgb.converted = srgb.converted, strike
"""


@pytest.fixture
def poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make decoders misbehave in every Python started from here, by the width of the picture."""
    folder = tmp_path / "poison"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"import sys\nif 'daemon.sandbox.child' in sys.orig_argv:\n    exec({POISON!r}, {{}})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("POISON", str(tmp_path))


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let memory be short, and nobody wait long for the end of what talks nonsense."""
    monkeypatch.setattr(client, "_LEAST_BYTES", 0)
    monkeypatch.setattr(client, "_END_S", 0.5)


@pytest.mark.usefixtures("poison", "little_memory")
@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (101, (Reason.NOT_A_PICTURE, "it: the decoder crashed on it (signal SIGSEGV)")),
        (102, (Reason.NOT_A_PICTURE, "it: the decoder crashed on it (exit code 0)")),
        (103, (Reason.PICTURE_TOO_LARGE, "it: it needs more memory than the machine has free")),
        (106, (Reason.PICTURE_TOO_LARGE, "it: it needs more memory than there is")),
        (107, (Reason.PICTURE_TOO_LARGE, "it: it needs more memory than there is")),
        (108, (Reason.NOT_A_PICTURE, "it: the decoder crashed on it (exit code 1)")),
        (109, (Reason.NOT_A_PICTURE, "it: the decoder crashed on it (signal SIGABRT)")),
    ],
    ids=["segfault", "exit", "kill", "enomem", "eats memory", "nonsense", "abort"],
)
def test_a_deadly_picture_fails_with_its_cause(
    width: int, expected: tuple[Reason, str], make: Make, tmp_path: Path
) -> None:
    """Whatever a picture does to its decoder, it fails alone, for its own reason; the next one is decoded."""
    decoder = make()
    assert decoder.inspect(saved(tmp_path / "a.png"), "a", LIFE)[0] == (HEIGHT, 30)
    found = failure(decoder, saved(tmp_path / "b.png", width))
    assert (found.reason, found.message) == expected
    assert found.file == "it"
    assert decoder.inspect(saved(tmp_path / "a.png"), "a", LIFE)[0] == (HEIGHT, 30)


def test_a_death_is_logged(make: Make, tmp_path: Path, poison: None) -> None:
    """A decoder that died says in the log on which picture, and how."""
    with capture_logs() as records:
        failure(make(), saved(tmp_path / "b.png", 101), "b.png")
    died = {"event": "inspector.died", "log_level": "warning", "file": "b.png", "ended_by": "signal SIGSEGV"}
    assert records == [died]


def test_a_child_killed_once_is_no_fault_of_the_picture(make: Make, tmp_path: Path, poison: None) -> None:
    """A picture whose decoder was killed, as by an operator, is decoded by the next one."""
    assert make().inspect(saved(tmp_path / "b.png", 110), "b", LIFE)[0] == (HEIGHT, 110)
    assert (tmp_path / "killed").exists()


def test_a_disk_that_fails_is_no_fault_of_the_picture(make: Make, tmp_path: Path, poison: None) -> None:
    """An error of the disk reaches the caller as an OSError with number and path, as from `decoding.decode`."""
    path = saved(tmp_path / "b.png", 105)
    with pytest.raises(OSError, match="Input/output error") as caught:
        make().inspect(path, "b", LIFE)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path))


def test_a_picture_that_never_ends_is_ended(
    make: Make, tmp_path: Path, poison: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the time limit the decoder is ended, and the picture has failed; the next one is decoded."""
    monkeypatch.setattr(client, "TIME_LIMIT_S", 1.0)
    decoder = make()
    decoder.inspect(saved(tmp_path / "a.png"), "a", LIFE)
    pid, begun = decoder.pid, time.monotonic()
    found = failure(decoder, saved(tmp_path / "b.png", 104))
    assert 1 <= time.monotonic() - begun < 1 + MOMENT_S
    assert (found.reason, found.message) == (Reason.NOT_A_PICTURE, "it: it takes longer than 1 s to decode")
    assert is_gone(pid)
    assert decoder.inspect(saved(tmp_path / "a.png"), "a", LIFE)[0] == (HEIGHT, 30)


def test_a_stop_does_not_wait_for_a_decoder(make: Make, tmp_path: Path, poison: None) -> None:
    """Asked to stop during a picture, it ends the decoder in a moment, and the drop is not taken."""
    decoder, life = make(), AskedLife((tmp_path / "hangs").exists)
    begun = time.monotonic()
    with pytest.raises(NotTaken, match="asked to stop"):
        decoder.inspect(saved(tmp_path / "b.png", 104), "b", life)
    assert time.monotonic() - begun < MOMENT_S
    assert decoder.pid is None


def test_the_wait_for_a_decoder_has_heartbeats(
    make: Make, tmp_path: Path, poison: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a picture is decoded the thread gives several heartbeats a second."""
    beats: list[float] = []
    life = Lifeline()
    monkeypatch.setattr(life, "beat", lambda: beats.append(time.monotonic()))
    monkeypatch.setattr(client, "TIME_LIMIT_S", 2.0)
    with pytest.raises(JobError, match="longer than 2 s"):
        make().inspect(saved(tmp_path / "b.png", 104), "b", life)
    assert len(beats) >= 4  # in two seconds; 20, on a machine with nothing else to do


def test_deaths_leak_nothing(make: Make, tmp_path: Path, poison: None) -> None:
    """After several deaths as many descriptors are open as before, and no child is left behind."""
    decoder, bad = make(), saved(tmp_path / "b.png", 101)
    failure(decoder, bad)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        failure(decoder, bad)
    assert len(os.listdir("/proc/self/fd")) == before
    assert decoder.pid is None


# Memory


def test_a_picture_beyond_the_memory_limit_is_too_large(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real picture that needs more than the limit fails as too large, and its child lives on."""
    monkeypatch.setattr(client, "memory_limit", lambda _megapixels: 300 << 20)
    decoder = make(100.0)
    large = tmp_path / "large.png"
    Image.new("L", (9_000, 9_000)).save(large, compress_level=1)
    small = saved(tmp_path / "a.png")
    decoder.inspect(small, "a", LIFE)
    pid = decoder.pid
    found = failure(decoder, large)
    assert found.reason is Reason.PICTURE_TOO_LARGE
    assert found.message == "it: it needs more memory than there is"
    assert decoder.inspect(small, "a", LIFE)[0] == (HEIGHT, 30)
    assert decoder.pid == pid


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RGBA.webp", {"lossless": True, "quality": 0, "method": 0}),
        pytest.param(
            "RGBA.tif", {"tiffinfo": {0x112: 6}, "compression": "tiff_deflate"}, marks=pytest.mark.nightly
        ),
        pytest.param(
            "CMYK.jpg", {"progressive": True, "icc_profile": profiles.cmyk()}, marks=pytest.mark.nightly
        ),
        pytest.param("RGBA.avif", {"speed": 10, "icc_profile": P3}, marks=pytest.mark.nightly),
        pytest.param("RGBA.png", {"compress_level": 1, "icc_profile": P3}, marks=pytest.mark.nightly),
        pytest.param("I;16.png", {"compress_level": 0}, marks=pytest.mark.nightly),
    ],
)
def test_every_good_picture_fits_into_the_memory_limit(
    name: str, options: dict[str, Any], make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hungriest formats of the largest size, turned by EXIF, need no more than is reckoned a pixel."""
    height, width, mode = 3000, 4000, Path(name).stem
    turned = Image.Exif()
    turned[0x112] = 6
    random = np.random.default_rng(0)
    if mode == "I;16":
        picture = Image.fromarray(random.integers(0, 1 << 16, (height, width), np.uint16))
    else:
        coarse = random.integers(0, 256, (height // 8, width // 8, 4), np.uint8)
        picture = Image.fromarray(coarse.repeat(8, 0).repeat(8, 1), "RGBA").convert(mode)
    picture.save(tmp_path / name, **{"exif": turned.tobytes(), **options})
    monkeypatch.setattr(client, "_LEAST_BYTES", 0)
    monkeypatch.setattr(client, "_BASE_BYTES", 160 << 20)  # what Python, NumPy and Pillow take, and little more
    decoder = make(height * width / 1e6)
    assert decoder.inspect(tmp_path / name, name, LIFE)[0] == (width, height)


def test_a_header_that_is_too_large_is_its_own_reason(decoder: Decoder, tmp_path: Path) -> None:
    """A WebP of 16383 x 16383 px by its header is refused for its size, not because memory ran out."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "webp", lossless=True)
    data = bytearray(buffer.getvalue())
    assert data[12:16] == b"VP8L"
    bits = int.from_bytes(data[21:25], "little")
    data[21:25] = ((bits >> 28 << 28) | (16382 << 14) | 16382).to_bytes(4, "little")
    (tmp_path / "a.webp").write_bytes(data)
    found = failure(decoder, tmp_path / "a.webp")
    assert found.reason is Reason.PICTURE_TOO_LARGE
    assert found.message == "it: 16383 x 16383 px is more than 1 megapixels"


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes) -> bytes:
    """A PNG of 8 x 8 gray pixels with further chunks before its pixels."""
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 9 * 8)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


def deflated(size: int) -> bytes:
    """So many zero bytes, deflated."""
    packer, block = zlib.compressobj(9), bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    """A TIFF of 8 x 8 gray pixels with further entries (tag, type, count, value or offset)."""
    base = [
        *((256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)),
        *((277, 3, 1, 1), (278, 3, 1, 8), (279, 4, 1, 64)),
    ]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in sorted({*base, *entries}))
    count = len(directory) // 12
    return b"II*\0" + struct.pack("<I", 72) + bytes(64) + struct.pack("<H", count) + directory + bytes(4)


BOMBS: dict[str, Callable[[], bytes]] = {
    "zTXt.png": lambda: png(chunk(b"zTXt", b"Comment\0\0" + deflated(1 << 29))),
    "many zTXt.png": lambda: png(*[chunk(b"zTXt", b"k%d\0\0" % i + deflated(1 << 20)) for i in range(300)]),
    "iTXt.png": lambda: png(chunk(b"iTXt", b"Comment\0\1\0\0\0" + deflated(1 << 29))),
    "iCCP.png": lambda: png(chunk(b"iCCP", b"profile\0\0" + deflated(1 << 29))),
    "tEXt.png": lambda: png(chunk(b"tEXt", b"Comment\0" + bytes(1 << 26))),
    "length.png": lambda: png(struct.pack(">I", 0x7FFFFFFF) + b"tEXt"),
    "profile.tif": lambda: tiff((34675, 7, 0xFFFFFFF0, 8)),
    "doubles.tif": lambda: tiff((33550, 12, 0x1FFFFFFF, 8)),
    "offsets.tif": lambda: tiff((273, 4, 0x3FFFFFFF, 8)),
    "strip.tif": lambda: tiff((279, 4, 1, 0xFFFFFFF0)),
    "rows.tif": lambda: tiff((278, 4, 1, 0xFFFFFFF0), (259, 3, 1, 8)),
    "samples.tif": lambda: tiff((277, 3, 1, 0xFFFF)),
}


SLOW_TO_PACK = {"many zTXt.png", "iTXt.png", "iCCP.png"}  # like zTXt.png


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] * (name in SLOW_TO_PACK)) for name in BOMBS]
)
def test_a_bomb_ends_quickly_and_within_memory(name: str, decoder: Decoder, tmp_path: Path) -> None:
    """A small file that claims or unpacks to gigabytes beside its pixels fails or passes, in the same child."""
    path = tmp_path / name
    path.write_bytes(BOMBS[name]())
    begun = time.monotonic()
    assert verdict(decoder, path) in {(8, 8), Reason.NOT_A_PICTURE, Reason.PICTURE_TOO_LARGE}
    assert time.monotonic() - begun < MOMENT_S
    assert peak_bytes(decoder) < client.memory_limit(MEGAPIXELS)


def test_the_bombs_would_be_pictures_without_their_load(decoder: Decoder, tmp_path: Path) -> None:
    """The shells of the bombs are good pictures, so that it is their load that is looked at."""
    (tmp_path / "a.png").write_bytes(png(chunk(b"zTXt", b"Comment\0\0" + deflated(0))))
    (tmp_path / "a.tif").write_bytes(tiff())
    assert decoder.inspect(tmp_path / "a.png", "a", LIFE)[0] == (8, 8)
    assert decoder.inspect(tmp_path / "a.tif", "a", LIFE)[0] == (8, 8)


def test_the_memory_limit_grows_with_the_largest_picture() -> None:
    """The limit is never below what a WebP's header may take, and grows by 48 bytes a pixel."""
    assert client.memory_limit(1) == 3 << 30
    assert client.memory_limit(300) - client.memory_limit(200) == 48 * 100_000_000


def test_a_stopped_child_is_ended_all_the_same(make: Make, tmp_path: Path) -> None:
    """`stop` ends a child that is itself stopped, and twice is once."""
    decoder = make()
    decoder.inspect(saved(tmp_path / "a.png"), "a", LIFE)
    pid = decoder.pid
    os.kill(pid, signal.SIGSTOP)
    decoder.stop()
    decoder.stop()
    assert is_gone(pid)
