"""Hypothesis without a deadline, since machines are shared; `--hypothesis-profile=deep` for a long search."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("shared", deadline=None)
settings.register_profile("deep", deadline=None, max_examples=5000)
settings.load_profile("shared")
