"""The commands: their output, their exit codes, and that errors are single readable lines."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daemon.cli import status
from daemon.config import build

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "COLUMNS": "200", "TERM": "xterm"}


def program(*words: str, folder: Path, output: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, as a person would."""
    return subprocess.run(
        [sys.executable, "-m", "daemon", *words],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a config, a photo, a painting and a text that claims to be a picture."""
    (tmp_path / "config.yaml").write_text("inbox: {settle_s: 0.2}\n", "utf-8")
    for seed, name in enumerate(("photo.png", "painting.png")):
        noise = np.random.default_rng(seed).integers(0, 256, (40, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    (tmp_path / "text.jpg").write_text("not a picture", "utf-8")
    return tmp_path


def test_the_tab_key_completes_commands(tmp_path: Path) -> None:
    """`--install-completion` leaves a script for bash, and what that script asks is answered."""
    facts = {**ENVIRONMENT, "HOME": str(tmp_path), "COMP_WORDS": "styletransferd s", "COMP_CWORD": "1"}
    call = f"{sys.executable} -c \"import daemon.cli.main as m; m.sys.argv[0] = 'styletransferd'; m.main()\""
    lines = f"{call} --install-completion\n_STYLETRANSFERD_COMPLETE=complete_bash {call}\nexit"
    done = subprocess.run(["bash", "-c", lines], env=facts, capture_output=True, text=True, check=True)
    assert "complete_bash" in (tmp_path / ".bash_completions/styletransferd.sh").read_text("utf-8")
    assert {"stylize", "status", "show"} <= set(done.stdout.splitlines())


def test_stylize_paints_one_picture(folder: Path) -> None:
    """The picture has the requested size, and only its path is printed."""
    words = "stylize photo.png painting.png -o out.jpg --set size=48 --set iterations=2"
    done = program(*words.split(), folder=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out.jpg\n", "")
    with Image.open(folder / "out.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (48, 30))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "out.gif"), "must end in"),
        (("-o", "nowhere/out.png"), "no such folder"),
        (("-o", "out.png", "--set", "szie=3"), "did you mean 'size'"),
        (("-o", "out.png", "--set", "size"), "KEY=VALUE"),
        (("-o", "out.png", "--set", "style=other.png"), "arguments"),
    ],
)
def test_a_wrong_usage_of_stylize_exits_2(
    command: Any, folder: Path, words: tuple[str, ...], message: str
) -> None:
    """Usage errors say what is wrong, and write nothing."""
    before = set(folder.iterdir())
    done = command("stylize", "photo.png", "painting.png", *words)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize(
    "words", [("paint",), ("show",), ("demo", "--sise", "3"), ("demo", "--size", "x"), ("run", "--config")]
)
def test_a_wrong_usage_is_one_line_and_exits_2(command: Any, words: tuple[str, ...]) -> None:
    """Unknown commands and options, missing arguments and bad values are one plain line on stderr."""
    done = command(*words)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("styletransferd: ")


def test_a_call_without_words_shows_the_help(command: Any) -> None:
    """The help is all that is printed, and no error beside it."""
    done = command()
    assert "stylize" in done.out
    assert done.err == ""


@pytest.mark.parametrize("content", ["text.jpg", "missing.png"])
def test_stylize_of_a_bad_picture_exits_1_with_one_line(command: Any, folder: Path, content: str) -> None:
    """A picture that cannot be read is one line on stderr; an older result stays as it was."""
    (folder / "out.png").write_bytes(b"older")
    done = command("stylize", content, "painting.png", "-o", "out.png")
    assert done.code == 1
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert content in done.err
    assert (folder / "out.png").read_bytes() == b"older"


def test_check_lists_every_fault_of_every_sidecar(command: Any, folder: Path) -> None:
    """Unknown keys, bad values, missing and unreadable pictures are all named; good sidecars are ok."""
    sidecars = folder / "drops"
    sidecars.mkdir()
    for name in ("photo.png", "painting.png", "text.jpg"):
        (sidecars / name).write_bytes((folder / name).read_bytes())
    (sidecars / "good.yaml").write_text("content: photo.png\nstyle: painting.png\n", "utf-8")
    (sidecars / "bad.yaml").write_text("contnt: a\nsize: 3\niterations: many\n", "utf-8")
    (sidecars / "gone.yaml").write_text("content: gone.png\nstyle: text.jpg\n", "utf-8")
    Image.new("L", (8, 8)).save(sidecars / "sky.png")
    region = "regions: [{content: sky.png, style: sky.png, style_mask: fog.png}]"
    (sidecars / "sky.yaml").write_text(f"content: photo.png\nstyle: painting.png\n{region}\n", "utf-8")
    done = command("check", "--config", "config.yaml", "drops")
    assert done.code == 1
    for words in ("good.yaml: ok", "did you mean 'content'", "size: found 3", "'many'", "gone.png", "text.jpg"):
        assert words in done.out, words
    assert "region_content: sky.png: the mask is black everywhere" in done.out
    assert "missing picture: fog.png" in done.out
    assert "region_style:" not in done.out


def test_check_exits_0_on_a_good_config_and_78_on_a_bad_one(command: Any, folder: Path) -> None:
    """Every fault of a config is on a line of its own."""
    assert command("check", "--config", "config.yaml").code == 0
    (folder / "bad.yaml").write_text("inbx: {}\ninbox: {settle_s: -1}\ndefaults: {szie: 1}\n", "utf-8")
    done = command("check", "--config", "bad.yaml")
    assert done.code == 78
    assert len(done.err.splitlines()) == 3


def test_check_verbose_lists_every_known_key(command: Any, folder: Path) -> None:
    """The line of an unknown key is short; --verbose adds what is allowed, for sidecars and for the config."""
    (folder / "bad.yaml").write_text("contnt: a.jpg\n", "utf-8")
    (folder / "bad-config.yaml").write_text("inbx: {}\n", "utf-8")
    asked = "bad.yaml: unknown key 'contnt' (did you mean 'content'?)"
    assert asked in command("check", "--config", "config.yaml", "bad.yaml").out.splitlines()
    shown = command("check", "--verbose", "--config", "config.yaml", "bad.yaml").out
    assert f"{asked}; allowed: " in shown
    assert "tv_weight" in shown
    done = command("check", "--verbose", "--config", "bad-config.yaml")
    assert done.code == 78
    assert "(did you mean 'inbox'?); allowed: folders, inbox, " in done.err


def test_check_names_keys_that_do_nothing_yet(command: Any, folder: Path) -> None:
    """A key that is set and has no effect is reported."""
    (folder / "config.yaml").write_text("outbox: {gallery: false}\n", "utf-8")
    assert "outbox.gallery has no effect" in command("check", "--config", "config.yaml").out


@pytest.mark.parametrize("words", [("run",), ("status",), ("list",), ("retry", "abc")])
def test_a_missing_config_exits_78(command: Any, words: tuple[str, ...]) -> None:
    """Every command that needs a config says that there is none."""
    done = command(*words, "--config", "missing.yaml")
    assert done.code == 78
    assert done.err.startswith("styletransferd: missing.yaml")


def test_the_environment_names_the_config(command: Any, folder: Path) -> None:
    """$STYLETRANSFERD_CONFIG is used where --config is not given; overrides apply on top."""
    done = command("check", STYLETRANSFERD_CONFIG="config.yaml")
    assert done.code == 0
    done = command("check", STYLETRANSFERD_CONFIG="config.yaml", STYLETRANSFERD__INBOX__RESCAN_S="-3")
    assert done.code == 78
    assert "RESCAN_S" in done.err.upper()


def test_status_of_a_stopped_service_exits_3(command: Any, folder: Path) -> None:
    """The document says stopped, and counts what lies in the spool."""
    done = command("status", "--json", "--config", "config.yaml")
    assert done.code == 3
    document = json.loads(done.out)
    assert document["running"] is False
    assert document["state"] == "stopped"
    assert document["counts"] == {"queued": 0, "running": 0, "done": 0, "failed": 0, "held": 0}


def test_status_says_when_jobs_are_done(tmp_path: Path) -> None:
    """In seconds or in minutes, and nothing where it is not known."""
    document = status.gather(build({}, tmp_path, environment={}))
    document["job"] = {"name": "a", "iteration": 0, "iterations": 9, "eta_s": 99.4}
    document["queue"] = [{"name": "b", "eta_s": 7260.0}, {"name": "c", "eta_s": None}, {"name": "d"}]
    shown = list(status.lines(document))
    assert shown[1] == "  painting a: iteration 0 of 9, about 99 s left"
    assert shown[3:] == ["  queued   b, about 121 min left", "  queued   c", "  queued   d"]


def test_an_unknown_job_exits_1(command: Any, folder: Path) -> None:
    """Each verb says so in one line."""
    for verb in ("show", "retry", "cancel", "hold", "release"):
        done = command(verb, "abc", "--config", "config.yaml")
        assert (done.code, done.err) == (1, "styletransferd: abc: no such job\n"), verb


def test_a_gpu_that_is_not_there_exits_75(command: Any, folder: Path) -> None:
    """`device: gpu` is a requirement: selftest and stylize refuse to fall back to the CPU."""
    (folder / "config.yaml").write_text("engine: {device: gpu}\n", "utf-8")
    for words in (("selftest",), ("stylize", "photo.png", "painting.png", "-o", "out.png")):
        done = command(*words, "--config", "config.yaml")
        assert done.code == 75
        assert "no such GPU" in done.err
        assert len(done.err.splitlines()) == 1


def test_selftest_runs_a_real_step(command: Any) -> None:
    """It names device, precision, weights with their hash, seconds and memory."""
    done = command("selftest")
    assert done.code == 0, done.err
    said = dict(line.split(": ", 1) for line in done.out.splitlines())
    assert said["weights_sha256"] == "2b5ec442c892f52d65240dcff44323dd011857b4236eb0993835aa798055c0b8"
    assert {"device", "precision", "weights", "load_s", "step_s", "memory_mb"} <= set(said)
    assert float(said["step_s"].split()[0]) > 0


def test_the_demo_shows_a_bar_and_ends_with_the_path_of_a_picture(tmp_path: Path) -> None:
    """The real service paints the bundled pair and logs to a file; a bar shows that it works."""
    code, printed = on_terminal("demo", "--size", "64", folder=tmp_path)
    assert code == 0, printed
    assert re.search(r"preparing .* loss ", printed)
    assert "job.completed" not in printed
    assert "job.completed" in (tmp_path / "styletransferd-demo" / "styletransferd.log").read_text("utf-8")
    *_, title, path = printed.splitlines()
    assert title.endswith("The painted picture:")
    with Image.open(path) as image:
        assert image.size == (64, 43)


@pytest.mark.nightly
def test_each_demo_gives_a_picture_of_its_own(tmp_path: Path) -> None:
    """Run again in the same folder, it gives a second entry; without a terminal only its path is printed."""
    paths = set()
    for _ in range(2):
        done = program("demo", "--size", "64", folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        title, path = done.stdout.splitlines()
        assert title == "The painted picture:"
        paths.add(path)
    assert len(paths) == 2


def on_terminal(*words: str, folder: Path) -> tuple[int, str]:
    """Run the program with a terminal for stdout and stderr; give its exit code and what it showed."""
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-m", "daemon", *words],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the program ended
        while chunk := os.read(ours, 4096):
            shown += chunk
    os.close(ours)
    return program.wait(timeout=60), shown.decode()


def test_stylize_never_overwrites_its_input(command: Any, folder: Path) -> None:
    """An output that is also an input is a usage error, by whatever name it is called."""
    before = (folder / "photo.png").read_bytes()
    (folder / "link.png").symlink_to("photo.png")
    for name in ("photo.png", "link.png"):
        done = command("stylize", "photo.png", "painting.png", "-o", name)
        assert done.code == 2
        assert "also an input" in done.err
    assert (folder / "photo.png").read_bytes() == before


def test_check_looks_where_the_service_looks(command: Any, folder: Path) -> None:
    """Ignored folders and files, built in or configured, are not checked."""
    (folder / "config.yaml").write_text("inbox: {ignore: ['archive/']}\n", "utf-8")
    for name in ("_accepted/a.yaml", ".git/b.yaml", "archive/c.yaml", "d.yaml.part", "deep/seen.yaml"):
        path = folder / "drops" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("sise: 3\n", "utf-8")
    done = command("check", "--config", "config.yaml", "drops")
    assert done.code == 1
    assert "seen.yaml: unknown key 'sise'" in done.out
    assert not any(name in done.out for name in ("a.yaml", "b.yaml", "c.yaml", "d.yaml"))


@pytest.mark.nightly
def test_a_log_that_cannot_be_written_is_reported_in_one_line(folder: Path) -> None:
    """The work goes on without its log, and without a traceback for each record."""
    (folder / "inbox").mkdir()
    (folder / "inbox" / "big.yaml").write_text("#" * 70_000, "utf-8")
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = program("run", "--drain", "--config", "config.yaml", folder=folder, output=full)
    assert done.stderr.splitlines()[0] == "styletransferd: the log cannot be written"
    assert "Traceback" not in done.stderr
    assert (done.returncode, len(list((folder / "outbox").glob("big-*.failed")))) == (1, 1)
