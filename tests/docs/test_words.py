"""The words of the code and its documents: American spelling, and the terms that the field uses."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
# Files and folders that keep to these words.
ROOTS: Final = """
.pre-commit-config.yaml config.example.yaml pyproject.toml
daemon/__main__.py daemon/clock.py daemon/config.py daemon/errors.py daemon/images.py daemon/logs.py
daemon/safe_yaml.py daemon/settings.py daemon/sidecar.py daemon/validation.py
daemon/cli/__init__.py daemon/cli/check.py daemon/cli/demo.py daemon/cli/jobs.py daemon/cli/main.py
daemon/cli/options.py daemon/cli/progress.py daemon/cli/run.py daemon/cli/schema.py daemon/cli/status.py
daemon/cli/stylize.py
daemon/worker daemon/service/backoff.py daemon/service/hours.py daemon/service/metrics.py
daemon/service/service.py daemon/service/signals.py daemon/service/status.py daemon/service/systemd.py
daemon/service/upkeep.py daemon/service/work_thread.py
docs/architecture.md CONTRIBUTING.md
tests/unit/worker tests/unit/service/test_backoff.py tests/unit/service/test_hours.py
tests/unit/service/test_hours_of_a_service.py tests/unit/service/test_metrics.py
tests/unit/service/test_status.py tests/unit/service/test_systemd.py tests/unit/service/test_upkeep.py
tests/flow/conftest.py tests/flow/test_drain.py tests/flow/test_nights.py tests/flow/test_nothing_waits.py
tests/flow/test_rough_service.py tests/flow/test_running_service.py tests/flow/test_service_manager.py
tests/flow/test_stops_and_starts.py tests/faults/test_finishing_kills.py tests/faults/test_kill_matrix.py
tests/faults/test_poison_jobs.py tests/support/quick_daemon.py tests/support/running.py tests/support/trees.py
tests/docs/test_words.py tests/unit/cli tests/unit/test_config.py tests/unit/test_errors.py
tests/unit/test_images.py tests/unit/test_logs.py tests/unit/test_safe_yaml.py tests/unit/test_settings.py
tests/unit/test_sidecar.py tests/unit/test_validation.py
""".split()  # noqa: SIM905 - a list would take a line for each
TEXTS: Final = {".py", ".md", ".yaml", ".toml", ".service", ".timer", ".conf", ".html", ".css", ".js"}
# A word that only this project understood, as a pattern, and what to write instead.
INSTEAD: Final = {
    "afresh|anew": "again",
    "amid": "during, inside",
    "as often as it takes": "until it succeeds; retry",
    "breath(e|es|ing)": "beat, heartbeat",
    "easels?": "attempt",
    "for want of( memory)?": "because there is not enough (memory)",
    "(go|goes|gone|going|went) on from": "resume from",
    "hears? of": "receives, sees",
    "judge[sd]?|judging": "evaluate, decide",
    "legs?": "scale",
    "lest": "so that ... not",
    "(let|lets|letting) go of": "release, drop",
    "(mend|mends|mended|mending)": "repair, correct",
    "owed|owes": "promised, due; reserved",
    "roads?": "scales",
    "rungs?": "tile size",
    "signs? of life": "heartbeat",
    "so manieth|manieth": "n-th",
    "surroundings": "environment",
    "told": "reported, sent",
    "is turned|turned kernel": "rotated kernel",
    "upon": "on, after",
    "whence|thereof|thereby|wherein|hitherto": "a plain sentence",
}
# The first words of a description in `Args` that is not about a thing.
NO_NOUNS: Final = re.compile(
    r"(as|asked|by|gives|how|in|is|made|of|set|shown|so|taken|tells|that|told|what|when|where|which|who|whose|with|works)\b"
)


def texts() -> Iterator[Path]:
    """Give every text file below the roots, without this one: it has to name the words."""
    for root in ROOTS:
        path = ROOT / root
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in files if file.suffix in TEXTS and file != Path(__file__))


def test_no_private_word_is_left() -> None:
    """Each word of the old dialect has a plain one, in names and in prose."""
    found = []
    for path in texts():
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            words = re.sub(r"[_\W]+", " ", line)  # names are words, too
            found += [
                f"{path.relative_to(ROOT)}:{number}: {match[0]!r}, write: {plain}"
                for pattern, plain in INSTEAD.items()
                for match in re.finditer(rf"\b({pattern})\b", words, re.IGNORECASE)
            ]
    assert not found, "\n".join(found)


def test_arguments_are_described_by_nouns() -> None:
    """A line of `Args` begins with the thing, as in "height of the content", not "that it has"."""
    found = []
    for path in (path for path in texts() if path.suffix == ".py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            arguments = re.search(r"^Args:\n((?: {4,}.*\n?)+)", ast.get_docstring(node) or "", re.MULTILINE)
            lines = re.findall(r"^ {4}\w+: (.*)", arguments[1], re.MULTILINE) if arguments else []
            found += [
                f"{path.relative_to(ROOT)}: {node.name}: {line}" for line in lines if NO_NOUNS.match(line)
            ]
    assert not found, "\n".join(found)


def test_every_word_is_spelled_as_in_america() -> None:
    """Codespell knows no mistake, and no British spelling, in these files."""
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *ROOTS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
