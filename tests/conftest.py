"""What all kinds of tests share: a config on a temporary tree, the last words."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from daemon import config as config_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.config import Config


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Config]:
    """Build a config on `tmp_path` with fast settling; keywords are sections."""

    def make(**sections: dict[str, Any]) -> Config:
        raw = {
            "inbox": {"settle_s": 0.2, "rescan_s": 0.5, **sections.pop("inbox", {})},
            "log": {"format": "json", **sections.pop("log", {})},
            **sections,
        }
        return config_module.build(raw, tmp_path, environment={})

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many fault points were tried, for whoever states it, in whichever process they were."""
    tried: Counter[str] = Counter()
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if getattr(report, "when", "") == "teardown":
            tried.update(dict(report.user_properties))
    if tried:
        terminalreporter.section("fault points tried")
        for what, count in sorted(tried.items()):
            terminalreporter.write_line(f"{count:10,d}  {what}")
