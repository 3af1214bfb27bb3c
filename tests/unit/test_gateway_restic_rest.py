"""restic's REST protocol as the gateway speaks it: objects, rights, and what is refused."""

from __future__ import annotations

import hashlib
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from gateway_server import Served, served, store_at

from holdfast.gateway.restic_rest import V1, V2
from holdfast.gateway.workroom import Limits
from holdfast.store.protocol import ObjectStore

BODY = b"what is stored"
NAME = hashlib.sha256(BODY).hexdigest()
OTHER = "ab" * 32
KINDS = ("data", "keys", "locks", "snapshots", "index")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "region") as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return store_at(tmp_path / "region")


def url(kind: str, name: str = NAME, repository_id: str = "repo") -> str:
    return f"/restic/{repository_id}/{kind}" + ("" if kind == "config" else f"/{name}")


def key(kind: str, name: str = NAME) -> str:
    if kind == "config":
        return "config"
    return f"data/{name[:2]}/{name}" if kind == "data" else f"{kind}/{name}"


def put(gateway: Served, kind: str, body: bytes = BODY, credential: str = "full") -> int:
    name = hashlib.sha256(body).hexdigest()
    return gateway.ask("POST", url(kind, name), credential, content=body).status_code


@pytest.mark.parametrize("kind", ["config", *KINDS])
def test_what_is_created_is_there_under_restics_name(
    gateway: Served, store: ObjectStore, kind: str
) -> None:
    assert gateway.ask("HEAD", url(kind)).status_code == 404
    assert put(gateway, kind) == 200
    assert store.read(key(kind)) == BODY
    head = gateway.ask("HEAD", url(kind))
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(BODY)))
    got = gateway.ask("GET", url(kind))
    assert (got.status_code, got.content) == (200, BODY)
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert gateway.ask("DELETE", url(kind)).status_code == 200
    assert gateway.ask("GET", url(kind)).status_code == 404
    assert gateway.ask("DELETE", url(kind)).status_code == 200  # a repeated deletion


@pytest.mark.parametrize("kind", KINDS)
def test_lists_in_both_versions(gateway: Served, store: ObjectStore, kind: str) -> None:
    bodies = [b"one", b"two two", b""]
    for body in bodies:
        assert put(gateway, kind, body) == 200
    store.create(f"{kind}/stray.txt", b"no object of restic's")
    wanted = {hashlib.sha256(body).hexdigest(): len(body) for body in bodies}
    first = gateway.ask("GET", f"/restic/repo/{kind}/")
    assert first.headers["Content-Type"] == V1
    assert sorted(first.json()) == sorted(wanted)
    second = gateway.ask("GET", f"/restic/repo/{kind}/", headers={"Accept": V2})
    assert second.headers["Content-Type"] == V2
    assert {each["name"]: each["size"] for each in second.json()} == wanted


def test_a_long_list_is_whole(gateway: Served, tmp_path: Path) -> None:
    names = {hashlib.sha256(b"%d" % number).hexdigest() for number in range(1203)}
    directory = tmp_path / "region/repositories/repo/index"
    directory.mkdir(parents=True)
    for name in names:
        (directory / name).touch()
    assert set(gateway.ask("GET", "/restic/repo/index/").json()) == names


def test_a_repository_is_made_ready_and_never_deleted_whole(gateway: Served) -> None:
    # A directory that is not there is an error and no empty repository.
    assert gateway.ask("GET", "/restic/repo/keys/").status_code == 502
    assert gateway.ask("POST", "/restic/repo/?create=true").status_code == 200
    for kind in KINDS:
        assert gateway.ask("GET", f"/restic/repo/{kind}/").json() == []
    assert gateway.ask("POST", "/restic/repo/?create=true").status_code == 200
    assert gateway.ask("POST", "/restic/repo/").status_code == 400
    assert gateway.ask("DELETE", "/restic/repo/").status_code == 403


def test_bytes_under_a_wrong_name_are_never_stored(gateway: Served, store: ObjectStore) -> None:
    store.create("locks/x", b"")
    refused = gateway.ask("POST", url("data", OTHER), content=BODY)
    assert refused.status_code == 400
    assert [info.key for info in store.list("")] == ["locks/x"]


def test_the_same_again_is_done_already_and_anything_else_is_kept_out(
    gateway: Served, store: ObjectStore
) -> None:
    for kind in ("config", *KINDS):
        assert put(gateway, kind) == 200
        assert put(gateway, kind) == 200  # as after an answer that was lost
        again = gateway.ask("POST", url(kind), content=BODY, headers={"If-None-Match": "*"})
        assert again.status_code == 412
    assert gateway.ask("POST", url("config"), content=b"another").status_code == 409
    assert store.read("config") == BODY
    # A pack that a disk has changed: nobody who may only append replaces it.
    store.delete(key("data"))
    store.create(key("data"), b"rotten")
    assert put(gateway, "data") == 409
    assert store.read(key("data")) == b"rotten"


