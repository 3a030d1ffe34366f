"""The README, the documents, the config example and the schemas say what the program does."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer.main
from support.fakes import FakeEngine
from support.trees import Stepper

from daemon import config, safe_yaml
from daemon.cli.main import app
from daemon.errors import Reason
from daemon.inbox.scan import IGNORED
from daemon.presets import PRESETS
from daemon.service import metrics
from daemon.sidecar import SidecarModel

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
MOST_LINES = 180  # of the README: it makes somebody want the program, and links the rest
LINK = re.compile(r"\]\(([^)\s]+)\)")
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


@functools.cache
def logged_events() -> set[str]:
    """Collect every event that a log call in the product names."""
    events = set()
    for path in (ROOT / "daemon").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and EVENT.fullmatch(node.value):
                events.add(node.value)
    return events


def document(name: str) -> str:
    """Read one of the documents."""
    return (ROOT / "docs" / name).read_text("utf-8")


def first_cells(text: str) -> list[str]:
    """List the first cells of a text's tables, as far as they begin with code."""
    return [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]


def part(text: str, heading: str) -> str:
    """Cut one section out of a text, up to the next heading of its level."""
    level = heading.split(" ", maxsplit=1)[0]
    return text.split(f"\n{heading}\n")[1].split(f"\n{level} ", maxsplit=1)[0]


def test_the_table_of_events_is_complete() -> None:
    """Every event the product logs is in the table of docs/logs.md, and none that it does not log."""
    cells = first_cells(part(document("logs.md"), "## Events"))
    assert {name for cell in cells for name in re.findall(r"`([a-z]+\.[a-z_]+)`", cell)} == logged_events()


def test_the_events_of_the_contract_are_logged() -> None:
    """Every event that dashboards are written against exists."""
    assert logged_events() >= CONTRACT_EVENTS


def test_every_sidecar_key_is_documented_with_its_default() -> None:
    """The table of docs/sidecar.md names every key but the record's, with the program's own default."""
    table = part(document("sidecar.md"), "## Keys").split("\n### ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in table.splitlines() if "| `" in line[:3]]
    documented = {key.strip("`"): default for key, default in rows}
    assert documented.keys() == SidecarModel.model_fields.keys() - {"result"}
    for key, default in documented.items():
        value = SidecarModel.model_fields[key].default
        if isinstance(value, bool | int | float | str):
            assert default.strip("`") == (f"{value:g}" if isinstance(value, float) else str(value).lower()), key


def test_the_readmes_keys_are_keys_of_a_sidecar() -> None:
    """The five keys that matter exist."""
    keys = [cell.strip(" `") for cell in first_cells(part(README, "## The keys that matter"))]
    assert len(keys) == 5
    assert set(keys) <= SidecarModel.model_fields.keys()


def test_every_preset_is_documented_as_it_is() -> None:
    """The table of presets in docs/sidecar.md holds what each preset sets, where presets differ."""
    lines = [line for line in part(document("sidecar.md"), "## Presets").splitlines() if line.startswith("| ")]
    table = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    assert set(table[0][1:]) == set(PRESETS)
    for key, *cells in table[1:]:
        for preset, cell in zip(table[0][1:], cells, strict=True):
            value = PRESETS[preset].get(key, SidecarModel.model_fields[key].default)
            assert cell == (next(iter(value)) if isinstance(value, dict) else str(value).lower()), (key, preset)


def test_every_reason_is_explained() -> None:
    """Each reason has a line in the README and a section in docs/failures.md, and there are no others."""
    reasons = [reason.value for reason in Reason]
    assert (
        re.findall(r"^- `([a-z_]+)`: ", part(README, "## When something goes wrong"), re.MULTILINE) == reasons
    )
    assert re.findall(r"^## ([a-z_]+)$", document("failures.md"), re.MULTILINE) == reasons
    for reason in reasons:
        assert "**What happened.**" in part(document("failures.md"), f"## {reason}"), reason
        assert "**What to do.**" in part(document("failures.md"), f"## {reason}"), reason


def test_every_ignored_pattern_is_documented() -> None:
    """The built-in ignore list stands whole in docs/sidecar.md."""
    for pattern in IGNORED:
        assert f"`{pattern}`" in document("sidecar.md"), pattern


def test_every_metric_is_documented(make_config: Callable[..., config.Config]) -> None:
    """Each metric stands in docs/operations.md, and none that is not written."""
    stepped = Stepper(make_config(), FakeEngine()).service
    families = metrics.collect(stepped.spool, stepped.outbox, stepped.situation, stepped.attempts)
    written = {name for name, _help, _samples in families}
    cells = first_cells(part(document("operations.md"), "## Watching it"))
    assert {name for cell in cells for name in re.findall(r"`([a-z_]+)[`{]", cell)} == written


def test_every_command_is_in_the_readme() -> None:
    """Every command of the program is in the README's table."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    table = part(README, "## Commands")
    assert commands
    for name in commands:
        assert f"`{name}" in table, name


def test_the_readme_is_short() -> None:
    """The README has at most 180 lines, and leads to a first painting within 60."""
    lines = README.splitlines()
    assert len(lines) <= MOST_LINES
    assert lines.index("## Your first painting") < 45
    assert next(number for number, line in enumerate(lines) if "inbox/sunset.yaml" in line) < 60


def anchors(text: str) -> set[str]:
    """List the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_the_documents_resolve(path: Path) -> None:
    """Each relative link leads to a document, picture or example that exists, and its anchor to a heading."""
    found = [link for link in LINK.findall(path.read_text("utf-8")) if not link.startswith("https://")]
    for link in found:
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if target.suffix == ".py":
            continue  # the sources are checked beside the drawing of them
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text("utf-8")), link


def test_every_document_is_reached_from_the_readme() -> None:
    """No document stands alone: each is linked from the README, or from one that is."""
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        path = todo.pop()
        if path not in reached:
            reached.add(path)
            names = {link.partition("#")[0] for link in LINK.findall(path.read_text("utf-8"))}
            todo += [
                (path.parent / name).resolve() for name in names if name.endswith(".md") and "//" not in name
            ]
    assert set(DOCUMENTS) - reached == set()


USERS_DOCUMENTS = [
    "README.md",
    *(f"docs/{name}.md" for name in ("sidecar", "operations", "failures", "security")),
]


@pytest.mark.parametrize("name", USERS_DOCUMENTS)
def test_every_config_key_that_a_document_names_exists(name: str) -> None:
    """What looks like `section.key` is a key of the config, a part of one, or an event."""
    text = (ROOT / name).read_text("utf-8")
    sections = "|".join(config.Config.model_fields)
    named = set(re.findall(rf"`((?:{sections})\.[a-z_.]+)(?::[^`]*)?`", text))
    keys = set(config.flat(config.Config()))
    assert [
        key for key in named if not any(f"{known}.".startswith(f"{key}.") for known in keys | logged_events())
    ] == []


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
