"""docs/architecture.md draws the tree that is there, and the documents' links into it lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text("utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def drawn() -> set[str]:
    """List the modules of the drawn tree, as paths below `daemon/` without `.py`."""
    block = next(block for block in TEXT.split("```") if block.strip().startswith("daemon/"))
    modules: set[str] = set()
    folders: list[str] = []
    for line in block.strip().splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        first = line.strip().partition("  ")[0]
        folders = folders[:depth]
        if first.endswith("/"):
            folders.append(first.removesuffix("/"))
        else:
            modules |= {"/".join([*folders, name]) for name in first.split()}
    return modules


def test_the_drawn_tree_is_the_tree() -> None:
    """Each module that is drawn exists, and each that exists is drawn, but for the commands and `__init__`."""
    paths = [path.relative_to(ROOT / "daemon").with_suffix("") for path in (ROOT / "daemon").rglob("*.py")]
    there = {
        str(path) for path in paths if path.name not in {"__init__", "__main__"} and path.parts[0] != "cli"
    }
    assert drawn() == there


def test_each_question_is_answered_by_a_module_that_exists() -> None:
    """Every path in the table of questions is one of the package."""
    named = re.findall(r"`([a-z_/]+\.py)`", TEXT.split("## Where is ...?")[1])
    assert len(named) >= 10
    assert [name for name in named if not (ROOT / "daemon" / name).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_into_the_sources_resolve(path: Path) -> None:
    """Each module that a document links is there."""
    links = re.findall(r"\]\(([^)\s:]+\.py)\)", path.read_text("utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []
