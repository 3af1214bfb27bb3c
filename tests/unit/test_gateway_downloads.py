"""Reading snapshots through the gateway: trees, files, folders, archives, differences."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import socket
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, urlsplit

import httpx
import pytest
from backup_sample import BackedUp, snapshot_of
from gateway_server import Served, served
from handmade_snapshot import Handmade
from sample_repository import flip

from holdfast.repo.repository import FileKind
from holdfast.store.local import LocalStore

ODD = b"\xff\xfe odd"
UNICODE = "Ünï €\u202e\n.txt"
LARGE = random.Random(1).randbytes(5_000_000)


class World(BackedUp):
    """A backed up directory, the gateway before it, and a snapshot id for every backup."""

    gateway: Served

    def __init__(self, base: Path) -> None:
        super().__init__(base, LocalStore(str(base / "region/repositories/repo")))

    def save(self, snapshot_id: str, **more: Any) -> str:
        """Back the directory up again; its manifest id."""
        manifest = snapshot_of(self.run()).id
        self.gateway.authority.add_snapshot(
            snapshot_id,
            "repo",
            manifest,
            **{"captured_path": str(self.source), "name": "nightly", **more},
        )
        return manifest

    def get(self, what: str, credential: str = "full", **more: Any) -> httpx.Response:
        return self.gateway.ask("GET", f"/data/v1/snapshots/{what}", credential, **more)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.fill({"a.txt": b"hello", "dir/b.bin": 1000, "dir/deep/c": b"", "large": LARGE})
    Path(os.fsdecode(os.fsencode(world.source) + b"/" + ODD)).write_bytes(b"odd content")
    (world.source / UNICODE).write_bytes(b"unicode content")
    (world.source / "link").symlink_to("a.txt")
    os.mkfifo(world.source / "pipe")
    with served(tmp_path / "region") as gateway:
        world.gateway = gateway
        world.save("one")
        yield world
        gateway.settle()


# Trees


def test_the_entries_of_a_directory(world: World) -> None:
    """S2: browse the file tree of any snapshot."""
    document = world.get("one/tree").json()
    assert document["path"] == ""
    assert document["entry"]["kind"] == "directory"
    entries = {entry["name"]: entry for entry in document["entries"]}
    names = ["a.txt", "dir", "large", "link", "pipe", UNICODE, "\\xff\\xfe odd"]
    assert [entry["name"] for entry in document["entries"]] == names
    assert entries["a.txt"]["size_bytes"] == 5
    assert entries["a.txt"]["kind"] == "file"
    assert entries["a.txt"]["mtime"].startswith("20")
    assert (entries["link"]["kind"], entries["link"]["link_target"]) == ("symlink", "a.txt")
    assert entries["pipe"]["kind"] == "fifo"
    odd = entries["\\xff\\xfe odd"]["name_base64"]
    assert "name_base64" not in entries["a.txt"]
    assert document["next_cursor"] is None
    by_base64 = world.get("one/file", params={"path_base64": odd})
    assert by_base64.content == b"odd content"
    by_bytes = world.get(f"one/file?path={quote_from_bytes(ODD)}")
    assert by_bytes.content == b"odd content"
    assert "filename*=UTF-8''%25FF%25FE%20odd" in by_bytes.headers["Content-Disposition"]
    below = world.get("one/tree", params={"path": "/dir//./deep/"}).json()
    assert (below["path"], [e["name"] for e in below["entries"]]) == ("dir/deep", ["c"])
    itself = world.get("one/tree", params={"path": "a.txt"}).json()
    assert (itself["entry"]["name"], itself["entries"]) == ("a.txt", [])


def test_a_tree_in_pages(world: World) -> None:
    whole = world.get("one/tree").json()["entries"]
    for limit in (1, 2, 3, len(whole), len(whole) + 1):
        found: list[Any] = []
        cursor = ""
        while True:
            page = world.get("one/tree", params={"limit": limit, "cursor": cursor}).json()
            assert len(page["entries"]) <= limit
            found += page["entries"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert found == whole


def test_a_snapshot_of_a_whole_file_system_hides_our_own_document(world: World) -> None:
    world.save("all", captured_path="/")
    world.save("unset", captured_path=None)
    for snapshot_id in ("all", "unset"):
        names = [entry["name"] for entry in world.get(f"{snapshot_id}/tree").json()["entries"]]
        assert names == [str(world.source).split("/")[1]]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("tree?path=missing", 404, "not_found"),
        ("tree?path=a.txt/below", 404, "not_found"),
        ("tree?path=../..", 400, "usage"),
        ("tree?path=a%00b", 400, "usage"),
        ("tree?limit=0", 400, "usage"),
        ("tree?limit=x", 400, "usage"),
        ("tree?limit=99999999999999", 400, "usage"),
        ("tree?cursor=%21", 400, "usage"),
        ("file", 400, "usage"),
        ("file?path=dir", 400, "usage"),
        ("file?path=link", 400, "usage"),
        ("file?path=pipe", 400, "usage"),
        ("file?path=missing", 404, "not_found"),
        ("folder?path=a.txt", 400, "usage"),
        ("folder?path=missing", 404, "not_found"),
        ("folder?format=rar", 400, "usage"),
        ("diff", 404, "not_found"),
        ("diff?with=one&cursor=-1", 400, "usage"),
        ("diff?with=one&totals=maybe", 400, "usage"),
        ("diff?with=one&path=missing", 404, "not_found"),
    ],
)
def test_what_cannot_be_given(world: World, query: str, status: int, code: str) -> None:
    answer = world.get(f"one/{query}")
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "code"}
    assert (problem["status"], problem["code"]) == (status, code)


# Who may


def test_only_who_may_read_and_the_foreign_is_not_there(world: World) -> None:
    """A4, H2: the same answer for what is another's and for what is not."""
    for path in ("tree", "file?path=a.txt", "folder", "archive", "diff?with=one"):
        for credential, status in (
            ("reader", 200),
            ("append", 403),
            ("put", 403),
            ("nothing", 403),
            ("stranger", 404),
            ("unknown", 401),
        ):
            assert world.get(f"one/{path}", credential).status_code == status, (path, credential)
    foreign = world.get("one/tree", "stranger")
    missing = world.get("none/tree", "stranger")
    malformed = world.get("%2e%2e/tree", "stranger")
    assert foreign.json() == missing.json() | {"detail": foreign.json()["detail"]}
    assert foreign.content == missing.content
    assert malformed.status_code == 404
    assert world.get("one/tree", "unknown").headers["WWW-Authenticate"].startswith("Bearer")
    world.gateway.authority.add_snapshot("theirs", "foreign", "ab" * 32)
    assert world.get("one/diff?with=theirs").status_code == 404
    both = world.gateway.ask("GET", "/data/v1/versions?snapshot_ids=one,theirs&path=a.txt")
    assert both.status_code == 404


