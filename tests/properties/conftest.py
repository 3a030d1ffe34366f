"""Hypothesis without a deadline, since machines are shared, and with more examples at night.

`--hypothesis-profile=deep` is for a long search.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("everyday", deadline=None, max_examples=25)
settings.register_profile("nightly", deadline=None, max_examples=100)
settings.register_profile("deep", deadline=None, max_examples=5000)


def _is_night(config: pytest.Config) -> bool:
    return bool(config.option.markexpr == "nightly")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the number of examples, unless the command line does."""
    if not config.getoption("--hypothesis-profile", None):
        settings.load_profile("nightly" if _is_night(config) else "everyday")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have the nightly run search every property again."""
    for item in items if _is_night(config) else ():
        if item.path.parent.name == "properties" and not item.get_closest_marker("slow"):
            item.add_marker("nightly")
