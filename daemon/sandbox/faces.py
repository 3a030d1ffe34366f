"""Finds the faces of a photo with OpenCV, the optional extra `faces`; the only module that imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from daemon.job import Face
from daemon.pictures import resampling
from daemon.settings import scaled

if TYPE_CHECKING:
    from daemon.job import Picture

SIDE_PX: Final = 512  # the longest side of the picture that is searched
MOST: Final = 200  # faces that are kept
_CASCADES: Final = ("haarcascade_frontalface_default.xml", "haarcascade_frontalface_alt2.xml")
_SCALE: Final = 1.1
_NEIGHBORS: Final = 6
_LEAST_SHARE: Final = 16  # a face has at least the 16th part of the short side


def find(picture: Picture) -> tuple[tuple[Face, ...], str]:
    """Find the faces that two cascades agree on, and name the detector.

    Each alone takes planks and leaves for faces now and then.

    Raises:
        ImportError: OpenCV is not installed.
        Exception: of many kinds, from OpenCV.
    """
    import cv2  # noqa: PLC0415 - not installed everywhere, and 170 MB of address space

    cv2.setNumThreads(1)  # each thread reserves address space
    height, width = scaled(picture.shape[0], picture.shape[1], SIDE_PX)
    gray = cv2.equalizeHist(cv2.cvtColor(resampling.resize(picture, height, width), cv2.COLOR_RGB2GRAY))
    first, second = (_boxes(cv2, name, gray) for name in _CASCADES)
    agreed = [box for box in first if any(_is_same(box, other) for other in second)]
    faces = (Face(left / width, top / height, w / width, h / height) for left, top, w, h in agreed[:MOST])
    return tuple(faces), f"opencv {cv2.__version__}"


def _boxes(cv2: Any, name: str, gray: Any) -> list[list[int]]:
    """List what one cascade finds in an equalized picture (height, width): left, top, width, height in px."""
    side = max(1, min(gray.shape) // _LEAST_SHARE)
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + name)
    return [
        list(map(int, box)) for box in cascade.detectMultiScale(gray, _SCALE, _NEIGHBORS, minSize=(side, side))
    ]


def _is_same(box: list[int], other: list[int]) -> bool:
    """Whether the centers of two boxes are within half of the first one's width."""
    across, down = (box[axis] + box[axis + 2] / 2 - other[axis] - other[axis + 2] / 2 for axis in (0, 1))
    return across**2 + down**2 <= (box[2] / 2) ** 2