def test_a_snapshot_without_data_says_so(world: World) -> None:
    world.gateway.authority.add_snapshot("running", "repo", None, status="RUNNING")
    answer = world.get("running/tree")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_ready")
    assert "RUNNING" in answer.json()["detail"]
    world.gateway.authority.add_snapshot("purged", "repo", "ab" * 32)
    assert world.get("purged/tree").status_code == 404


def test_a_snapshot_made_after_the_index_was_opened_is_found(world: World) -> None:
    assert world.get("one/tree").status_code == 200
    world.fill({"later": 70_000}, seed=5)
    world.save("two")
    assert world.get("two/file?path=later").content == (world.source / "later").read_bytes()


# Files


def test_a_file_whole_and_by_ranges(world: World) -> None:
    whole = world.get("one/file?path=large")
    assert whole.content == LARGE
    assert whole.headers["Content-Length"] == str(len(LARGE))
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in whole.headers["Content-Security-Policy"]
    assert whole.headers["Content-Type"] == "application/octet-stream"
    assert whole.headers["Content-Disposition"].startswith('attachment; filename="large"')
    for asked, part in (
        ("bytes=0-0", LARGE[:1]),
        ("bytes=1000000-3999999", LARGE[1_000_000:4_000_000]),
        ("bytes=4999990-", LARGE[4_999_990:]),
        ("bytes=-10", LARGE[-10:]),
        ("bytes=2500000-2500000", LARGE[2_500_000:2_500_001]),
        ("bytes=7-99999999", LARGE[7:]),
    ):
        got = world.get("one/file?path=large", headers={"Range": asked})
        assert (got.status_code, got.content) == (206, part), asked
        at = LARGE.index(part) if len(part) > 8 else None
        if at is not None:
            stop = at + len(part) - 1
            assert got.headers["Content-Range"] == f"bytes {at}-{stop}/{len(LARGE)}"
    beyond = world.get("one/file?path=large", headers={"Range": "bytes=5000000-"})
    assert beyond.status_code == 416


