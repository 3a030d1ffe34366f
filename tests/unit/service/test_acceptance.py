"""What is accepted of a drop whose pictures can be decoded: each must stay wide enough for VGG19."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from support.desk import accept, pair
from support.trees import save

from daemon.errors import Reason
from daemon.job import Drop, Part, Stamp
from daemon.sandbox.client import Decoder
from daemon.settings import Settings
from daemon.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.job import Role

    Size = tuple[int, int]


@pytest.mark.parametrize(
    ("photo", "painting", "scale", "keys", "is_taken"),
    [
        ((48, 64), (16, 64), 0.1, {"size": 64, "style_scale": 0.1}, True),  # it stays larger
        ((48, 64), (8, 64), 1.0, {"size": 64, "style_scale": 2.0}, True),
        ((48, 64), (8, 64), 0.5, {"size": 64, "style_scale": 2.0}, False),
        ((48, 64), (8, 64), 1.0, {"size": 64}, False),
        ((8, 64), (48, 64), 1.0, {"size": 64, "style_scale": 4.0}, False),  # the photo keeps its size
        ((240, 320), (24, 32), 1.0, {"size": "original", "style_scale": 0.1}, True),
        ((48, 128), (8, 64), 1.0, {"size": "original"}, True),
        ((48, 64), (8, 127), 2.0, {"size": "original"}, False),
    ],
)
def test_what_is_too_narrow_is_refused_when_it_is_accepted(
    *, tmp_path: Path, photo: Size, painting: Size, scale: float, keys: dict[str, Any], is_taken: bool
) -> None:
    """A photo below 16 px at the first size, or a painting that has them nowhere, fails the job by its name."""
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    parts = [Part("content", "photo.png"), Part("style", "painting.png", scale=scale)]
    for part, size in zip(parts, (photo, painting), strict=True):
        save(tmp_path / part.name, 1, *size)
    seen = tuple(part.seen(Stamp.of((tmp_path / part.name).stat())) for part in parts)
    job = accept(spool, Drop("a", tmp_path, seen, "default", Settings.model_validate(keys))).job
    assert job is not None
    assert (job.failure is None) == is_taken
    if job.failure is not None:
        assert job.failure.reason is Reason.PICTURE_TOO_NARROW
        assert job.failure.file == ("photo.png" if photo[0] == 8 else "painting.png")


@pytest.mark.parametrize(("role", "level"), [("region_content", 9), ("region_style_mask", 0), ("style", 0)])
def test_a_mask_that_is_black_everywhere_is_refused(tmp_path: Path, role: Role, level: int) -> None:
    """Its failure names the file and says what to do; a photo may be black, and so may JPEG's black be 9."""
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    drop, path, decoder = pair(tmp_path), tmp_path / "sky.png", Decoder(200)
    Image.new("L", (64, 48), level).save(path)
    mask = Part(role, path.name).seen(Stamp.of(path.stat()))
    job = accept(spool, replace(drop, parts=(*drop.parts, mask)), decoder=decoder).job
    decoder.stop()
    assert job is not None
    assert (job.failure is None) == (role == "style")
    if job.failure is not None:
        assert (job.failure.reason, job.failure.file) == (Reason.EMPTY_MASK, "sky.png")
        assert job.failure.message == "sky.png: the mask is black everywhere"
