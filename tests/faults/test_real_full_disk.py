"""Real small disks, full of bytes or of files, read-only or unmounted: the service waits and goes on by itself.

Each case runs in a process of its own, in a mount namespace of its own, where this file is the program.
"""

from __future__ import annotations

import contextlib
import errno
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.fakes import FakeEngine
from support.programs import NAMESPACE, run_program
from support.trees import NearDecoder, Tree, wait_for

from daemon import config, safe_yaml
from daemon.job import State
from daemon.service import backoff, service, work_thread
from daemon.service.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.job import Step

_OBEYING = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]  # root, but permissions hold


class Place:
    """A small file system at a folder of a tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    def mount(self, options: str = "size=8m,nr_inodes=300") -> Place:
        """Mount an empty one."""
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], check=True)
        return self

    def bind(self, share: Path) -> None:
        """Mount a folder that is elsewhere."""
        share.mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", share, self.folder], check=True)

    def remount(self, option: str) -> None:
        """Change a mounted one to `ro` or `rw`."""
        subprocess.run(["mount", "-o", f"remount,bind,{option}", self.folder], check=True)

    def unmount(self) -> None:
        """Take it away, also while a file of it is open."""
        subprocess.run(["umount", "--lazy", self.folder], check=True)

    def fill_bytes(self) -> None:
        """Leave not one byte."""
        with (self.folder / ".ballast").open("wb", buffering=0) as file, _until_full():
            while True:
                file.write(bytes(4096))

    def fill_inodes(self) -> None:
        """Leave not one inode, but bytes."""
        (self.folder / ".ballast").mkdir()
        with _until_full():
            for number in range(100_000):
                (self.folder / ".ballast" / str(number)).touch()

    def empty(self) -> None:
        """Give the room back."""
        subprocess.run(["rm", "-r", self.folder / ".ballast"], check=True)


@contextlib.contextmanager
def _until_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


class Case:
    """A tree below a folder, and a service that runs on it in a thread."""

    def __init__(self, base: Path) -> None:
        settings = config.build({"inbox": {"settle_s": 0.05, "rescan_s": 0.2}}, base, environment={})
        self.base = base
        self.tree = Tree(settings)
        self.inbox, self.outbox, self.spool = (
            Place(folder) for folder in (self.tree.inbox, self.tree.outbox, settings.folders.spool)
        )

    @contextlib.contextmanager
    def running(self, engine: FakeEngine) -> Iterator[Service]:
        """Run the service, from READY to its stop."""
        running = Service(self.tree.config, engine=engine, decoder=NearDecoder())
        ended: list[int] = []
        thread = threading.Thread(target=lambda: ended.append(running.run()))
        thread.start()
        try:
            wait_for(lambda: running.situation.state == "running" or not thread.is_alive(), "the start")
            yield running
        finally:
            running.ask_stop()
            thread.join()
        assert ended == [0]

    def pauses(self, running: Service, part: str, reason: str) -> None:
        """Wait until a part of the service says why it waits; meanwhile nothing is lost and nothing shown."""
        wait_for(lambda: reason in running.situation.paused.get(part, ""), f"the pause: {reason}")
        self.tree.check()

    def done(self, running: Service, name: str = "sea") -> None:
        """Wait until a job is done, without anybody's help."""
        wait_for(lambda: running.status.counts.completed and not running.situation.paused, f"{name} to be done")
        assert safe_yaml.parse((self.tree.result(name) / "result.yaml").read_bytes())["result"]["attempt"] == 1


def _at(iteration: int, action: Callable[[], None]) -> Callable[[Step], None]:
    """Act once, at one step of the painting."""
    left = [action]

    def act(step: Step) -> None:
        if left and step.iteration == iteration:
            left.pop()()

    return act


def _no_room_to_accept(case: Case, fill: Callable[[], None], reason: str) -> None:
    with case.running(FakeEngine()) as running:
        fill()
        case.tree.drop("sea")
        case.pauses(running, "inbox", reason)
        assert case.tree.left() == ["sea-style.png", "sea.jpg", "sea.yaml"]
        case.spool.empty()
        case.done(running)


def spool_full_of_bytes(case: Case) -> None:
    """A drop is left in the inbox while the spool has no bytes."""
    _no_room_to_accept(case, case.spool.mount().fill_bytes, "MB free")


def spool_full_of_files(case: Case) -> None:
    """A drop is left in the inbox while the spool has no inodes."""
    _no_room_to_accept(case, case.spool.mount().fill_inodes, "inodes free")


def spool_full_during_painting(case: Case) -> None:
    """A job that the spool has no room for any more is queued again, without using an attempt."""
    case.spool.mount()
    with case.running(FakeEngine(on_step=_at(1, case.spool.fill_bytes))) as running:
        case.tree.drop("sea")
        case.pauses(running, "worker", "No space left")
        case.spool.empty()
        case.done(running)


def start_on_a_full_spool(case: Case) -> None:
    """A service starts on a spool without a free byte or inode, and goes on once there are some."""
    case.spool.mount()
    engine = FakeEngine(on_step=_at(1, case.spool.fill_bytes))
    with case.running(engine) as running:
        case.tree.drop("sea")
        case.pauses(running, "worker", "No space left")
    assert [entry.state for entry in case.tree.spool.all_entries()] == [State.QUEUED]
    with case.running(FakeEngine()) as running:
        case.pauses(running, "worker", "MB free")
        case.spool.empty()
        case.done(running)


