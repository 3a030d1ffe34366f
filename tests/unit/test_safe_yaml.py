"""YAML is read narrowly: what could surprise, overwrite or explode is refused with its place."""

from __future__ import annotations

import pytest

from daemon import safe_yaml
from daemon.safe_yaml import DocumentError

MERGE_BOMB = (
    "a0: &a0 {k0: v}\n"
    + "".join(f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n  k{n}: v\n" for n in range(1, 9))
).encode()


def refusal(data: bytes) -> str:
    """Parse what must be refused, and give the message."""
    with pytest.raises(DocumentError) as caught:
        safe_yaml.parse(data)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", None),
        (b"# only a comment\n", None),
        (b"a: 1\nb: [x, 2.5, true, null]\n", {"a": 1, "b": ["x", 2.5, True, None]}),
        (b"\xef\xbb\xbfa: 1", {"a": 1}),
        ("größe: 日本".encode(), {"größe": "日本"}),
        (b"a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}),
        (b'"<<": x', {"<<": "x"}),
    ],
    ids=["empty", "comment", "plain", "byte order mark", "umlauts", "carriage returns", "quoted merge"],
)
def test_plain_yaml_is_read(data: bytes, expected: object) -> None:
    """Ordinary documents are read as PyYAML's safe loader would."""
    assert safe_yaml.parse(data) == expected


def test_a_document_may_have_64_kib_and_no_byte_more() -> None:
    """The cap counts bytes, and the last allowed one is allowed."""
    data = b"a: " + b"x" * (safe_yaml.MAX_BYTES - 3)

    assert len(safe_yaml.parse(data)["a"]) == safe_yaml.MAX_BYTES - 3
    assert "64 KiB" in refusal(data + b"x")


@pytest.mark.parametrize(
    "data", ["a: 1".encode("utf-16"), b"a: \xff\n", b"\x89PNG\r\n\x1a\n", "ä: 1".encode("latin-1")]
)
def test_other_encodings_and_binary_files_are_not_text(data: bytes) -> None:
    """What is not UTF-8 is refused as such, with the byte's place."""
    assert "UTF-8" in refusal(data)


def test_control_characters_are_refused() -> None:
    """A NUL byte is valid UTF-8 and still no YAML."""
    assert "not YAML" in refusal(b"a: \x00")


@pytest.mark.parametrize(
    "data",
    [b"a: &x 1\nb: *x\n", b"a: &x 1", b"a: *nowhere", b"&x a: 1", b"a: &x [1]", b"a: &x {b: 1}", MERGE_BOMB],
    ids=["pair", "anchor alone", "alias alone", "on a key", "on a list", "on a mapping", "merge bomb"],
)
def test_anchors_and_aliases_are_refused(data: bytes) -> None:
    """Neither an anchor nor an alias is taken, wherever it stands, and the message says where."""
    assert refusal(data).startswith("anchors and aliases are not allowed (line 1,")


@pytest.mark.parametrize("data", [b"<<: {a: 1}", b"<<: [{a: 1}, {b: 2}]", b"x: {<<: {a: 1}}"])
def test_merge_keys_are_refused(data: bytes) -> None:
    """A merge key is refused also without an alias."""
    assert refusal(data).startswith("merge keys (<<) are not allowed (line 1,")


@pytest.mark.parametrize("data", [b"a: 1\nb: 2\na: 3\n", b"x:\n  a: 1\n  a: 1\n", b"[{a: 1, 'a': 2}]"])
def test_duplicate_keys_are_refused(data: bytes) -> None:
    """A key that would overwrite another is refused and named."""
    assert refusal(data).startswith("duplicate key 'a' (line ")


