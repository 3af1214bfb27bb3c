"""A store behind restic's REST protocol: what is peculiar to it, and what servers get wrong.

The obligations of every store are in tests/contract, against a real gateway.
"""

from __future__ import annotations

import hashlib
import pickle
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from gateway_server import Served, served

from holdfast.errors import (
    HoldfastError,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UsageError,
)
from holdfast.store.location import open_store
from holdfast.store.options import StoreOptions
from holdfast.store.protocol import Buffer, ObjectInfo
from holdfast.store.rest import RestStore
from holdfast.store.retry import RetryingStore

DATA = b"0123456789"
NAME = hashlib.sha256(DATA).hexdigest()
KEY = f"data/{NAME[:2]}/{NAME}"
PROBLEM = "Content-Type: application/problem+json"
PLAIN = StoreOptions(
    rest_username="u",
    rest_password="secret",
    attempts=1,
    stall_timeout_seconds=60,
    timeout_seconds=60,
)


class Scripted:
    """A server that gives prepared answers, one for each request, and keeps the requests."""

    def __init__(self, *answers: bytes) -> None:
        self.requests: list[bytes] = []
        waiting = list(answers)
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                while True:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        part = self.request.recv(65536)
                        if not part:
                            return
                        head += part
                    first, _, body = head.partition(b"\r\n\r\n")
                    lines = first.lower().split(b"\r\n")
                    length = next((int(x[16:]) for x in lines if x[:15] == b"content-length:"), 0)
                    while len(body) < length:
                        body += self.request.recv(65536)
                    outer.requests.append(first)
                    if not waiting:
                        return
                    answer = waiting.pop(0)
                    if answer == b"silence":
                        threading.Event().wait(60)
                        return
                    self.request.sendall(answer)
                    if b"close" in answer or not answer:
                        return

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/repo/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@contextmanager
def scripted(*answers: bytes) -> Iterator[tuple[RestStore, Scripted]]:
    server = Scripted(*answers)
    options = PLAIN
    if b"silence" in answers:
        options = replace(PLAIN, stall_timeout_seconds=0.5, timeout_seconds=0.5)
    store = RestStore(server.url, options)
    try:
        yield store, server
    finally:
        store.close()
        server.close()


# Locations and credentials


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("rest:http://host:8000/", "rest:http://host:8000/"),
        ("rest:https://host/path/repo", "rest:https://host/path/repo/"),
        ("rest:https://host", "rest:https://host/"),
    ],
)
def test_locations(location: str, shown: str) -> None:
    store = open_store(location, environment={})
    assert isinstance(store, RetryingStore)
    assert store.location == shown
    assert (store.shareable, store.fork_safe) == (True, False)
    store.close()


