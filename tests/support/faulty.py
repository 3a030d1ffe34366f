"""What the tests of settings and presets share."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from daemon.settings import Settings
from daemon.validation import explain


def faults_of(**raw: Any) -> dict[str, str]:
    """Validate, and give what would have been allowed a faulty key."""
    try:
        Settings.model_validate(raw)
    except ValidationError as error:
        return {fault.key: fault.allowed for fault in explain(error, Settings, "s.yaml")}
    return {}
