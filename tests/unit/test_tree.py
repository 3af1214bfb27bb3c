"""Tree documents: restic's bytes, restic's habits, and `Damaged` for anything else."""

from __future__ import annotations

from base64 import b64encode

import orjson
import pytest

from holdfast.errors import Damaged
from holdfast.model.node import Node, NodeType
from holdfast.repo.tree import (
    EMPTY_TREE,
    decode_documents,
    decode_tree,
    encode_node,
    encode_tree,
    go_mode,
    quote_name,
    unix_mode,
    unquote_name,
)

ID = bytes(range(32))
TIME = 1_700_000_000_500_000_000


def document(**fields: object) -> bytes:
    base = {"name": "n", "type": "file", "mtime": "2024-01-02T03:04:05Z", "content": None}
    return orjson.dumps({"nodes": [base | fields]})


def decoded(**fields: object) -> Node:
    (node,) = decode_tree(document(**fields), "tree 12")
    return node


def test_a_file_stands_as_restic_writes_it() -> None:
    node = Node(
        b"name", NodeType.FILE, 0o644, TIME, TIME, TIME + 1, 1000, 100, "me", "us",
        inode=5, device_id=6, size=7, links=1, content=(ID,),
    )  # fmt: skip
    assert encode_node(node) == (
        '{"name":"name","type":"file","mode":420,"mtime":"2023-11-14T22:13:20.5Z",'
        '"atime":"2023-11-14T22:13:20.5Z","ctime":"2023-11-14T22:13:20.500000001Z",'
        '"uid":1000,"gid":100,"user":"me","group":"us","inode":5,"device_id":6,"size":7,'
        f'"links":1,"content":["{ID.hex()}"]}}'
    )


def test_a_directory_and_a_link_stand_as_restic_writes_them() -> None:
    times = ',"mtime":"1970-01-01T00:00:00Z","atime":"1970-01-01T00:00:00Z"'
    times += ',"ctime":"1970-01-01T00:00:00Z","uid":0,"gid":0'
    assert encode_node(Node(b"d", NodeType.DIRECTORY, 0o755, subtree=ID)) == (
        f'{{"name":"d","type":"dir","mode":2147484141{times},"content":null,'
        f'"subtree":"{ID.hex()}"}}'
    )
    assert encode_node(Node(b"l", NodeType.SYMLINK, 0o777, linktarget=b"a<b")) == (
        f'{{"name":"l","type":"symlink","mode":134218239{times},'
        '"linktarget":"a\\u003cb","content":null}'
    )
    assert encode_node(Node(b"e", NodeType.FILE)) == (
        f'{{"name":"e","type":"file"{times},"content":[]}}'
    )


def test_nodes_are_sorted_by_the_bytes_of_their_names() -> None:
    some = [Node(name, NodeType.FILE) for name in (b"b", b"\xff", b"a", "é".encode(), b"B", b"a b")]
    assert [node.name for node in decode_tree(encode_tree(some), "it")] == [
        b"B", b"a", b"a b", b"b", "é".encode(), b"\xff",
    ]  # fmt: skip
    assert encode_tree([]) == EMPTY_TREE


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        (b"plain-name_1.txt", "plain-name_1.txt"),
        (b'say "hi"', 'say \\"hi\\"'),
        (b"back\\slash", "back\\\\slash"),
        (b"\x07\x08\t\n\x0b\x0c\r", "\\a\\b\\t\\n\\v\\f\\r"),
        (b"\x00\x1f\x7f", "\\x00\\x1f\\x7f"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("é日".encode(), "é日"),
        ("\u2028\u00a0\u200b".encode(), "\\u2028\\u00a0\\u200b"),
        ("\U000e0001".encode(), "\\U000e0001"),
        ("\ufffd".encode(), "\ufffd"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
    ],
)
def test_names_are_quoted_as_go_quotes_them(name: bytes, quoted: str) -> None:
    assert quote_name(name) == quoted
    assert unquote_name(quoted) == name


@pytest.mark.parametrize(
    ("text", "name"), [("\\101\\377", b"A\xff"), ("\\'", b"'"), ("\\u00e9", "é".encode())]
)
def test_escapes_that_others_may_write_are_read(text: str, name: bytes) -> None:
    assert unquote_name(text) == name


@pytest.mark.parametrize("text", ["\\", "\\q", "\\x1", "\\u12", "a\\U0011", "\\U00110000", "\\8"])
def test_a_bad_escape_is_a_value_error_and_damage_in_a_tree(text: str) -> None:
    with pytest.raises(ValueError, match=r"bad escape|range"):
        unquote_name(text)
    with pytest.raises(Damaged, match="tree 12 holds a node that cannot be read"):
        decoded(name=text)


