"""The files in systemd/ are whole, explained, hardened, and fit the program they start."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main

from daemon import config, safe_yaml
from daemon.cli.main import EXIT_CONFIG, EXIT_FAILED, EXIT_NOT_READY, app

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "systemd"
FILES = sorted(FOLDER.iterdir())
RESIDENT, NIGHTLY = FOLDER / "styletransferd.service", FOLDER / "styletransferd-nightly.service"
SERVICES = [RESIDENT, NIGHTLY]
TIMER = FOLDER / "styletransferd-nightly.timer"
SYSUSERS, TMPFILES = FOLDER / "styletransferd.sysusers.conf", FOLDER / "styletransferd.tmpfiles.conf"
# Where a batch and a resident service differ; everything else is the same, most of all the hardening.
OWN_KEYS = {
    *("Unit.Description", "Unit.StartLimitIntervalSec", "Unit.StartLimitBurst", "Unit.Conflicts", "Unit.After"),
    *(
        "Service.ExecCondition",
        "Service.ExecStart",
        "Service.RestartSec",
        "Service.SuccessExitStatus",
        "Install.WantedBy",
    ),
}
# These hide the GPU, refuse code made at run time, hide /proc/cpuinfo, or leave results that nobody owns.
FORBIDDEN = {"PrivateDevices", "MemoryDenyWriteExecute", "ProcSubset", "DynamicUser"}
# What `strace -f -c styletransferd demo` counted, and what an engine on a GPU or on several NUMA nodes adds.
NEEDED_CALLS = """
access arch_prctl bind brk clock_nanosleep clone clone3 close close_range connect copy_file_range dup2
epoll_create1 eventfd2 execve fcntl flock fstat fsync futex get_mempolicy getcwd getdents64 getpid getppid
getrandom getsockname gettid inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl kill
lseek madvise mbind memfd_create mkdir mlock mmap move_pages mprotect mremap munmap newfstatat openat
pipe2 poll prctl pread64 prlimit64 read readlink rename renameat rmdir rseq rt_sigaction rt_sigprocmask
sched_getaffinity sched_getparam sched_getscheduler sched_setaffinity sched_yield sendfile sendmsg sendto
set_mempolicy set_robust_list set_tid_address setrlimit setsid setsockopt sigaltstack socket socketpair
statfs statx sysinfo uname unlink unlinkat utimensat vfork wait4 write
"""
ANALYZE = shutil.which("systemd-analyze")
needs_analyze = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


def directives(path: Path) -> list[tuple[str, str]]:
    """List a unit's directives in their order, each as `Section.Key` and its value."""
    section, found = "", []
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.append((f"{section}.{key}", value))
    return found


def values(path: Path, key: str) -> list[str]:
    """List what a directive such as `Service.User` is set to."""
    return [value for name, value in directives(path) if name == key]


@functools.cache
def calls_of(group: str) -> frozenset[str]:
    """List the system calls of one of systemd's groups."""
    command = ["systemd-analyze", "--no-pager", "syscall-filter", group]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[1:]
    words = [word for word in map(str.strip, lines) if word and not word.startswith("#")]
    nested = (calls_of(word) if word.startswith("@") else {word} for word in words)
    return frozenset().union(*nested)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_line_has_its_reason(path: Path) -> None:
    """Right above each directive stands a comment."""
    lines = path.read_text("utf-8").splitlines()
    stated = [index for index, line in enumerate(lines) if line and line[0] not in "#["]
    assert stated
    assert [lines[index] for index in stated if not lines[index - 1].startswith("# ")] == []


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_nothing_breaks_tensorflow_or_cuda(path: Path) -> None:
    """No directive hides the GPU or forbids code made at run time; closed devices let NVIDIA's in."""
    assert {key.split(".")[1] for key, _ in directives(path)} & FORBIDDEN == set()
    assert values(path, "Service.DevicePolicy") == ["closed"]
    assert values(path, "Service.DeviceAllow") == ["char-nvidia* rw"]


@needs_analyze
@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_the_filter_lets_every_needed_call_through(path: Path) -> None:
    """Each system call of daemon and engine is allowed; a forbidden one fails, and kills nobody."""
    allowed = set(calls_of("@default"))
    for value in values(path, "Service.SystemCallFilter"):
        group = calls_of(value.removeprefix("~"))
        allowed = allowed - group if value.startswith("~") else allowed | group
    assert set(NEEDED_CALLS.split()) - allowed == set()
    assert values(path, "Service.SystemCallErrorNumber") == ["EPERM"]