def _no_room_to_publish(case: Case, fill: Callable[[], None], reason: str, repair: Callable[[], None]) -> None:
    engine = FakeEngine(on_step=_at(3, fill))
    with case.running(engine) as running:
        case.tree.drop("sea")
        case.pauses(running, "outbox", reason)
        assert case.tree.results() == []
        repair()
        case.done(running)
    assert len(engine.calls) == 1


def outbox_full_of_bytes(case: Case) -> None:
    """A painted picture waits while the outbox has no bytes, and is not painted again."""
    _no_room_to_publish(case, case.outbox.mount().fill_bytes, "No space left", case.outbox.empty)


def outbox_full_of_files(case: Case) -> None:
    """A painted picture waits while the outbox has no inodes, and is not painted again."""
    _no_room_to_publish(case, case.outbox.mount().fill_inodes, "No space left", case.outbox.empty)


def outbox_read_only(case: Case) -> None:
    """A painted picture waits while the outbox is read-only, and is not painted again."""
    outbox = case.outbox.mount()
    _no_room_to_publish(
        case, lambda: outbox.remount("ro"), "Read-only file system", lambda: outbox.remount("rw")
    )


def outbox_gone(case: Case) -> None:
    """A painted picture waits while the outbox is unmounted; nothing is written under the mount point."""
    share = case.base / "share"
    case.outbox.bind(share)

    def repair() -> None:
        assert list(case.outbox.folder.iterdir()) == []
        case.outbox.bind(share)

    _no_room_to_publish(case, case.outbox.unmount, "outbox unavailable", repair)


def inbox_gone(case: Case) -> None:
    """An unmounted inbox is waited for, and what lies in it is painted once it is back."""
    share = case.base / "share"
    case.inbox.bind(share)
    with case.running(FakeEngine()) as running:
        case.inbox.unmount()
        case.pauses(running, "inbox", "inbox unavailable")
        assert list(case.inbox.folder.iterdir()) == []
        case.inbox.bind(share)
        case.tree.drop("sea")
        case.done(running)


def inbox_gone_during_painting(case: Case) -> None:
    """A job is painted to its end while the inbox is unmounted."""
    case.inbox.bind(case.base / "share")
    with case.running(FakeEngine(on_step=_at(1, case.inbox.unmount))) as running:
        case.tree.drop("sea")
        wait_for(lambda: running.status.counts.completed, "the end of the job")
        case.pauses(running, "inbox", "inbox unavailable")
        case.inbox.bind(case.base / "share")
        case.done(running)


def unreadable(case: Case) -> None:
    """A file that may not be read waits with its reason, and another drop is painted meanwhile."""
    with case.running(FakeEngine()) as running:
        hidden = case.tree.drop("shy").with_suffix(".jpg")
        case.tree.drop("sea")
        hidden.chmod(0)
        case.done(running)
        wait_for(lambda: "Permission denied" in str(running.situation.report.waiting), "the reason")
        assert case.tree.left() == ["shy-style.png", "shy.jpg", "shy.yaml"]
        hidden.chmod(0o600)
        wait_for(lambda: running.status.counts.completed == 2, "the other drop")


CASES = {
    case.__name__: case
    for case in (
        *(spool_full_of_bytes, spool_full_of_files, spool_full_during_painting, start_on_a_full_spool),
        *(outbox_full_of_bytes, outbox_full_of_files, outbox_read_only, outbox_gone),
        *(inbox_gone, inbox_gone_during_painting, unreadable),
    )
}


EVERYDAY = (spool_full_of_files, spool_full_during_painting, outbox_full_of_bytes, outbox_gone)


@pytest.fixture(scope="module")
def namespace() -> list[str]:
    """Give the command that starts another one in a mount namespace; skip where the kernel does not let us."""
    try:
        done = subprocess.run(
            [*NAMESPACE, *_OBEYING, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
        )
    except FileNotFoundError as error:
        pytest.skip(f"no {error.filename}")
    if done.returncode:
        pytest.skip(f"no mount namespace: {done.stderr.decode()}")
    return NAMESPACE


@pytest.mark.parametrize(
    "name",
    [
        name if case in EVERYDAY else pytest.param(name, marks=pytest.mark.nightly)
        for name, case in CASES.items()
    ],
)
def test_the_service_waits_and_goes_on(name: str, tmp_path: Path, namespace: list[str]) -> None:
    """It pauses with a reason, loses nothing, shows nothing half, and resumes once the cause is gone."""
    command = [*namespace, *(_OBEYING if name == "unreadable" else []), sys.executable, __file__]
    run_program([*command, name, str(tmp_path)])


def main() -> None:
    """Be the process of one case."""
    backoff.PAUSE_S, work_thread._IDLE_S, service._STATUS_S = 0.05, 0.1, 0.1  # type: ignore[misc]
    name, base = sys.argv[1:]
    case = Case(Path(base))
    CASES[name](case)
    case.tree.check(is_quiet=True)


if __name__ == "__main__":
    main()
