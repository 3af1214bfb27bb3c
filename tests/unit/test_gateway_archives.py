"""Plain ZIP archives through the gateway, in a directory: whole or not there, and by right."""

from __future__ import annotations

import io
import socket
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from gateway_server import Served, served

SNAPSHOT = "3f1c0000-0000-4000-8000-000000000001"
URL = f"/archives/repo/{SNAPSHOT}.zip"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "region") as running:
        yield running


def archive(size: int = 9_000_000) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as written:
        written.writestr("a", bytes(range(256)) * (size // 256))
    return out.getvalue()


def test_an_archive_is_one_plain_object_beside_repositories(
    gateway: Served, tmp_path: Path
) -> None:
    """B8: nothing but the bucket and unzip is needed."""
    body = archive()
    made = gateway.ask("PUT", URL, "append", content=body)
    assert (made.status_code, made.json()) == (201, {"size_bytes": len(body)})
    stored = tmp_path / "region" / "archives" / "repo" / f"{SNAPSHOT}.zip"
    assert stored.read_bytes() == body
    with zipfile.ZipFile(stored) as read:
        assert read.testzip() is None
    got = gateway.ask("GET", URL, "reader")
    assert (got.status_code, got.content) == (200, body)
    assert got.headers["Content-Type"] == "application/zip"
    head = gateway.ask("HEAD", URL, "reader")
    assert head.headers["Content-Length"] == str(len(body))
    part = gateway.ask("GET", URL, "reader", headers={"Range": "bytes=5000000-5000009"})
    assert (part.status_code, part.content) == (206, body[5_000_000:5_000_010])
    # Never replaced.
    assert gateway.ask("PUT", URL, "append", content=b"other").status_code == 409
    assert stored.read_bytes() == body
    assert gateway.ask("DELETE", URL, "full").status_code == 204
    assert gateway.ask("GET", URL, "reader").status_code == 404
    assert gateway.ask("DELETE", URL, "full").status_code == 204


def test_a_stream_of_unknown_length(gateway: Served) -> None:
    body = archive()
    pieces = (body[at : at + 100_001] for at in range(0, len(body), 100_001))
    assert gateway.ask("PUT", URL, content=pieces).status_code == 201
    assert gateway.ask("GET", URL).content == body


@pytest.mark.parametrize(
    ("credential", "statuses"),
    [
        ("full", (200, 201, 204)),
        ("append", (403, 201, 403)),
        ("reader", (200, 403, 403)),
        ("put", (403, 201, 403)),
        ("nothing", (403, 403, 403)),
        ("stranger", (404, 404, 404)),
        ("unknown", (401, 401, 401)),
    ],
)
def test_rights(gateway: Served, credential: str, statuses: tuple[int, int, int]) -> None:
    """A2, A4, H2."""
    other = f"/archives/repo/{SNAPSHOT[:-1]}2.zip"
    assert gateway.ask("PUT", URL, content=b"there").status_code == 201
    assert gateway.ask("GET", URL, credential).status_code == statuses[0]
    assert gateway.ask("PUT", other, credential, content=b"new").status_code == statuses[1]
    assert gateway.ask("DELETE", URL, credential).status_code == statuses[2]
    assert gateway.ask("GET", URL).status_code == (404 if statuses[2] == 204 else 200)


def test_names_lead_nowhere_else(gateway: Served, tmp_path: Path) -> None:
    for name in ("x", "x.tar", "..%2fx.zip", ".zip", "a.b.zip", "x.zip%00", "a" * 65 + ".zip"):
        answer = gateway.ask("PUT", f"/archives/repo/{name}", content=b"x")
        assert answer.status_code == 404, name
    assert not (tmp_path / "region").exists()


@pytest.mark.parametrize("length", ["Content-Length: 20000000", "Transfer-Encoding: chunked"])
def test_an_upload_that_breaks_off_leaves_nothing(
    gateway: Served, tmp_path: Path, length: str
) -> None:
    address = urlsplit(gateway.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=30)
    head = f"PUT {URL} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer full\r\n{length}\r\n\r\n"
    body = bytes(9_000_000)
    if "chunked" in length:
        body = b"%x\r\n%b\r\n" % (len(body), body)
    connection.sendall(head.encode() + body)
    directory = tmp_path / "region" / "archives" / "repo"
    deadline = time.monotonic() + 60
    while not (directory.is_dir() and list(directory.iterdir())):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert gateway.ask("GET", URL).status_code == 404  # while it arrives
    connection.close()
    gateway.settle()
    assert list(directory.iterdir()) == []
    assert gateway.ask("PUT", URL, content=b"now").status_code == 201
