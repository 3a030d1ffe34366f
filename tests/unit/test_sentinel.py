"""A folder met once is known by its sentinel, which is never made a second time."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from daemon.errors import NotReady
from daemon.sentinel import Sentinel

if TYPE_CHECKING:
    from pathlib import Path


def sentinel(tmp_path: Path, folder: str = "share/inbox", kind: str = "inbox") -> Sentinel:
    """Make the sentinel of a folder, with the spool's memory beside it."""
    return Sentinel(tmp_path / folder, kind, tmp_path / "met")


@pytest.mark.parametrize("kind", ["inbox", "outbox"])
def test_the_first_meeting_makes_folder_and_sentinel(tmp_path: Path, kind: str) -> None:
    """A new folder gets the sentinel of its kind, with a word for whoever finds it."""
    sentinel(tmp_path, kind=kind).establish()

    assert "mounted" in (tmp_path / f"share/inbox/.styletransferd-{kind}").read_text()
    sentinel(tmp_path, kind=kind).check()


def test_a_sentinel_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """Another daemon's sentinel is met, not rewritten."""
    (tmp_path / "share/inbox").mkdir(parents=True)
    sentinel(tmp_path).path.write_text("by hand")

    sentinel(tmp_path).establish()

    assert sentinel(tmp_path).path.read_text() == "by hand"


@pytest.mark.parametrize("loss", ["sentinel", "folder"])
def test_a_sentinel_once_met_is_never_made_again(tmp_path: Path, loss: str) -> None:
    """An empty mount point is not taken for the share: not ready, and nothing is written below it."""
    sentinel(tmp_path).establish()
    if loss == "sentinel":
        sentinel(tmp_path).path.unlink()
    else:
        shutil.rmtree(tmp_path / "share")

    for look in (sentinel(tmp_path).establish, sentinel(tmp_path).check):
        with pytest.raises(NotReady, match="inbox unavailable"):
            look()
    assert not sentinel(tmp_path).path.exists()
    assert (tmp_path / "share").exists() is (loss == "sentinel")


def test_a_returning_share_is_ready_again(tmp_path: Path) -> None:
    """Mounting the share, or touching the file as the message says, is enough."""
    sentinel(tmp_path).establish()
    sentinel(tmp_path).path.unlink()

    with pytest.raises(NotReady) as caught:
        sentinel(tmp_path).check()
    assert f"touch '{sentinel(tmp_path).path}'" in str(caught.value)

    sentinel(tmp_path).path.touch()
    sentinel(tmp_path).check()


def test_each_folder_is_met_by_itself(tmp_path: Path) -> None:
    """A new path in the config is a first meeting; the earlier one is still remembered."""
    sentinel(tmp_path, "one").establish()
    sentinel(tmp_path, "two").establish()
    sentinel(tmp_path, "one").path.unlink()

    with pytest.raises(NotReady):
        sentinel(tmp_path, "one").establish()
    sentinel(tmp_path, "two").check()


@pytest.mark.parametrize("name", ["line\nbreak", "\udcff", "日本", "\u2028"])
def test_a_folder_of_any_name_is_remembered(tmp_path: Path, name: str) -> None:
    """Line breaks and bytes that are no UTF-8 are names too."""
    sentinel(tmp_path, name).establish()
    sentinel(tmp_path, name).establish()
    sentinel(tmp_path, name).path.unlink()

    with pytest.raises(NotReady):
        sentinel(tmp_path, name).establish()


def test_a_start_of_a_known_name_is_not_known(tmp_path: Path) -> None:
    """`/a/b` does not make `/a` known."""
    sentinel(tmp_path, "a/b").establish()

    sentinel(tmp_path, "a").establish()

    assert sentinel(tmp_path, "a").path.exists()


def test_a_folder_that_cannot_be_made_is_not_ready(tmp_path: Path) -> None:
    """A file in the way is reported, and is no traceback."""
    (tmp_path / "share").write_bytes(b"")

    with pytest.raises(NotReady, match=r"inbox .*share/inbox"):
        sentinel(tmp_path).establish()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_not_ready(tmp_path: Path) -> None:
    """What cannot be written is waited for."""
    (tmp_path / "share").mkdir(mode=0o500)

    with pytest.raises(NotReady):
        sentinel(tmp_path).establish()
