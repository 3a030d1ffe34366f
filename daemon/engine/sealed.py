"""Files that are believed only while they are whole: the SHA-256 of the rest, then the rest."""

from __future__ import annotations

import hashlib
from typing import Final

_DIGEST_BYTES: Final = hashlib.sha256().digest_size


def seal(data: bytes) -> bytes:
    """Put the digest before the data."""
    return hashlib.sha256(data).digest() + data


def unseal(sealed: bytes) -> bytes | None:
    """Give the data back; None where a bit of it, or of its digest, has changed."""
    data = sealed[_DIGEST_BYTES:]
    return data if hashlib.sha256(data).digest() == sealed[:_DIGEST_BYTES] else None
