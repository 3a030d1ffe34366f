"""An outbox that is unmounted between any two operations: nothing is written under its mount point."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
from support.fakes import Disk
from support.programs import NAMESPACE, run_program
from support.trees import digest

from daemon.errors import NotReady
from daemon.job import Job, Part
from daemon.lifeline import Lifeline
from daemon.outbox import summary
from daemon.outbox.frames import FrameWriter
from daemon.outbox.publish import Outbox
from daemon.outbox.summary import Run
from daemon.sentinel import Sentinel

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from daemon.job import Picture

ID: Final = "3f9c21ab00000001"
JOB: Final = Job(
    ID, 1, "sea", ".", (Part("sidecar", "sea.yaml", "sidecar-0.yaml", 1, 2, 3, 4, "0"),), "default", None, ""
)
PICTURE: Picture = np.zeros((4, 4, 3), np.uint8)
MOST: Final = 200  # moments in one action
_RENAME, _MKDIR, _RMDIR = os.rename, os.mkdir, os.rmdir  # as they are where no disk counts them


class Scene:
    """An outbox that can be unmounted: its folder is moved away, and an empty one takes its place."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.ground = base / "ground"  # holds the outbox, wherever it is
        sentinel = Sentinel(self.ground / "outbox", "outbox", base / "met")
        sentinel.establish()
        self.outbox = Outbox(sentinel.folder, sentinel)
        self.out = base / "out"
        (self.out / "frames").mkdir(parents=True)
        (self.out / "result.png").write_bytes(b"picture")
        (self.out / "frames" / "0000.png").write_bytes(b"frame")
        (self.out / "sidecar-0.yaml").write_bytes(b"sise: 3")

    def unmount(self) -> None:
        """Take the share away."""
        _RENAME(self.outbox.root, self.ground / "share")
        _MKDIR(self.outbox.root)

    def mount(self) -> None:
        """Bring it back; its mount point must be as empty as it was."""
        assert os.listdir(self.outbox.root) == []
        _RMDIR(self.outbox.root)
        _RENAME(self.ground / "share", self.outbox.root)

    # What is done, and what must be there afterwards

    def publish(self) -> None:
        """Show a result in the place of an earlier failure."""
        entry = self.outbox.publish(JOB, self.out, Lifeline())
        assert digest((entry / "frames" / "0000.png").read_bytes()) in (entry / "manifest.json").read_text()
        assert self.names == {entry.name}

    def publish_failure(self) -> None:
        """Show a failure in the place of an earlier one."""
        entry = self.outbox.publish_failure(JOB, b"reason: diverged", self.out, self.out / "none", Lifeline())
        assert (entry / "drop" / "sea.yaml").read_bytes() == b"sise: 3"
        assert self.names == {entry.name}

    def preview(self) -> None:
        """Show a job's progress."""
        self.outbox.preview(JOB, b"picture", {"iteration": 1})
        assert (self.outbox.live(JOB) / "latest.png").read_bytes() == b"picture"

    def frames(self) -> None:
        """Keep frames, with previews by the thread that writes them, and end the preview."""
        writer = FrameWriter(self.out / "own", self.outbox, JOB)
        for iteration in range(3):
            writer.put(iteration, PICTURE, {"iteration": iteration})
        writer.close(Lifeline().beat)
        writer.require_all()
        assert sorted(os.listdir(self.out / "own")) == ["0000.png", "0001.png", "0002.png"]

    def report(self) -> None:
        """Write a morning report."""
        run = Run(
            started_at="", ended_at=None, accepted=1, done=0, failed=0, hours_used=0, reasons={}, failures=()
        )
        with self.outbox.opened() as root:
            summary.write(root, summary.read(root, date(2026, 5, 4)).with_run(run))
        assert "accepted: 1" in (self.outbox.root / "summary-2026-05-04.yaml").read_text()

    def clean(self) -> None:
        """Remove what an earlier run left."""
        self.outbox.clean([ID])
        assert not (self.outbox.root / f".tmp-{ID}").exists()
        assert not self.outbox.live(JOB).exists()

    @property
    def names(self) -> set[str]:
        """List what people see."""
        return {path.name for path in self.outbox.root.iterdir() if not path.name.startswith(".")}

    def prepare(self) -> None:
        """Leave in the outbox what each action has to remove: a failure, a preview, and a draft."""
        self.outbox.publish_failure(JOB, b"reason: timed_out", self.out, self.out / "none", Lifeline())
        self.outbox.preview(JOB, b"picture", {})
        (self.outbox.root / f".tmp-{ID}").mkdir()
        (self.outbox.root / f".tmp-{ID}" / "half.png").touch()


ACTIONS: Final = ("publish", "publish_failure", "preview", "frames", "report", "clean")


def unmount_everywhere(action: str, make: Callable[[int], Scene]) -> int:
    """Do something, with the outbox unmounted at each moment in turn, and again once it is back."""
    for number in range(MOST):
        scene = make(number)
        scene.prepare()
        moments = 0

        def at(_label: str, scene: Scene = scene, number: int = number) -> None:
            nonlocal moments
            if moments == number:
                scene.unmount()
            moments += 1

        with Disk(scene.ground, on_moment=at).attached():
            try:
                getattr(scene, action)()
            except (NotReady, OSError, AssertionError):  # what is not there now is looked for below
                assert moments > number
        if moments <= number:
            return number
        scene.mount()
        getattr(scene, action)()
    raise AssertionError(f"more than {MOST} moments")


@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_is_written_under_the_mount_point(action: str, tmp_path: Path, tried: Counter[str]) -> None:
    """With the folder moved away at any moment, the empty one in its place stays empty; then all is done."""
    count = unmount_everywhere(action, lambda number: Scene(tmp_path / str(number)))
    tried["moments at which an outbox was unmounted"] += count
    assert count > 3


# With a real mount


class MountedScene(Scene):
    """An outbox on a share that is really mounted."""

    def __init__(self, base: Path) -> None:
        (base / "ground" / "share").mkdir(parents=True)
        (base / "ground" / "outbox").mkdir()
        self._bind(base / "ground")
        super().__init__(base)

    def _bind(self, ground: Path) -> None:
        subprocess.run(["mount", "--bind", ground / "share", ground / "outbox"], check=True)

    def unmount(self) -> None:
        """Take the share away, also while a folder of it is open."""
        subprocess.run(["umount", "--lazy", self.outbox.root], check=True)

    def mount(self) -> None:
        """Bring it back; its mount point must be as empty as it was."""
        assert os.listdir(self.outbox.root) == []
        self._bind(self.ground)


@pytest.mark.parametrize("action", [pytest.param("publish", marks=pytest.mark.nightly), "preview"])
def test_nothing_is_written_under_a_real_mount_point(action: str, tmp_path: Path) -> None:
    """The same with a bind mount that is really taken away, in a mount namespace of its own."""
    probe = subprocess.run(
        [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"no mount namespace: {probe.stderr.decode()}")
    assert int(run_program([*NAMESPACE, sys.executable, __file__, action, str(tmp_path)]).splitlines()[-1]) > 3


if __name__ == "__main__":
    print(unmount_everywhere(sys.argv[1], lambda number: MountedScene(Path(sys.argv[2]) / str(number))))  # noqa: T201
