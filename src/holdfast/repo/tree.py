"""Trees: a directory's nodes as the JSON text that restic writes, byte for byte.

The text is the identity of a tree (its id is the SHA-256), so two programs deduplicate each
other's directories only when they agree on every byte: field order, omitted fields, Go's
escaping. Source of the facts: ``internal/data/node.go`` and ``tree.go`` of restic 0.19, and
the documentation of Go's ``strconv.Quote``, ``encoding/json`` and ``io/fs.FileMode``.
"""

from __future__ import annotations

import functools
import re
import stat
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import Any

import orjson

from holdfast.errors import Damaged
from holdfast.model.node import Node, NodeType
from holdfast.repo import rfc3339

EMPTY_TREE = b'{"nodes":[]}\n'

# io/fs.FileMode keeps the kind of file and three special bits in its high half.
_GO_SPECIAL = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))
_GO_KIND = {
    NodeType.FILE: 0,
    NodeType.DIRECTORY: 1 << 31,
    NodeType.SYMLINK: 1 << 27,
    NodeType.BLOCK_DEVICE: 1 << 26,
    NodeType.CHARACTER_DEVICE: 1 << 26 | 1 << 21,
    NodeType.FIFO: 1 << 25,
    NodeType.SOCKET: 1 << 24,
    NodeType.IRREGULAR: 1 << 19,
}

