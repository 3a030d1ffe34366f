"""The README, the config example and the schemas say what the program does."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from daemon import config, safe_yaml
from daemon.cli.main import app
from daemon.errors import Reason
from daemon.inbox.scan import IGNORED
from daemon.settings import PRESETS
from daemon.sidecar import SidecarModel

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
EVENT = re.compile(r"(service|inbox|spool|engine|job|outbox|library)\.[a-z_]+ed|[a-z]+\.(ready|waiting|died)")
CONTRACT_EVENTS = {
    *("service.started", "service.ready", "service.stop_requested", "service.stopped", "service.paused"),
    *(
        "service.resumed",
        "inbox.noticed",
        "inbox.waiting",
        "inbox.accepted",
        "inbox.rejected",
        "inbox.rescanned",
    ),
    *("spool.recovered", "spool.requeued", "engine.started", "engine.model_loaded", "engine.died"),
    *("job.started", "job.progressed", "job.completed", "job.failed", "job.interrupted", "outbox.published"),
}


def logged_events() -> set[str]:
    """Collect every event that a log call in the product names."""
    events = set()
    for path in (ROOT / "daemon").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and EVENT.fullmatch(node.value):
                events.add(node.value)
    return events


def documented_events() -> set[str]:
    """Collect the events of the README's table."""
    rows = [
        line.split("|")[1]
        for line in README.splitlines()
        if line.startswith("| `") and "." in line.split("|")[1]
    ]
    return {name for row in rows for name in re.findall(r"`([a-z]+\.[a-z_]+)`", row)}


def test_the_table_of_events_is_complete() -> None:
    """Every event the product logs is in the README's table, and none that it does not log."""
    assert documented_events() == logged_events()


def test_the_events_of_the_contract_are_logged() -> None:
    """Every event that dashboards are written against exists."""
    assert logged_events() >= CONTRACT_EVENTS


def test_every_sidecar_key_is_in_the_readme() -> None:
    """The README's table of sidecar keys names every key but the record's."""
    table = README.split("### What you drop")[1].split("### What you find")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)}
    assert documented == set(SidecarModel.model_fields) - {"result"}


def test_every_preset_and_reason_is_in_the_readme() -> None:
    """Presets and the closed list of reasons are documented."""
    for word in [*PRESETS, *(reason.value for reason in Reason)]:
        assert f"`{word}`" in README, word


def test_every_ignored_pattern_is_in_the_readme() -> None:
    """The built-in ignore list is documented whole."""
    for pattern in IGNORED:
        assert f"`{pattern}`" in README, pattern


def test_every_command_is_in_the_readme() -> None:
    """Every command of the program is in the README's table."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    table = README.split("### Commands")[1]
    assert commands
    for name in commands:
        assert f"`{name}" in table, name


def test_the_config_example_shows_every_key_with_its_default() -> None:
    """config.example.yaml is the default config, key by key."""
    raw = safe_yaml.parse((ROOT / "config.example.yaml").read_bytes())
    shown = config.flat(config.Config.model_validate(raw))
    named = {f"{section}.{key}" for section, keys in raw.items() for key in (keys or {})}
    assert shown == config.flat(config.Config())
    assert {".".join(key.split(".")[:2]) for key in shown if "." in key} == named


@pytest.mark.parametrize("ending", ["styletransferd demo", "-m pytest"])
def test_the_readmes_commands_are_single_safe_lines(ending: str) -> None:
    """Both commands are one line each, and install into a virtual environment only."""
    lines = [
        line for line in README.splitlines() if line.startswith("python3 -m venv") and line.endswith(ending)
    ]
    assert len(lines) == 1
    assert "sudo" not in lines[0]
    assert all(".venv/bin/pip" in part for part in lines[0].split("&&") if "pip" in part)


def test_status_imports_neither_tensorflow_nor_numpy(tmp_path: Path) -> None:
    """`status --json` answers without TensorFlow, and without what else is slow to import."""
    (tmp_path / "config.yaml").write_text("{}", "utf-8")
    code = (
        "import sys; sys.argv = ['styletransferd', 'status', '--json', '--config', sys.argv[1]]\n"
        "from daemon.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end:\n"
        "    print(end.code, [m for m in ('tensorflow', 'numpy', 'PIL') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "config.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "3 []"


def test_every_command_has_help() -> None:
    """`--help` of the program works without TensorFlow and names the commands."""
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "stylize" in done.stdout
