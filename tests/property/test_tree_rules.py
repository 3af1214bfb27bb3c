"""Tree documents, for any node and any bytes: what is written is read back the same."""

from __future__ import annotations

import json
import stat
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.errors import Damaged
from holdfast.model.node import Node, NodeType
from holdfast.repo.tree import (
    decode_tree,
    encode_node,
    encode_tree,
    go_mode,
    json_string,
    name_json,
    quote_name,
    unix_mode,
    unquote_name,
)

bounded = settings(max_examples=120, derandomize=True, deadline=None)
AWKWARD = "<>&\"'\\\x00\x07\x1b\x7f\x85\xa0\u00ad\u2028\u2029\ufeff\ufffd\U0001f4a9\U000e0001é"
texts = st.text(max_size=20) | st.text(alphabet=AWKWARD, max_size=8)
# Anything but a slash and a zero byte may stand in a name; the format holds those too.
names = st.one_of(
    st.binary(min_size=1, max_size=30),
    texts.filter(bool).map(lambda text: text.encode("utf-8", "replace")),
    st.lists(st.sampled_from([b"\xff", b"\\", b'"', b"\xed\xa0\x80", b"x", "é".encode()])).map(
        lambda parts: b"n" + b"".join(parts)
    ),
)
YEARS_1_TO_9999 = (-62_135_596_800 * 10**9, 253_402_300_799 * 10**9 + 10**9 - 1)
times = st.integers(*YEARS_1_TO_9999) | st.integers(-(2**63), 2**63 - 1) | st.just(0)
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
blob_ids = st.binary(min_size=32, max_size=32)
modes = st.integers(0, 0o7777)
xattrs = st.lists(st.tuples(texts.map(str.encode), st.binary(max_size=20)), max_size=3).map(tuple)


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    kind = draw(st.sampled_from(NodeType))
    file, directory = kind is NodeType.FILE, kind is NodeType.DIRECTORY
    return Node(
        draw(names),
        kind,
        draw(modes),
        draw(times),
        draw(times),
        draw(times),
        draw(u32),
        draw(u32),
        draw(texts),
        draw(texts),
        draw(u64),
        draw(u64),
        draw(u64),
        draw(u64),
        draw(names) if kind is NodeType.SYMLINK else b"",
        draw(xattrs),
        draw(u64),
        tuple(draw(st.lists(blob_ids, max_size=4))) if file else (),
        draw(blob_ids) if directory else None,
    )


@bounded
@given(st.lists(nodes(), max_size=4, unique_by=lambda node: node.name))
def test_a_tree_is_read_back_as_it_was_written(some: list[Node]) -> None:
    text = encode_tree(some)
    assert decode_tree(text, "it") == sorted(some, key=lambda node: node.name)
    assert text.startswith(b'{"nodes":[')
    assert text.endswith(b"]}\n")


@bounded
@given(nodes())
def test_another_program_reads_the_same_json(node: Node) -> None:
    text = encode_node(node)
    document = json.loads(text)
    assert unquote_name(document["name"]) == node.name
    assert document["type"] == node.type.value
    assert document.get("user", "") == node.user
    assert document.get("size", 0) == node.size
    # Go escapes what a browser could take for markup or a line's end.
    assert not set("<>&\u2028\u2029") & set(text)


@bounded
@given(st.binary(max_size=60) | names)
@example(b"\xf4\x8f\xbf\xbf\xf4\x90\x80\x80\xc0\x80")
def test_a_quoted_name_is_unquoted_to_the_same_bytes(name: bytes) -> None:
    quoted = quote_name(name)
    assert unquote_name(quoted) == name
    assert all(character.isprintable() for character in quoted)
    assert unquote_name(json.loads(name_json(name))) == name


@bounded
@given(texts)
def test_a_json_string_says_its_text(text: str) -> None:
    written = json_string(text)
    assert json.loads(written) == text
    assert not set("<>&\u2028\u2029\n") & set(written)


@bounded
@given(st.sampled_from(NodeType), modes)
def test_modes_of_go_and_unix_are_inverse(kind: NodeType, mode: int) -> None:
    value = go_mode(kind, mode)
    assert unix_mode(value) == mode
    assert value & 0o777 == mode & 0o777
    assert bool(value & 1 << 31) is (kind is NodeType.DIRECTORY)
    assert bool(value & 1 << 23) is bool(mode & stat.S_ISUID)
    assert 0 <= value < 1 << 32


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["nodes", "name", "type", "content", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@bounded
@given(st.binary(max_size=80) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_tree_or_damage(noise: bytes) -> None:
    with suppress(Damaged):
        decode_tree(noise, "it")


FIELDS = [*json.loads(encode_node(Node(b"n", NodeType.FILE))), "linktarget", "linktarget_raw",
          "extended_attributes", "subtree", "user", "size", "mode", "inode"]  # fmt: skip


@settings(bounded, max_examples=250)
@given(st.sampled_from(FIELDS), json_values)
def test_any_value_in_any_field_is_a_node_or_damage(field: str, value: object) -> None:
    document = json.loads(encode_node(Node(b"n", NodeType.FILE))) | {field: value}
    with suppress(Damaged):
        decode_tree(json.dumps({"nodes": [document]}).encode(), "it")


@settings(bounded, max_examples=40)
@given(nodes(), st.data())
def test_a_truncated_tree_is_damage(node: Node, data: st.DataObject) -> None:
    text = encode_tree([node])
    end = data.draw(st.integers(0, len(text) - 2))
    with pytest.raises(Damaged, match="tree 12"):
        decode_tree(text[:end], "tree 12")