@needs_analyze
def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` says nothing about any unit."""
    program = shutil.which("true") or "/bin/true"
    for path in (*SERVICES, TIMER):
        text = re.sub(r"^ExecStart=\S+", f"ExecStart={program}", path.read_text("utf-8"), flags=re.MULTILINE)
        (tmp_path / path.name).write_text(text, "utf-8")
    command = ["systemd-analyze", "--man=no", "verify", *sorted(map(str, tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if "styletransferd" in line] == []


@needs_analyze
@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_the_exposure_is_low(path: Path) -> None:
    """`systemd-analyze security` gives an exposure of 1.5 or better."""
    command = ["systemd-analyze", "--no-pager", "security", "--offline=true", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert float(level[1]) <= 1.5


def test_both_services_are_hardened_alike() -> None:
    """All directives are equal, in the same order, but those in which a batch differs."""
    resident, nightly = (
        [(key, value) for key, value in directives(path) if key not in OWN_KEYS] for path in SERVICES
    )
    assert resident == nightly
    assert len(resident) > len(OWN_KEYS)


def test_only_one_of_the_services_runs() -> None:
    """The batch ends the resident service, waits for it, and is what the timer starts."""
    assert values(NIGHTLY, "Unit.Conflicts") == [RESIDENT.name]
    assert RESIDENT.name in values(NIGHTLY, "Unit.After")
    assert set(values(NIGHTLY, "Unit.After")) - {RESIDENT.name} == set(values(RESIDENT, "Unit.After"))
    assert TIMER.stem == NIGHTLY.stem
    assert values(TIMER, "Timer.Persistent") == ["no"]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_the_units_start_what_the_program_knows(path: Path) -> None:
    """The command and every option of ExecStart exist."""
    (line,) = values(path, "Service.ExecStart")
    _, name, *words = line.split()
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_exit_codes_mean_to_systemd_what_they_mean() -> None:
    """A wrong config is not tried again, a missing share or GPU is; failed pictures do not fail the night."""
    for path in SERVICES:
        final = values(path, "Service.RestartPreventExitStatus")[0].split()
        assert str(EXIT_CONFIG) in final
        assert {str(EXIT_NOT_READY), str(EXIT_FAILED)} & set(final) == set()
        assert values(path, "Service.Restart") == ["on-failure"]
    assert values(RESIDENT, "Service.SuccessExitStatus") == []
    assert values(NIGHTLY, "Service.SuccessExitStatus") == [str(EXIT_FAILED)]
    assert values(RESIDENT, "Unit.StartLimitIntervalSec") == ["0"]


@pytest.mark.parametrize(("hour", "code"), [(0, 0), (5, 0), (6, 2), (19, 2), (20, 0)])
def test_the_batch_starts_at_night_only(tmp_path: Path, hour: int, code: int) -> None:
    """By day the condition exits with a code that `SuccessExitStatus` does not make a success."""
    date = tmp_path / "date"
    date.write_text(f"#!/bin/sh\necho {hour:02}\n", "utf-8")
    date.chmod(0o755)
    (line,) = values(NIGHTLY, "Service.ExecCondition")
    command = shlex.split(line.replace("$$", "$").replace("%%", "%"))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(command, env=environment, check=False).returncode == code
    assert str(code) not in values(NIGHTLY, "Service.SuccessExitStatus")


@pytest.mark.skipif(
    os.geteuid() != 0, reason="making users and folders, even under a root of its own, takes root"
)
@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="systemd-tmpfiles is not installed")
def test_user_and_folders_are_made(tmp_path: Path) -> None:
    """The two fragments, applied under a root of their own, make the user and the shared folders."""
    (tmp_path / "etc").mkdir()
    root = f"--root={tmp_path}"
    subprocess.run(["systemd-sysusers", root, str(SYSUSERS)], capture_output=True, check=True)
    subprocess.run(["systemd-tmpfiles", root, "--create", str(TMPFILES)], capture_output=True, check=False)
    accounts = (tmp_path / "etc/passwd").read_text("utf-8").splitlines()
    (user,) = [line.split(":") for line in accounts if line.startswith("styletransferd:")]
    assert user[5:] == ["/var/lib/styletransferd", "/usr/sbin/nologin"]
    groups = (tmp_path / "etc/group").read_text("utf-8")
    assert re.search(r"^video:.*:styletransferd$", groups, re.MULTILINE)
    assert re.search(r"^render:.*:styletransferd$", groups, re.MULTILINE)
    for name in ("inbox", "outbox"):
        found = (tmp_path / "srv/styletransferd" / name).stat()
        assert (oct(found.st_mode & 0o7777), found.st_uid) == ("0o2775", int(user[2]))
    assert (tmp_path / "etc/styletransferd").stat().st_uid == 0


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_units_and_fragments_name_the_same_user_and_folders(path: Path) -> None:
    """Who the units run as is made by sysusers; what they may write is made by tmpfiles."""
    (user,) = values(path, "Service.User")
    assert f"\nu {user} - " in SYSUSERS.read_text("utf-8")
    (writable,) = values(path, "Service.ReadWritePaths")
    assert f"\nd {writable.removeprefix('-')}/inbox " in TMPFILES.read_text("utf-8")


def section() -> str:
    """Give the section on the service in docs/operations.md."""
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    return text.split("\n## As a system service\n")[1].split("\n## ")[0]


def test_the_documents_install_every_file() -> None:
    """The section on the service names each file of systemd/."""
    assert [path.name for path in FILES if f"systemd/{path.name}" not in section()] == []


def test_the_documents_make_the_config_that_the_units_expect() -> None:
    """The line that writes the config puts the folders where the units let the daemon write."""
    (line,) = [
        line for line in section().splitlines() if line.startswith("sed ") and "config.example.yaml" in line
    ]
    command = line.split(" | sudo ")[0]
    written = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, check=True).stdout
    made = config.build(safe_yaml.parse(written), Path("/etc/styletransferd"), environment={})
    assert made.folders.inbox == Path("/srv/styletransferd/inbox")
    assert made.folders.outbox == Path("/srv/styletransferd/outbox")
    assert made.folders.spool == Path("/var/lib/styletransferd/spool")