@pytest.mark.parametrize(
    "location",
    ["rest:", "rest:host/path", "rest:ftp://host/", "rest:http:///path", "rest:http://host/a b",
     "rest:http://host/?x=1", "rest:http://host/a/../b/", "rest:http://host/#x",
     "rest:http://user:verysecret@host/", "rest:https://verysecret@host/"],
)  # fmt: skip
def test_locations_that_cannot_be_meant(location: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(location, environment={})
    assert "verysecret" not in caught.value.message


def test_credentials_of_the_environment_are_taken_whole() -> None:
    environment = {"RESTIC_REST_USERNAME": "u", "RESTIC_REST_PASSWORD": "p"}
    with scripted(answer("404 x")) as (_, server):
        store = open_store(f"rest:{server.url}", PLAIN, environment=environment)
        with pytest.raises(ObjectNotFound):
            store.read("config")
        assert b"Basic dTpzZWNyZXQ=" in server.requests[0], "u:secret, not half of each"
        store.close()


def test_it_can_be_pickled_and_shows_no_secret() -> None:
    store = RestStore("http://host/repo/", PLAIN)
    again = pickle.loads(pickle.dumps(store))
    assert again.location == store.location == "rest:http://host/repo/"
    assert "secret" not in repr(store) + repr(PLAIN)
    store.close()
    again.close()


# Keys


@pytest.mark.parametrize("key", ["a", "data/x", "data/ab/cd", "locks/a/b", "config/x", "other/a"])
def test_keys_that_no_server_has_a_place_for(key: str) -> None:
    with scripted() as (store, server):
        for act in (store.read, store.size):
            with pytest.raises(ObjectNotFound, match=key):
                act(key)
        store.delete(key)
        with pytest.raises(UsageError, match="cannot be stored"):
            store.create(key, b"")
        assert server.requests == []


def test_packs_lie_flat_on_the_wire() -> None:
    listing = f'[{{"name":"{NAME}","size":10}},{{"name":"a/b","size":1}}]'.encode()
    with scripted(answer("200 OK"), answer("200 OK", listing), answer("200 OK", listing)) as (
        store,
        server,
    ):
        store.create(KEY, DATA)
        assert list(store.list("data/")) == [ObjectInfo(KEY, 10)]
        assert list(store.list("data/00/")) == []
        assert server.requests[0].startswith(f"POST /repo/data/{NAME} ".encode())
        assert b"if-none-match: *" in server.requests[0].lower()
        assert server.requests[1].startswith(b"GET /repo/data/ ")
        assert b"rest.v2" in server.requests[1]


def test_a_new_repository_is_asked_for_once() -> None:
    ok = answer("200 OK")
    with scripted(ok, ok, ok) as (store, server):
        store.create(f"keys/{NAME}", DATA)
        store.create("config", DATA)
        assert [request.split()[1] for request in server.requests] == [
            b"/repo/?create=true",
            f"/repo/keys/{NAME}".encode(),
            b"/repo/config",
        ]


# What servers answer


def test_a_name_that_is_taken() -> None:
    for taken in ("409 Conflict", "412 Precondition Failed"):
        with scripted(answer(taken)) as (store, _), pytest.raises(ObjectExists, match="data/"):
            store.create(KEY, DATA)


def test_rest_servers_forbidden_is_told_apart_by_a_look() -> None:
    forbidden = answer("403 Forbidden")
    with scripted(forbidden, answer("200 OK")) as (store, server):
        with pytest.raises(ObjectExists):
            store.create(KEY, DATA)
        assert server.requests[1].startswith(b"HEAD ")
    with scripted(forbidden, answer("404 Not Found")) as (store, _), pytest.raises(StoreDenied):
        store.create(KEY, DATA)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("401 x", StoreDenied),
        ("403 x", StoreDenied),
        ("404 x", ObjectNotFound),
        ("413 x", StoreFull),
        ("507 x", StoreFull),
        ("408 x", StoreUnavailable),
        ("429 x", StoreUnavailable),
        ("500 x", StoreUnavailable),
        ("502 x", StoreUnavailable),
        ("503 x", StoreUnavailable),
        ("501 x", StoreError),
        ("400 x", StoreError),
        ("302 x", StoreError),
    ],
)
def test_statuses(status: str, kind: type[HoldfastError]) -> None:
    with scripted(answer(status)) as (store, _), pytest.raises(kind) as caught:
        store.read(KEY)
    assert type(caught.value) is kind
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (answer("403 x", b'{"detail":"It is closed."}', PROBLEM), r"403: It is closed\)"),
        (answer("403 x", b"Try\nlater.", "Content-Type: text/plain"), r"403: Try later\)"),
        (answer("403 x", b"<html>", "Content-Type: text/html"), r"\(403\)"),
        (answer("403 x", b"[]", PROBLEM), r"\(403\)"),
    ],
)
def test_what_a_server_says_is_passed_on(said: bytes, shown: str) -> None:
    with scripted(said) as (store, _), pytest.raises(StoreDenied, match=shown):
        store.read(KEY)