@pytest.mark.parametrize("data", [b"? [a]\n: 1", b"? {a: 1}\n: 1"])
def test_keys_that_are_no_scalars_are_refused(data: bytes) -> None:
    """A list or a mapping as a key is refused."""
    assert "key must be plain text" in refusal(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 30_000,
        b"[" * 21 + b"]" * 21,
        b"{a: " * 21 + b"1" + b"}" * 21,
        b"- " * 30_000,
        "\n".join(" " * depth + "a:" for depth in range(300)).encode(),
    ],
    ids=["flow", "one too many", "flow mapping", "block list", "block mapping"],
)
def test_deep_nesting_is_refused(data: bytes) -> None:
    """Nesting beyond the limit is refused, in flow and in block style."""
    assert refusal(data).startswith("nested deeper than 20 levels")


def test_nesting_up_to_the_limit_is_read() -> None:
    """Nineteen lists around a word are twenty levels."""
    value = safe_yaml.parse(b"[" * 19 + b"x" + b"]" * 19)

    for _ in range(19):
        (value,) = value
    assert value == "x"


@pytest.mark.parametrize(
    "value",
    [
        "2001-13-41",
        "2001-01-01T25:00:00Z",
        "2001-01-01 00:00:00 +99:99",
        "9" * 5000,
        "0x_",
        '!!int ""',
        '!!float ""',
        "!!bool perhaps",
        "!!timestamp soon",
        "!!set [a]",
        "!!map x",
        '!!binary "ä"',
        '"\\UFFFFFFFF"',
        '"\\U00110000"',
        "=",
        "!!python/object/apply:os.system [true]",
        "!unknown x",
    ],
)
def test_values_that_pyyaml_chokes_on_are_refused(value: str) -> None:
    """Whatever PyYAML raises on a value comes out as one kind of error."""
    assert "not YAML" in refusal(f"a: {value}".encode())


@pytest.mark.parametrize("value", [b"0x" + b"f" * 5000, b":".join([b"59"] * 5000), b"0b" + b"1" * 2000])
def test_integers_too_long_to_write_out_are_refused(value: bytes) -> None:
    """Hexadecimal, binary and base-60 integers pass Python's own limit, and would break every message."""
    assert "number of hundreds of digits" in refusal(b"a: " + value)
    assert "number of hundreds of digits" in refusal(b"? " + value + b"\n: a")


@pytest.mark.parametrize("data", [b"a: 1\n---\nb: 2\n", b"--- a\n...\n--- b\n"])
def test_a_second_document_is_refused(data: bytes) -> None:
    """One file holds one document."""
    assert "another document" in refusal(data)


@pytest.mark.parametrize(
    ("data", "place"), [(b"\ta: 1", "line 1, column 1"), (b"a:\n\t- b", "line 2, column 1")]
)
def test_tabs_as_indentation_are_refused_with_their_place(data: bytes, place: str) -> None:
    """A tab where YAML wants spaces is named with line and column."""
    assert "'\\t'" in refusal(data)
    assert place in refusal(data)


def test_a_refusal_never_shows_what_was_refused() -> None:
    """The message of a broken value is short, however long the value."""
    assert len(refusal(b"a: 2001-99-99" + b"\nb: " + b"x" * 50_000)) < 200


def test_repeated_values_are_written_out() -> None:
    """The dumper writes no aliases, since the reader takes none."""
    shared = {"a": [1, 2]}

    text = safe_yaml.dump({"x": shared, "y": shared})

    assert "&" not in text
    assert safe_yaml.parse(text.encode()) == {"x": shared, "y": shared}


def test_keys_are_written_in_their_order() -> None:
    """The dumper does not sort."""
    assert safe_yaml.dump({"b": 1, "a": 2}) == "b: 1\na: 2\n"


@pytest.mark.parametrize(
    ("path", "line"), [("", 1), ("a", 1), ("b.1.c", 4), ("b.1.missing", 4), ("b.0", 3), ("d.e", 5), ("z.a", 0)]
)
def test_the_line_of_a_key_is_found(path: str, line: int) -> None:
    """By its path; where the path ends early, what is nearest above is given, and 0 where nothing is."""
    assert safe_yaml.lines_of(b"a: 1\nb:\n  - x\n  - {c: 2}\nd.e: 3\n", [path]) == [line]
