"""Pydantic's errors as faults that people understand: all at once, with "did you mean"."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic import BaseModel, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from daemon.errors import Fault, Reason

if TYPE_CHECKING:
    from pydantic import ValidatorFunctionWrapHandler

_MAX_SHOWN: Final = 60
_MAX_LISTED: Final = 8  # so many known keys fit into a hint
_KINDS: Final = {
    "bool": "true or false",
    "dict": "keys and values",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "path": "a path",
    "string": "text",
    "tuple": "a list",
}  # what the first word of a type of pydantic's errors demands, as in `int_parsing`


def refusal(allowed: str, reason: Reason = Reason.BAD_SIDECAR, hint: str = "") -> PydanticCustomError:
    """Make the error that a validator raises; `allowed` completes the words "it must be"."""
    context = {"allowed": allowed, "reason": reason.value, "hint": hint}
    return PydanticCustomError("refused", "{allowed}", context)


def only(allowed: str) -> WrapValidator:
    """Make a validator that states what is allowed instead of any error of pydantic's."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise refusal(allowed) from None

    return WrapValidator(check)


def shown(value: object) -> str:
    """Quote a value that a person wrote, short and on one line."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def suggestion(word: str, known: list[str]) -> str:
    """Ask whether the most similar known word is meant; give nothing where none is similar."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


def unknown_key(file: str, key: str, found: str, known: list[str]) -> Fault:
    """Describe a key, given by its path, that is not among the known ones at its place."""
    listed = ", ".join(known)
    hint = suggestion(key.rpartition(".")[2], known)
    if not hint:
        is_short = len(known) <= _MAX_LISTED
        hint = f"known: {listed}" if is_short else "`styletransferd check --verbose` lists the known keys"
    return Fault(file, key, found, listed, hint, problem="unknown key")


def explain(error: ValidationError, model: type[BaseModel], file: str) -> tuple[Fault, ...]:
    """Turn a validation error into faults, one for each key, in the order of the file."""
    found: dict[str, Fault] = {}
    for item in error.errors(include_url=False):
        fault = _fault(item, model, file)
        found.setdefault(fault.key, fault)
    return tuple(found.values())


def _fault(item: Any, model: type[BaseModel], file: str) -> Fault:
    path = [str(part) for part in item["loc"]]
    key, value, context = ".".join(path), shown(item["input"]), item.get("ctx", {})
    hint = ""
    match item["type"]:
        case "extra_forbidden":
            return unknown_key(file, key, value, _keys_at(model, path[:-1]))
        case "invalid_key":
            key = ".".join([*path[:-1], value])
            return Fault(file, key, allowed="text", problem="a key that is not text:")
        case "missing":
            return Fault(file, key, problem="missing key")
        case "refused":
            return Fault(file, key, value, context["allowed"], context["hint"], Reason(context["reason"]))
        case "literal_error":
            words = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
            allowed, hint = f"one of {', '.join(words)}", suggestion(str(item["input"]), words)
        case "model_type":
            allowed = f"keys and values ({', '.join(_keys_at(model, path))})"
        case "too_long":
            value, allowed = f"{context['actual_length']} of them", f"at most {context['max_length']}"
        case kind:
            allowed = _requirement(kind, item["msg"])
    return Fault(file, key, value, allowed, hint)


def _requirement(kind: str, message: str) -> str:
    """Say what one of pydantic's own errors demands: 'Input should be greater than 0' -> 'greater than 0'."""
    name, _, rest = kind.partition("_")
    if name in _KINDS and rest.startswith(("type", "parsing", "from")):
        return _KINDS[name]
    message = message.removeprefix("Input should be ")
    for long, short in (("greater than or equal to", "at least"), ("less than or equal to", "at most")):
        message = message.replace(long, short)
    return message[:1].lower() + message[1:]


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """List the keys that the model has at a path; a number in the path is an index into a list."""
    for part in path:
        field = model.model_fields.get(part)
        model = (_model_in(field.annotation) if field else None) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Find the model in an annotation such as `list[Scale] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