@pytest.mark.parametrize(
    "broken",
    [b"", b"silence", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\nhalf",
     b"rubbish close\r\n\r\n"],
)  # fmt: skip
def test_answers_that_break_off(broken: bytes) -> None:
    with scripted(broken) as (store, _), pytest.raises(StoreUnavailable):
        store.read(KEY)


def test_ranges_are_checked() -> None:
    def part(text: bytes, place: str) -> bytes:
        return answer("206 Partial", text, f"Content-Range: bytes {place}")

    with scripted(part(b"234", "2-4/10")) as (store, server):
        assert store.read(KEY, 2, 3) == b"234"
        assert b"range: bytes=2-4" in server.requests[0].lower()
    with scripted(part(b"89", "8-9/*")) as (store, _):
        assert store.read(KEY, 8, 100) == b"89"
    with scripted(answer("200 OK", DATA)) as (store, _):
        assert store.read(KEY, 2, 3) == b"234", "a server that knows no ranges"
    with scripted(answer("416 x")) as (store, _):
        assert store.read(KEY, 100, 3) == b""
    for wrong in (part(b"012", "0-2/10"), part(b"23", "2-4/10"), part(b"234", "2-9/10")):
        with scripted(wrong) as (store, _), pytest.raises(StoreUnavailable, match="another part"):
            store.read(KEY, 2, 3)


def test_lists_that_are_none() -> None:
    with scripted(answer("404 x")) as (store, _):
        assert list(store.list("locks/")) == [], "a repository that is not there yet"
    for body in (b'["name"]', b"<html>", b'{"a":1}', b'[{"name":"x"}]'):
        with (
            scripted(answer("200 OK", body)) as (store, _),
            pytest.raises(StoreError, match="list"),
        ):
            list(store.list("locks/"))
    with scripted(answer("200 OK", b"null")) as (store, _):
        assert list(store.list("locks/")) == []


def test_a_size_that_is_not_told() -> None:
    silent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with scripted(silent) as (store, _), pytest.raises(StoreError, match="size"):
        store.size(KEY)


def test_a_certificate_to_trust_must_be_one() -> None:
    with pytest.raises(UsageError, match="PEM"):
        RestStore("https://host/", StoreOptions(ca_certificate="rubbish"))


# Against the gateway: rights, and answers that are lost


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as running:
        yield running


def test_rights_are_those_of_the_credential(gateway: Served) -> None:
    """H2: who may only add creates, and neither reads nor deletes."""
    stores = {
        role: RestStore(f"{gateway.url}/restic/repo/", StoreOptions(rest_password=role))
        for role in ("full", "put", "reader", "unknown")
    }
    try:
        stores["put"].create("config", b"x")
        stores["put"].create(KEY, DATA)
        with pytest.raises(StoreDenied):
            stores["put"].read(KEY)
        with pytest.raises(StoreDenied):
            stores["put"].delete(KEY)
        assert stores["put"].read("config") == b"x"
        assert stores["reader"].read(KEY) == DATA
        with pytest.raises(StoreDenied):
            stores["reader"].create(f"index/{NAME}", DATA)
        with pytest.raises(StoreDenied, match="accept the credentials"):
            stores["unknown"].read("config")
        stores["full"].delete(KEY)
    finally:
        for store in stores.values():
            store.close()


def test_a_create_whose_answer_was_lost_is_settled_by_the_content(gateway: Served) -> None:
    options = StoreOptions(rest_password="full")
    inner = RestStore(f"{gateway.url}/restic/repo/", options)

    class Losing(RestStore):
        lost = False

        def create(self, key: str, data: Buffer) -> None:
            if self.lost:
                super().create(key, data)
                return
            self.lost = True
            inner.create(key, data)
            raise StoreUnavailable("the answer was lost")

    losing = Losing(f"{gateway.url}/restic/repo/", options)
    store = RetryingStore(losing, sleep=lambda _seconds: None)
    store.create(KEY, DATA)
    assert inner.read(KEY) == DATA
    with pytest.raises(ObjectExists):
        store.create(KEY, DATA)
    store.close()
    inner.close()
