"""Wall-clock times for people and records; durations are measured with `time.monotonic` instead."""

from __future__ import annotations

from datetime import UTC, datetime


def utc() -> datetime:
    """Get the current time in UTC."""
    return datetime.now(UTC)


def local() -> datetime:
    """Get the current time in the local time zone."""
    return datetime.now(UTC).astimezone()


def stamp(moment: datetime) -> str:
    """Format a time as ISO 8601 with milliseconds."""
    return moment.isoformat(timespec="milliseconds")