_FILE = NodeType.FILE
_PLAIN_NAME = re.compile(rb"[A-Za-z0-9 !#$%'()*+,\-./:;=?@\[\]^_`{|}~]*")
_INVALID_BYTE = re.compile("[\udc80-\udcff]")  # as `surrogateescape` decodes it
_SHORT_ESCAPES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r"}
_UNESCAPES = {
    "a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34,
}  # fmt: skip
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|([abfnrtv\\'\"]))"
)


def go_mode(node_type: NodeType, mode: int) -> int:
    """Return Go's FileMode for twelve permission bits and a kind."""
    value = _GO_KIND[node_type] | (mode & 0o777)
    if mode & 0o7000:
        for bit, go_bit in _GO_SPECIAL:
            if mode & bit:
                value |= go_bit
    return value


def unix_mode(value: int) -> int:
    """Return the twelve permission bits of a Go FileMode."""
    mode = value & 0o777
    for bit, go_bit in _GO_SPECIAL:
        if value & go_bit:
            mode |= bit
    return mode


def quote_name(name: bytes) -> str:
    """Return ``strconv.Quote(name)`` without its outer quotation marks."""
    parts = []
    for character in name.decode("utf-8", "surrogateescape"):
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:
            parts.append(f"\\x{code - 0xDC00:02x}")
        elif character in '"\\':
            parts.append("\\" + character)
        elif character.isprintable():
            parts.append(character)
        elif code in _SHORT_ESCAPES:
            parts.append(_SHORT_ESCAPES[code])
        elif code < 0x20 or code == 0x7F:
            parts.append(f"\\x{code:02x}")
        elif code < 0x10000:
            parts.append(f"\\u{code:04x}")
        else:
            parts.append(f"\\U{code:08x}")
    return "".join(parts)


def unquote_name(text: str) -> bytes:
    """Return the bytes that `quote_name` was given; raise ValueError for a bad escape."""
    if "\\" not in text:
        return text.encode("utf-8", "surrogateescape")
    out = bytearray()
    at = 0
    while at < len(text):
        if text[at] != "\\":
            end = text.find("\\", at)
            end = len(text) if end < 0 else end
            out += text[at:end].encode("utf-8", "surrogateescape")
            at = end
            continue
        match = _ESCAPE.match(text, at)
        if match is None:
            raise ValueError(f"bad escape in name {text!r}")
        byte, short, long, octal, letter = match.groups()
        if byte:
            out.append(int(byte, 16))
        elif octal:
            out.append(int(octal, 8) & 0xFF)
        elif letter:
            out.append(_UNESCAPES[letter])
        else:
            out += chr(int(short or long, 16)).encode("utf-8", "replace")
        at = match.end()
    return bytes(out)


def json_string(text: str) -> str:
    """Return `text` as ``encoding/json`` writes a string: HTML characters are escaped too."""
    encoded = orjson.dumps(text.encode("utf-8", "replace").decode()).decode()
    if encoded.isascii() and not any(c in encoded for c in "<>&\x7f\\"):
        return encoded
    return (
        encoded.replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def name_json(name: bytes) -> str:
    """Return a node's name as it stands in a tree, with quotation marks."""
    if _PLAIN_NAME.fullmatch(name):
        return f'"{name.decode("ascii")}"'
    return json_string(quote_name(name))


@functools.lru_cache(maxsize=1024)
def _owner_json(uid: int, gid: int, user: str, group: str) -> str:
    user_field = f',"user":{json_string(user)}' if user else ""
    group_field = f',"group":{json_string(group)}' if group else ""
    return f',"uid":{uid},"gid":{gid}{user_field}{group_field}'


def encode_node(node: Node) -> str:
    """Return the JSON text of one node."""
    (
        name, kind, mode, mtime_ns, atime_ns, ctime_ns, uid, gid, user, group, inode, device_id,
        size, links, linktarget, xattrs, device, content, subtree,
    ) = node  # fmt: skip
    mtime = rfc3339.from_ns(mtime_ns)
    atime = mtime if atime_ns == mtime_ns else rfc3339.from_ns(atime_ns)
    file = kind is _FILE
    value = mode if file and mode < 0o1000 else go_mode(kind, mode)
    # The fields that nearly every node has go into one string; the others are rare.
    text = (
        f'{{"name":{name_json(name)},"type":"{kind._value_}"'
        f'{f""","mode":{value}""" if value else ""}'
        f',"mtime":"{mtime}","atime":"{atime}","ctime":"{rfc3339.from_ns(ctime_ns)}"'
        f"{_owner_json(uid, gid, user, group)}"
        f'{f""","inode":{inode}""" if inode else ""}'
        f'{f""","device_id":{device_id}""" if device_id else ""}'
        f'{f""","size":{size}""" if size else ""}'
        f'{f""","links":{links}""" if links else ""}'
    )
    if linktarget:
        text += _linktarget_json(linktarget)
    if xattrs:
        text += attributes_json(xattrs)
    if device:
        text += f',"device":{device}'
    if not file:
        end = "" if subtree is None else f',"subtree":"{subtree.hex()}"'
        return f'{text},"content":null{end}}}'
    if len(content) == 1:
        return f'{text},"content":["{content[0].hex()}"]}}'
    ids = ",".join([f'"{blob_id.hex()}"' for blob_id in content])
    return f'{text},"content":[{ids}]}}'


def attributes_json(xattrs: tuple[tuple[bytes, bytes], ...]) -> str:
    """Return the field of extended attributes with the comma in front of it."""
    items = ",".join(
        f'{{"name":{json_string(name.decode("utf-8", "replace"))},'
        f'"value":"{b64encode(value).decode()}"}}'
        for name, value in xattrs
    )
    return f',"extended_attributes":[{items}]'


def _linktarget_json(target: bytes) -> str:
    try:
        return f',"linktarget":{json_string(target.decode())}'
    except UnicodeDecodeError:
        # encoding/json writes an invalid byte as an escape, a real U+FFFD as itself. The raw
        # form beside it is what is read back.
        parts = _INVALID_BYTE.split(target.decode("utf-8", "surrogateescape"))
        replaced = "\\ufffd".join(json_string(part)[1:-1] for part in parts)
        return f',"linktarget":"{replaced}","linktarget_raw":"{b64encode(target).decode()}"'


def join_nodes(texts: Iterable[str]) -> bytes:
    """Return the bytes of a tree from node texts that are sorted by name."""
    return f'{{"nodes":[{",".join(texts)}]}}\n'.encode()


def encode_tree(nodes: Iterable[Node]) -> bytes:
    """Return the bytes of a tree; nodes are sorted by the bytes of their names."""
    return join_nodes(encode_node(node) for node in sorted(nodes, key=lambda node: node.name))


def decode_documents(tree: bytes, what: str) -> list[dict[str, Any]]:
    """Return a tree's nodes as raw documents; raise `Damaged`, naming `what`."""
    try:
        nodes = orjson.loads(tree)["nodes"]
        if nodes is None:
            return []
        if not isinstance(nodes, list):
            raise TypeError
    except (KeyError, TypeError, ValueError):
        raise Damaged(f"{what} is not a tree document") from None
    return nodes


def document_name(document: dict[str, Any]) -> bytes:
    """Return the name of a raw node document as the kernel's bytes."""
    name: str = document["name"]
    return name.encode() if "\\" not in name else unquote_name(name)


def decode_node(document: dict[str, Any]) -> Node:
    """Return the node of a raw document; raise KeyError or ValueError for a bad one."""
    get = document.get
    mtime = document["mtime"]
    atime = get("atime", mtime)
    mtime_ns = rfc3339.to_ns(mtime)
    subtree = get("subtree")
    raw_target = get("linktarget_raw")
    if raw_target is not None:
        target = b64decode(raw_target)
    else:
        target = get("linktarget", "").encode("utf-8", "surrogateescape")
    content = get("content")
    attributes = get("extended_attributes")
    return Node(
        document_name(document),
        NodeType(document["type"]),
        unix_mode(get("mode", 0)),
        mtime_ns,
        mtime_ns if atime == mtime else rfc3339.to_ns(atime),
        rfc3339.to_ns(get("ctime", mtime)),
        get("uid", 0),
        get("gid", 0),
        get("user", ""),
        get("group", ""),
        get("inode", 0),
        get("device_id", 0),
        get("size", 0),
        get("links", 0),
        target,
        decode_attributes(attributes),
        get("device", 0),
        tuple(map(bytes.fromhex, content)) if content else (),
        bytes.fromhex(subtree) if subtree else None,
    )


def decode_attributes(attributes: list[dict[str, Any]] | None) -> tuple[tuple[bytes, bytes], ...]:
    """Return the extended attributes of a raw node document as (name, value) pairs."""
    if not attributes:
        return ()
    return tuple((a["name"].encode(), b64decode(a["value"] or "")) for a in attributes)


def decode_tree(tree: bytes, what: str) -> list[Node]:
    """Return the nodes of a tree in stored order; raise `Damaged`, naming `what`."""
    try:
        return [decode_node(document) for document in decode_documents(tree, what)]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise Damaged(f"{what} holds a node that cannot be read: {error}") from None