def test_tags_of_content(world: World) -> None:
    first = world.get("one/file?path=large")
    tag = first.headers["ETag"]
    same = world.get("one/file?path=large", headers={"If-None-Match": f'"x", {tag}'})
    assert (same.status_code, same.content) == (304, b"")
    ranged = {"Range": "bytes=0-9"}
    assert world.get("one/file?path=large", headers={**ranged, "If-Range": tag}).status_code == 206
    other = world.get("one/file?path=large", headers={**ranged, "If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, LARGE)
    entries = world.get("one/tree").json()["entries"]
    assert f'"{next(e["etag"] for e in entries if e["name"] == "large")}"' == tag


def test_an_empty_file(world: World) -> None:
    got = world.get("one/file?path=dir/deep/c")
    assert (got.status_code, got.content, got.headers["Content-Length"]) == (200, b"", "0")


def test_head_says_what_get_would(world: World) -> None:
    for path in ("file?path=large", "folder?path=dir", "archive?format=tar", "tree"):
        head = world.gateway.ask("HEAD", f"/data/v1/snapshots/one/{path}")
        got = world.get(f"one/{path}")
        assert (head.status_code, head.content) == (200, b"")
        for name in ("Content-Type", "Content-Disposition", "ETag"):
            assert head.headers.get(name) == got.headers.get(name), (path, name)
        if "Content-Length" in head.headers:
            assert int(head.headers["Content-Length"]) == len(got.content)


# Archives


def test_the_whole_as_a_zip_that_every_tool_opens(world: World, tmp_path: Path) -> None:
    """B7: download as a standard ZIP, with names of every kind."""
    got = world.get("one/archive")
    assert got.headers["Content-Type"] == "application/zip"
    assert 'filename="nightly.zip"' in got.headers["Content-Disposition"]
    with zipfile.ZipFile(io.BytesIO(got.content)) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        assert names == {
            f"source/{name}"
            for name in ("", "a.txt", "dir/", "dir/b.bin", "dir/deep/", "dir/deep/c", "large")
        } | {"source/link", f"source/{UNICODE}", "source/%FF%FE odd"}
        assert archive.read("source/large") == LARGE
        assert archive.read("source/%FF%FE odd") == b"odd content"
        assert archive.read(f"source/{UNICODE}") == b"unicode content"
    path = tmp_path / "whole.zip"
    path.write_bytes(got.content)
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-tqq", str(path)], check=True, timeout=60)


def test_a_folder_as_tar(world: World) -> None:
    got = world.get("one/folder?path=dir&format=tar")
    assert 'filename="dir.tar"' in got.headers["Content-Disposition"]
    with tarfile.open(fileobj=io.BytesIO(got.content)) as archive:
        assert sorted(archive.getnames()) == ["dir", "dir/b.bin", "dir/deep", "dir/deep/c"]
    whole = world.get("one/folder?format=tar").content
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        assert "source/pipe" in archive.getnames()  # what ZIP has no place for


def test_a_file_that_was_captured_itself(world: World) -> None:
    world.save("file", captured_path=str(world.source / "a.txt"), name="")
    assert world.get("file/file").content == b"hello"
    got = world.get("file/archive")
    assert 'filename="a.txt.zip"' in got.headers["Content-Disposition"]
    with zipfile.ZipFile(io.BytesIO(got.content)) as archive:
        assert archive.namelist() == ["a.txt"]


@pytest.mark.slow
def test_a_zip_of_more_than_four_gibibytes(world: World, tmp_path: Path) -> None:
    """B7: ZIP64, streamed; the file is one blob of zeroes, many times."""
    size = (4 << 30) + (8 << 20)
    with Handmade(world.repository) as made:
        zeroes = made.make.file(b"huge", bytes(8 << 20))
        huge = zeroes._replace(content=zeroes.content * (size >> 23), size=size)
        snapshot = made.snapshot([huge, made.make.file(b"behind", b"small")])
    world.gateway.authority.add_snapshot("huge", "repo", snapshot.id)
    path = tmp_path / "huge.zip"
    with (
        world.gateway.client.stream(
            "GET", "/data/v1/snapshots/huge/archive", auth=("", "full"), timeout=200
        ) as got,
        path.open("wb") as out,
    ):
        for piece in got.iter_raw():
            out.write(piece)
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("huge").file_size == size
        assert archive.read("behind") == b"small"


# Damage, and clients that leave


def test_damage_is_never_taken_for_success(world: World) -> None:
    """A file and archives with a damaged blob break off, or are refused before they begin."""
    noise = random.Random(7).randbytes(30_000_000)
    world.fill({"noise": noise})
    world.save("two")
    store = world.repository.store
    packs = sorted((info.size_bytes, info.key) for info in store.list("data/"))
    flip(store, packs[-1][1], packs[-1][0] // 2)
    broken = 0
    for path in ("file?path=noise", "archive?format=zip", "archive?format=tar"):
        try:
            got = world.get(f"two/{path}")
        except httpx.RemoteProtocolError:
            broken += 1
        else:
            assert (got.status_code, got.json()["code"]) == (500, "damaged")
    assert broken >= 1
    for info in list(store.list("data/")):
        flip(store, info.key, info.size_bytes // 2)
    small = world.get("one/file?path=large")
    assert (small.status_code, small.json()["code"]) == (500, "damaged")
    assert world.get("one/tree").status_code in (200, 500)


def test_a_client_that_leaves_ends_what_was_made_for_it(world: World) -> None:
    world.fill({"noise": 60_000_000})
    world.save("two")
    for path in ("file?path=noise", "archive?format=zip"):
        address = urlsplit(world.gateway.url)
        connection = socket.create_connection((address.hostname, address.port), timeout=30)
        head = f"GET /data/v1/snapshots/two/{path} HTTP/1.1\r\nHost: x\r\n"
        connection.sendall(head.encode() + b"Authorization: Bearer full\r\n\r\n")
        connection.recv(1000)
        assert world.gateway.room.exports.taken == 1
        connection.close()
        world.gateway.settle()


def test_a_slow_client_does_not_make_the_gateway_grow(world: World) -> None:
    world.fill({"noise": 60_000_000})
    world.save("two")
    with world.gateway.client.stream(
        "GET", "/data/v1/snapshots/two/file?path=noise", auth=("", "full")
    ) as got:
        pieces = got.iter_raw()
        total = len(next(pieces))
        time.sleep(0.3)
        threads = [t for t in world_threads() if t.startswith("pump-")]
        assert threads == ["pump-export"]  # it waits and has not run to its end
        total += sum(map(len, pieces))
    assert total == 60_000_000


def world_threads() -> list[str]:
    import threading

    return [thread.name for thread in threading.enumerate()]


# Differences and versions


def change(world: World) -> None:
    (world.source / "a.txt").write_bytes(b"hello again")
    (world.source / "dir/b.bin").unlink()
    (world.source / "new").mkdir()
    (world.source / "new/file").write_bytes(b"12345")
    os.chmod(world.source / "large", 0o600)
    world.save("two")


def test_differences_between_two_snapshots(world: World) -> None:
    """S2: compare two snapshots."""
    change(world)
    document = world.get("one/diff?with=two&totals=true").json()
    changes = {entry["path"]: entry for entry in document["changes"]}
    kinds = {path: entry["change"] for path, entry in changes.items()}
    assert kinds["a.txt"] == "modified"
    assert kinds["dir/b.bin"] == "removed"
    assert kinds["new"] == kinds["new/file"] == "added"
    assert kinds["large"] == "metadata"
    assert changes["a.txt"]["growth_bytes"] == 6
    assert changes["a.txt"]["old"]["size_bytes"] == 5
    assert changes["dir/b.bin"]["new"] is None
    assert document["totals"]["files"]["added"] == 1
    assert document["totals"]["removed_bytes"] == 1000 + 5
    assert (document["next_cursor"], document["findings"]) == (None, [])
    content = world.get("one/diff?with=two&metadata=false").json()["changes"]
    assert {entry["change"] for entry in content} == {"modified", "removed", "added"}
    found: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = world.get(f"one/diff?with=two&limit=2&cursor={cursor}").json()
        found += page["changes"]
        cursor = page["next_cursor"]
    assert found == document["changes"]
    below = world.get("one/diff?with=two&path=dir").json()["changes"]
    assert [entry["path"] for entry in below] == ["b.bin"]
    back = world.get("two/diff?with=one").json()["changes"]
    assert {e["path"]: e["change"] for e in back}["new/file"] == "removed"


def test_versions_of_a_path(world: World) -> None:
    """S2: find every version of a file."""
    world.save("same")
    change(world)
    (world.source / "a.txt").unlink()
    world.save("three")
    world.gateway.authority.add_snapshot("running", "repo", None)
    ids = ["three", "running", "two", "one", "same", "one"]
    got = world.gateway.ask(
        "POST", "/data/v1/versions", json={"snapshot_ids": ids, "path": "a.txt"}
    ).json()
    assert [version["snapshot_ids"] for version in got["versions"]] == [["one", "same"], ["two"]]
    assert [version["entry"]["size_bytes"] for version in got["versions"]] == [5, 11]
    missing = {each["snapshot_id"]: each["reason"] for each in got["missing"]}
    assert missing == {"three": "no_such_path", "running": "no_data"}
    by_get = world.gateway.ask(
        "GET", "/data/v1/versions", params={"snapshot_ids": ",".join(ids), "path": "a.txt"}
    )
    assert by_get.json() == got


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"snapshot_ids": []}', b'{"snapshot_ids": 5}', b"\xff"]
)
def test_questions_for_versions_that_are_none(world: World, body: bytes) -> None:
    answer = world.gateway.ask("POST", "/data/v1/versions", content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "usage")


def test_content_is_what_was_backed_up(world: World) -> None:
    digest = hashlib.sha256(world.get("one/file?path=large").content).hexdigest()
    assert digest == hashlib.sha256(LARGE).hexdigest()
    assert list(world.repository.ids(FileKind.LOCK)) == []  # reading leaves no locks
