"""Moments as people and records write them; what is waited for is measured with `time.monotonic` instead."""

from __future__ import annotations

from datetime import UTC, datetime


def utc() -> datetime:
    """Give the moment in UTC."""
    return datetime.now(UTC)


def local() -> datetime:
    """Give the moment on the wall clock of this place."""
    return datetime.now(UTC).astimezone()


def stamp(moment: datetime) -> str:
    """Write a moment as ISO 8601 with milliseconds."""
    return moment.isoformat(timespec="milliseconds")
