"""Faces: found in the decoder's process, where nothing that goes wrong costs more than their protection."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from support.trees import save

from daemon.job import Face
from daemon.lifeline import Lifeline
from daemon.sandbox import client
from daemon.sandbox.client import Decoder, Found

if TYPE_CHECKING:
    from collections.abc import Iterator

LIFE = Lifeline()
# Eileen Collins, photographed by NASA, which claims no copyright; cut out and reduced.
PORTRAIT = Path(__file__).parents[2] / "support" / "face.jpg"

FAKE = """
import os, sys, time
__version__, COLOR_RGB2GRAY = "4.0", 0

class data:
    haarcascades = "cascades/"

def setNumThreads(number): pass
def cvtColor(picture, code): return picture[..., 0]
def equalizeHist(gray): return gray

class CascadeClassifier:
    def __init__(self, path): self.is_first = path == "cascades/haarcascade_frontalface_default.xml"
    def detectMultiScale(self, gray, scale, neighbors, minSize):
        assert (gray.shape, scale, neighbors, minSize) == ((384, 512), 1.1, 6, (24, 24))
        ACT
        return FIRST if self.is_first else SECOND
"""
WRITE = """os.write(int(sys.argv[2]), len(TEXT).to_bytes(4, "big") + TEXT)"""


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    """A decoder that has started no child yet."""
    made = Decoder(1.0)
    yield made
    made.stop()


def imitate(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Put a module in the place of OpenCV, in every Python started from here."""
    (folder / "cv2.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_face_counts_where_both_cascades_see_it(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes of the first cascade are kept that the second one has within half a width, as shares."""
    near, far, alone = (128, 96, 64, 64), (128, 192, 64, 64), (300, 96, 64, 64)
    first, second = (near, far, alone), ((144, 96, 64, 64), (128, 233, 64, 64))
    text = FAKE.replace("ACT", "").replace("FIRST", str(first)).replace("SECOND", str(second))
    imitate(tmp_path, monkeypatch, text)
    path = save(tmp_path / "a.png", 1)  # 32 x 24 px

    found = decoder.inspect(path, "a", LIFE, wants_faces=True)

    assert found == ((24, 32), Found((Face(0.25, 0.25, 0.125, 64 / 384),), "opencv 4.0"))
    assert decoder.inspect(path, "a", LIFE) == ((24, 32), Found())


@pytest.mark.parametrize(
    ("text", "detector"),
    [
        ("raise ImportError", "missing"),
        (FAKE.replace("ACT", "raise MemoryError"), "failed: MemoryError"),
        (FAKE.replace("ACT", "os.abort()"), "failed: signal SIGABRT"),
        (FAKE.replace("ACT", "time.sleep(60)"), "failed: time limit"),
        (FAKE.replace("ACT", WRITE.replace("TEXT", 'b"what?"')), "failed: exit code 1"),
        (
            FAKE.replace("ACT", WRITE.replace("TEXT", """b'{"faces": [[0.5, 2, 1, 1]], "detector": ""}'""")),
            "failed: no answer",
        ),
    ],
    ids=["missing", "error", "crash", "hang", "nonsense", "outside"],
)
def test_a_detector_that_fails_costs_the_protection_alone(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, detector: str
) -> None:
    """The size comes all the same, the reason is on record, and the next picture is decoded."""
    imitate(tmp_path, monkeypatch, text)
    monkeypatch.setattr(client, "FACES_LIMIT_S", 1.0)
    monkeypatch.setattr(client, "_END_S", 0.5)
    path = save(tmp_path / "a.png", 1)

    with capture_logs() as records:
        assert decoder.inspect(path, "a", LIFE, wants_faces=True) == ((24, 32), Found(None, detector))

    is_dead = "signal" in detector or "limit" in detector or "exit" in detector
    assert [record["event"] for record in records] == ["inspector.died"] * is_dead
    assert decoder.inspect(path, "a", LIFE)[0] == (24, 32)


@pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="the extra `faces` is not installed")
def test_a_real_face_is_found(decoder: Decoder, tmp_path: Path) -> None:
    """The one face of a portrait is found where it is, and none in noise, within the limit of memory."""
    _, found = decoder.inspect(PORTRAIT, "a", LIFE, wants_faces=True)

    (face,) = found.faces
    assert (face.left + face.width / 2, face.top + face.height / 2) == pytest.approx((0.5, 0.5), abs=0.06)
    assert face.width == pytest.approx(0.4, abs=0.06)
    assert found.detector.startswith("opencv 4.")
    assert decoder.inspect(save(tmp_path / "a.png", 1, 300, 200), "a", LIFE, wants_faces=True)[1].faces == ()
    lines = Path(f"/proc/{decoder.pid}/status").read_text().splitlines()
    assert 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmPeak"))) < 450 << 20