ALL, NONE = frozenset(KINDS) | {"config"}, frozenset[str]()
BASICS = frozenset({"config", "keys", "index", "locks"})
MAY = {
    # credential: what it may read, create and delete
    "full": (ALL, ALL, ALL),
    "append": (BASICS, ALL, {"locks"}),
    "writer": (ALL, ALL, {"locks"}),
    "reader": (ALL, {"locks"}, {"locks"}),
    "put": (BASICS, ALL, {"locks"}),
    "nothing": (NONE, NONE, NONE),
}


@pytest.mark.parametrize("credential", MAY)
def test_rights(gateway: Served, store: ObjectStore, credential: str) -> None:
    """A2, H2: each right alone, and put-only whatever else is held."""
    may_read, may_create, may_delete = MAY[credential]
    for kind in sorted(ALL):
        there = b"there already " + kind.encode()
        assert put(gateway, kind, there) == 200
        name = hashlib.sha256(there).hexdigest()
        for method in ("GET", "HEAD"):
            got = gateway.ask(method, url(kind, name), credential)
            only_size = method == "HEAD" and kind == "data" and "data" in may_create
            allowed = kind in may_read or only_size
            assert got.status_code == (200 if allowed else 403), (method, kind)
            if not allowed:
                assert there not in got.content
        if kind != "config":
            listed = gateway.ask("GET", f"/restic/repo/{kind}/", credential)
            assert listed.status_code == (200 if kind in may_read else 403), kind
            assert put(gateway, kind, b"new", credential) == (200 if kind in may_create else 403)
        elif kind in may_create:
            assert put(gateway, kind, b"another", credential) == 409
        gone = gateway.ask("DELETE", url(kind, name), credential)
        assert gone.status_code == (200 if kind in may_delete else 403), kind
        left = {info.key for info in store.list("")}
        assert (key(kind, name) in left) == (kind not in may_delete)
        store.delete(key(kind, name))


def test_the_foreign_the_unknown_and_the_impossible_look_the_same(gateway: Served) -> None:
    """A4: nothing tells whether something of another account exists."""
    assert put(gateway, "config", credential="full") == 200
    answers = []
    for repository_id in ("foreign", "unknown", "%2e%2e", "a" * 65, "x%00y"):
        for method in ("GET", "POST", "DELETE"):
            answer = gateway.ask(method, f"/restic/{repository_id}/config", content=b"")
            headers = {k: v for k, v in answer.headers.items() if k not in ("date", "server")}
            answers.append((answer.status_code, headers["content-type"]))
    assert set(answers) == {(404, "text/plain; charset=utf-8")}
    theirs = [gateway.ask("GET", url("config", repository_id="repo"), "stranger") for _ in "12"]
    unknown = gateway.ask("GET", url("config", repository_id="unknown"), "stranger")
    assert {each.content for each in theirs} == {unknown.content}


def test_names_lead_nowhere_else(gateway: Served, store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    store.create("config", b"x")
    for path in (
        "data/..%2f..%2fsecret",
        "data/%2e%2e",
        "..%2fsecret",
        "locks/" + "AB" * 32,
        "data/" + "ab" * 31,
        f"data/{OTHER}-tmp-1",
        f"other/{OTHER}",
        f"archives/{OTHER}",
        "config/",
        f"data/ab/{OTHER}",
    ):
        for method in ("GET", "POST", "DELETE"):
            answer = gateway.ask(method, f"/restic/repo/{path}", content=b"")
            assert answer.status_code in (404, 405), (method, path)
    assert {info.key for info in store.list("")} == {"config"}


def test_ways_to_give_a_credential(gateway: Served) -> None:
    path = url("config")
    assert put(gateway, "config") == 200
    nobody = gateway.ask("GET", path, None)
    assert nobody.status_code == 401
    assert nobody.headers["WWW-Authenticate"].startswith("Basic realm=")
    gateway.authority.allow("with:colon", "read")
    for user, password, status in (
        ("any", "full", 200),
        ("", "full", 200),
        ("full", "wrong", 401),
        ("x", "with:colon", 200),
        ("x", "", 401),
    ):
        assert gateway.client.get(path, auth=(user, password)).status_code == status
    for header in ("Basic !!!", "Basic " + b64encode(b"\xff:\xff").decode(), "Digest x", ""):
        assert gateway.ask("GET", path, None, headers={"Authorization": header}).status_code == 401
    cookie = {"Cookie": "holdfast_session=full"}
    assert gateway.ask("GET", path, None, headers=cookie).status_code == 200
    # A page elsewhere could make a browser send this with the cookie.
    assert gateway.ask("DELETE", path, None, headers=cookie).status_code == 401
    assert gateway.ask("POST", path, None, headers=cookie, content=b"").status_code == 401


LARGE = bytes(range(256)) * 4 * 1024 * 9 + b"end"


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-", 0, None),
        ("bytes=0-0", 0, 1),
        ("bytes=5-1000", 5, 1001),
        ("bytes=100-4194403", 100, 4194404),
        ("bytes=1-5000000", 1, 5000001),
        ("bytes=4194304-8388607", 4194304, 8388608),
        ("bytes=9437180-", 9437180, None),
        ("bytes=9437180-99999999", 9437180, None),
        ("bytes=3-99999999", 3, None),
        ("bytes=-7", len(LARGE) - 7, None),
        ("bytes=-99999999", 0, None),
    ],
)
def test_a_range_gives_exactly_those_bytes(
    gateway: Served, store: ObjectStore, asked: str, start: int, end: int | None
) -> None:
    store.create(key("data"), LARGE)
    got = gateway.ask("GET", url("data"), headers={"Range": asked})
    assert got.status_code == 206
    assert got.content == LARGE[start:end]
    stop = start + len(got.content) - 1
    begin, _, total = got.headers["Content-Range"].partition("/")
    assert begin == f"bytes {start}-{stop}"
    assert total in ("*", str(len(LARGE)))