@pytest.mark.parametrize(
    ("kind", "mode", "value"),
    [
        (NodeType.FILE, 0o644, 0o644),
        (NodeType.FILE, 0o4755, 1 << 23 | 0o755),
        (NodeType.FILE, 0o2755, 1 << 22 | 0o755),
        (NodeType.DIRECTORY, 0o1777, 1 << 31 | 1 << 20 | 0o777),
        (NodeType.CHARACTER_DEVICE, 0o600, 1 << 26 | 1 << 21 | 0o600),
        (NodeType.BLOCK_DEVICE, 0o600, 1 << 26 | 0o600),
        (NodeType.FIFO, 0, 1 << 25),
        (NodeType.SOCKET, 0, 1 << 24),
        (NodeType.IRREGULAR, 0, 1 << 19),
    ],
)
def test_modes_are_those_of_go(kind: NodeType, mode: int, value: int) -> None:
    assert go_mode(kind, mode) == value
    assert unix_mode(value) == mode


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2023-11-14T23:13:20.5+01:00", TIME),
        ("2023-11-14T14:13:20.500000000-08:00", TIME),
        ("1969-12-31T23:59:59.999999999Z", -1),
    ],
)
def test_dates_in_the_zone_of_the_machine_that_wrote_them(text: str, ns: int) -> None:
    node = decoded(mtime=text, atime="1970-01-01T01:00:00+01:00")
    assert node.mtime_ns == node.ctime_ns == ns
    assert node.atime_ns == 0


def test_a_link_target_that_is_no_text_is_read_from_its_raw_form() -> None:
    target = b"/srv/\xff\xfe/x"
    node = decoded(
        type="symlink", linktarget="/srv/\ufffd\ufffd/x", linktarget_raw=b64encode(target).decode()
    )
    assert node.linktarget == target


def test_a_link_target_is_written_as_restic_writes_it() -> None:
    target = b"a\xff<" + "\ufffd\u2028".encode()
    text = encode_node(Node(b"l", NodeType.SYMLINK, linktarget=target))
    # An invalid byte is an escape, a real U+FFFD is itself.
    written = '"linktarget":"a\\ufffd\\u003c\ufffd\\u2028"'
    assert f'{written},"linktarget_raw":"{b64encode(target).decode()}"' in text
    assert "linktarget_raw" not in encode_node(Node(b"l", NodeType.SYMLINK, linktarget=b"a"))


def test_what_restic_leaves_out_has_its_usual_value() -> None:
    node = decoded()
    assert node == Node(b"n", NodeType.FILE, 0, node.mtime_ns, node.mtime_ns, node.mtime_ns)
    assert decode_tree(b'{"nodes":null}', "it") == []


def test_an_attribute_without_a_value_is_empty() -> None:
    node = decoded(extended_attributes=[{"name": "user.a", "value": None}])
    assert node.xattrs == ((b"user.a", b""),)


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff", b"null", b"5", b'"nodes"', b"[]", b"{}", b'{"nodes":5}', b'{"nodes":{}}',
     b'{"nodes":"ab"}', b'{"nodes":[', b"[" * 2000],
)  # fmt: skip
def test_what_is_no_tree_is_damage(text: bytes) -> None:
    with pytest.raises(Damaged, match="tree 12 is not a tree document"):
        decode_documents(text, "tree 12")


@pytest.mark.parametrize(
    "fields",
    [
        {"name": None},
        {"name": 5},
        {"name": ["\\"]},
        {"type": "door"},
        {"type": None},
        {"mode": "rw"},
        {"mode": 1.5},
        {"mtime": "yesterday"},
        {"mtime": 5},
        {"ctime": None},
        {"content": 5},
        {"content": ["zz"]},
        {"content": [5]},
        {"subtree": "xy"},
        {"subtree": 7},
        {"linktarget": 5},
        {"linktarget_raw": "A"},
        {"extended_attributes": [5]},
        {"extended_attributes": [{"name": "a"}]},
        {"extended_attributes": 5},
    ],
    ids=repr,
)
def test_a_node_that_cannot_be_is_damage(fields: dict[str, object]) -> None:
    with pytest.raises(Damaged, match="tree 12 holds a node that cannot be read"):
        decoded(**fields)


@pytest.mark.parametrize("node", ["null", "5", '"x"', "[]", "{}"])
def test_an_entry_that_is_no_node_is_damage(node: str) -> None:
    with pytest.raises(Damaged, match="tree 12"):
        decode_tree(f'{{"nodes":[{node}]}}'.encode(), "tree 12")
