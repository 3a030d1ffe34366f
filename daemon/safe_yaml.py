"""YAML text to plain data and back; the only place that knows PyYAML.

Untrusted files are read here, so the reader is strict: 64 KiB, UTF-8, one document, no anchors, aliases or
merge keys (an 843-byte merge bomb takes `safe_load` 19 seconds), no duplicate keys, bounded depth.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from daemon.errors import DaemonError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 20
MAX_INT_BITS = 1024  # Python cannot print an integer of more than 4300 digits, not even in a message


class DocumentError(DaemonError):
    """The text is not YAML that is accepted here; the message says why and where."""

    @property
    def line(self) -> int:
        """The line that the message ends with, from 1; 0: it names none."""
        place = re.search(r"\(line (\d+), column \d+\)$", str(self))
        return int(place[1]) if place else 0


class _Loader(yaml.SafeLoader):
    """SafeLoader without anchors, merges, duplicate keys and deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose one node; refuse aliases and anchors before anything is expanded."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise DocumentError(f"anchors and aliases are not allowed{_place(event.start_mark)}")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise DocumentError(f"nested deeper than {MAX_DEPTH} levels{_place(event.start_mark)}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        """Construct one mapping; refuse duplicate keys, of which YAML would keep the last."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise DocumentError(f"a key must be plain text{_place(key.start_mark)}")
            if key.tag == "tag:yaml.org,2002:merge":
                raise DocumentError(f"merge keys (<<) are not allowed{_place(key.start_mark)}")
            if key.value in seen:
                raise DocumentError(f"duplicate key {key.value!r}{_place(key.start_mark)}")
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Construct one integer; refuse numbers of hundreds of digits."""
        value = super().construct_yaml_int(node)
        if value.bit_length() > MAX_INT_BITS:
            raise DocumentError(f"a number of hundreds of digits{_place(node.start_mark)}")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _place(mark: yaml.Mark | None) -> str:
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""


def parse(data: bytes) -> Any:
    """Parse one YAML document, an empty one as None; DocumentError, and nothing else, if anything is wrong."""
    if len(data) > MAX_BYTES:
        raise DocumentError(f"larger than {MAX_BYTES // 1024} KiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"not UTF-8 text (byte {error.start})") from None
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        raise DocumentError(f"not YAML: {error.problem}{_place(error.problem_mark)}") from None
    except yaml.YAMLError as error:
        raise DocumentError(f"not YAML: {str(error).splitlines()[0]}") from None
    except DocumentError:
        raise
    except Exception as error:  # noqa: BLE001 - a bad date raises ValueError, `!!bool maybe` KeyError, and so on
        raise DocumentError(f"not YAML: {type(error).__name__} in a value") from None


def lines_of(data: bytes, paths: list[str]) -> list[int]:
    """Find the lines, from 1, of keys in a document that `parse` reads; a path's parts are joined by dots.

    A path of which only the beginning is there leads to that; one of which nothing is, to 0.
    """
    root = _Loader(data.decode("utf-8-sig")).get_single_node()
    return [_line(root, path, 0 if path else 1) for path in paths]


def _line(node: yaml.Node | None, path: str, above: int) -> int:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    found = [(str(key.value), key, value) for key, value in pairs]
    if isinstance(node, yaml.SequenceNode):
        found = [(str(number), item, item) for number, item in enumerate(node.value)]
    for name, place, below in found:
        if f"{path}.".startswith(f"{name}."):
            return _line(below, path[len(name) + 1 :], place.start_mark.line + 1)
    return above


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Write repeated values out, since `parse` accepts no aliases."""
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Escape unprintable characters: PyYAML writes U+0085 and U+2028 so that they are read as a space."""
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)


def dump(data: dict[str, Any]) -> str:
    """Format plain data as YAML that `parse` reads back, with the keys in the given order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
