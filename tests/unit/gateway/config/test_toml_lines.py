"""The lines of keys in a TOML document."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.toml_lines import KeyPath, key_lines

DOCUMENT = '''\
# a comment with [brackets] and key = "value"
plain = 1
"quoted key" = "a # b"
dotted . deep = 'it''s'

[table]   # of things
text = """
several = lines
[not.a.table] \\""" """
list = [
    1,  # one
    [2, 3],
    "]",
]
inline = { a = 1, b = { c = "}" } }

[[items]]
name = "first"
[items.sub]
x = 1

[[items]]
name = "second"
[[items.parts]]
y = 2
'''.replace("'it''s'", "'its'")


def test_every_key_has_the_line_on_which_it_stands() -> None:
    lines = key_lines(DOCUMENT)

    assert lines == {
        ("plain",): 2,
        ("quoted key",): 3,
        ("dotted",): 4,
        ("dotted", "deep"): 4,
        ("table",): 6,
        ("table", "text"): 7,
        ("table", "list"): 10,
        ("table", "list", 0): 11,
        ("table", "list", 1): 12,
        ("table", "list", 1, 0): 12,
        ("table", "list", 1, 1): 12,
        ("table", "list", 2): 13,
        ("table", "inline"): 15,
        ("table", "inline", "a"): 15,
        ("table", "inline", "b"): 15,
        ("table", "inline", "b", "c"): 15,
        ("items",): 17,
        ("items", 0): 17,
        ("items", 0, "name"): 18,
        ("items", 0, "sub"): 19,
        ("items", 0, "sub", "x"): 20,
        ("items", 1): 22,
        ("items", 1, "name"): 23,
        ("items", 1, "parts"): 24,
        ("items", 1, "parts", 0): 24,
        ("items", 1, "parts", 0, "y"): 25,
    }


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "\ta = 1", "a = 1\r\nb = 2\r\n", "a = 'x'"])
def test_every_path_that_tomllib_finds_has_a_line(text: str) -> None:
    assert set(key_lines(text)) == paths(tomllib.loads(text))


@given(
    st.dictionaries(
        st.text("ab.\"'#[]=é \\", max_size=4),
        st.recursive(
            st.booleans() | st.integers() | st.text("ab\n\"'\\#]},", max_size=6),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xy-", max_size=3), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=5,
    )
)
def test_any_document_is_followed_to_its_end(document: dict[str, Any]) -> None:
    text = "".join(f"{toml(key)} = {toml(value)}\n" for key, value in document.items())
    assert tomllib.loads(text) == document

    lines = key_lines(text)

    assert set(lines) == paths(document)
    assert [lines[(key,)] for key in document] == sorted(lines[(key,)] for key in document)


def toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
        case list():
            return "[\n" + ", # comma\n".join(toml(item) for item in value) + "\n]"
        case _:
            return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"


def paths(value: Any, prefix: KeyPath = ()) -> set[KeyPath]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path for key, item in items for path in {(*prefix, key)} | paths(item, (*prefix, key))}
