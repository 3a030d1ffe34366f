"""Whatever is read as YAML ends in plain data or in a DocumentError."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from daemon import safe_yaml
from daemon.safe_yaml import DocumentError

# Words that make YAML of noise far more often than single letters do.
FRAGMENTS = st.sampled_from(
    [
        *("a: ", "b: ", "- ", "? ", ": ", "\n", "  ", "[", "]", "{", "}", ", ", "'", '"', "|\n ", ">\n ", "# "),
        *(
            "&x ",
            "*x",
            "<<: ",
            "--- ",
            "... ",
            "%YAML 1.1\n",
            "%TAG ! x\n",
            "!!int ",
            "!!float ",
            "!!bool ",
            "! ",
        ),
        *(
            "!!timestamp ",
            "!!binary ",
            "!!set ",
            "!!omap ",
            "!!pairs ",
            "!!null ",
            "!!map ",
            "!!seq ",
            "!!str ",
        ),
        *(
            "1",
            "-",
            "0x",
            "0b1",
            "1e3",
            ".nan",
            ".inf",
            "-.inf",
            "1:60",
            "2001-01-01",
            "yes",
            "null",
            "=",
            "<<",
        ),
        *("\\", "\\ud800", "\\x", "\t", "\r", "\x85", "\u2028", "\ufeff", "ä", "日", "\U0001f3a8", "\x00", "~"),
    ]
)
TEXT = st.one_of(st.text(), st.lists(FRAGMENTS, max_size=25).map("".join))
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text()
    | st.text(st.characters(categories=["Cs", "Cc", "Zl", "Zp", "Ll", "Zs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def read(data: bytes) -> None:
    """Parse; any exception but one of the reader's own leaves this function."""
    with contextlib.suppress(DocumentError):
        safe_yaml.parse(data)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    """Only DocumentError leaves parse(), whatever the bytes."""
    read(data)


@given(TEXT)
@example('!!int ""')
@example("!!bool x")
@example("!!timestamp x")
def test_no_text_raises_anything_else(text: str) -> None:
    """Only DocumentError leaves parse(), whatever the text."""
    read(text.encode("utf-8", "surrogatepass"))


@given(st.dictionaries(st.text(), PLAIN, max_size=5))
def test_what_is_dumped_is_read_back(data: dict[str, Any]) -> None:
    """dump() and parse() are inverse for what records consist of, odd letters and numbers included."""
    text = safe_yaml.dump(data).encode("utf-8", "backslashreplace")

    assert repr(safe_yaml.parse(text)) == repr(data)  # tells 1 from True and 1.0, and NaN from nothing
