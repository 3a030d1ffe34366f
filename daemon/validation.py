"""Pydantic's errors in a person's words: every fault at once, with "did you mean"."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from daemon.errors import Fault, Reason

_MAX_SHOWN = 60


def refusal(allowed: str, reason: Reason = Reason.BAD_SIDECAR) -> PydanticCustomError:
    """Make the error a validator raises: what would have been allowed."""
    return PydanticCustomError("refused", "{allowed}", {"allowed": allowed, "reason": reason.value})


def shown(value: object) -> str:
    """Quote a value a person wrote, short and on one line."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def suggestion(word: str, known: list[str]) -> str:
    """Name the closest known word, or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


def explain(error: ValidationError, model: type[BaseModel], file: str) -> tuple[Fault, ...]:
    """Turn a validation error into faults, one a key, in the order of the text."""
    found: dict[str, Fault] = {}
    for item in error.errors(include_url=False):
        path = [str(part) for part in item["loc"]]
        key = ".".join(path)
        found.setdefault(key, _fault(item, path, model, file))
    return tuple(found.values())


def _fault(item: Any, path: list[str], model: type[BaseModel], file: str) -> Fault:
    key = ".".join(path)
    context = item.get("ctx", {})
    if item["type"] == "extra_forbidden":
        known = _keys_at(model, path[:-1])
        allowed = "no such key, but " + ", ".join(known)
        return Fault(file, key, shown(item["input"]), allowed, suggestion(path[-1], known))
    if item["type"] == "refused":
        reason = Reason(context["reason"])
        return Fault(file, key, shown(item["input"]), context["allowed"], reason=reason)
    if item["type"] == "literal_error":
        words = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        word = item["input"] if isinstance(item["input"], str) else ""
        return Fault(file, key, shown(item["input"]), ", ".join(words), suggestion(word, words))
    if item["type"] == "model_type":
        allowed = "keys and values out of " + ", ".join(_keys_at(model, path))
        return Fault(file, key, shown(item["input"]), allowed)
    return Fault(file, key, shown(item["input"]), _requirement(item["msg"]))


def _requirement(message: str) -> str:
    """Keep the requirement of a stock message: 'Input should be greater than 0' -> 'greater than 0'."""
    for start in ("Input should be ", "Value error, "):
        message = message.removeprefix(start)
    return message[:1].lower() + message[1:]


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """List the keys that the model knows at a path; a number in it is a place in a list."""
    for part in path:
        field = model.model_fields.get(part)
        model = (_model_in(field.annotation) if field else None) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Find the model in an annotation such as `list[Scale] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