def test_ranges_that_cannot_be_given(gateway: Served, store: ObjectStore) -> None:
    store.create(key("data"), LARGE)
    for asked in (f"bytes={len(LARGE)}-", f"bytes={len(LARGE)}-{len(LARGE) + 5}", "bytes=-0"):
        assert gateway.ask("GET", url("data"), headers={"Range": asked}).status_code == 416
    for asked in ("bytes=1-2,4-5", "lines=1-2", "bytes=2-1", "bytes=-", "bytes=x-"):
        got = gateway.ask("GET", url("data"), headers={"Range": asked})
        assert (got.status_code, got.content) == (200, LARGE), asked


def test_an_empty_object_is_got_whole(gateway: Served) -> None:
    assert put(gateway, "locks", b"") == 200
    got = gateway.ask("GET", url("locks", hashlib.sha256(b"").hexdigest()))
    assert (got.status_code, got.content) == (200, b"")


def test_bodies_that_are_too_large_or_of_unknown_length(gateway: Served) -> None:
    limit = gateway.room.limits.pack_bytes
    assert limit >= 128 << 20
    for kind, length in (("data", limit + 1), ("keys", (1 << 20) + 1), ("config", 1 << 21)):
        lines = raw(gateway, "POST", url(kind), {"Content-Length": str(length)}, b"x")
        assert lines.startswith(b"HTTP/1.1 413 "), kind
    # httpx sends what it cannot measure in chunks.
    unmeasured = gateway.ask("POST", url("data"), content=iter([BODY]))
    assert unmeasured.status_code == 411


def raw(gateway: Served, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    """Send a request by hand; give the beginning of what comes back."""
    address = urlsplit(gateway.url)
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer full\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        return connection.recv(4096)


def test_an_upload_that_breaks_off_leaves_nothing(gateway: Served, tmp_path: Path) -> None:
    address = urlsplit(gateway.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=30)
    head = f"POST {url('data')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer full\r\n"
    connection.sendall(head.encode() + b"Content-Length: 20000000\r\n\r\n" + bytes(1_000_000))
    deadline = time.monotonic() + 60
    while gateway.room.uploads.taken != 20_000_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    connection.close()
    gateway.settle()
    assert not (tmp_path / "region").exists()


def test_an_upload_that_stalls_is_ended(tmp_path: Path) -> None:
    with served(tmp_path / "region", limits=Limits(stall_seconds=0.3)) as gateway:
        answer = raw(gateway, "POST", url("data"), {"Content-Length": "1000"}, b"x")
        assert answer.startswith(b"HTTP/1.1 408 ")
        gateway.settle()


def test_uploads_wait_for_memory_and_are_told_to_come_back(tmp_path: Path) -> None:
    limits = Limits(upload_memory_bytes=1 << 20, patience_seconds=0.3)
    with served(tmp_path / "region", limits=limits) as gateway:
        address = urlsplit(gateway.url)
        held = socket.create_connection((address.hostname, address.port), timeout=30)
        head = f"POST {url('data')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer full\r\n"
        held.sendall(head.encode() + b"Content-Length: 1000000\r\n\r\nx")
        while not gateway.room.uploads.taken:
            time.sleep(0.01)
        busy = gateway.ask("POST", url("locks"), content=BODY * 40_000)
        assert (busy.status_code, busy.headers["Retry-After"]) == (503, "5")
        # Somebody else's share is free.
        foreign = url("locks", repository_id="foreign")
        assert gateway.ask("POST", foreign, "stranger", content=BODY).status_code == 200
        held.close()
        gateway.settle()
        assert put(gateway, "locks", BODY) == 200


def test_a_store_that_is_away_is_told_as_such(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"access_key_id": "x", "secret_access_key": "y", "region": "r", "attempts": 1}
    with served(f"s3:http://127.0.0.1:{port}/bucket", options=options) as gateway:
        for method in ("GET", "HEAD", "POST", "DELETE"):
            answer = gateway.ask(method, url("locks"), content=BODY if method == "POST" else None)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5"), method
            assert str(port) not in answer.text  # where it lies is the operator's business
        assert gateway.ask("GET", "/restic/repo/index/").status_code == 503
