"""Plain restic, the oldest and the newest, against the gateway, over a directory and over S3.

It makes a repository, backs up, restores, checks, forgets and prunes; and it is kept from what
its credential does not carry.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gateway_server import Served, served, store_at
from radosgw import Radosgw
from restic_program import Restic, restic_named
from sample_repository import CHEAP, PASSWORD, contents, expected, fill, reopen, save
from tree_compare import assert_same_tree

from holdfast.errors import NotARepository, StoreDenied
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.repo.repository import Repository
from holdfast.store.location import open_store
from holdfast.store.options import StoreOptions
from holdfast.store.protocol import ObjectStore


@dataclass
class Region:
    """A gateway before a region's store, and that store itself."""

    gateway: Served
    store: ObjectStore
    base: Path
    resources: ExitStack

    def restic(self, program: str, credential: str = "full", repository_id: str = "repo") -> Restic:
        restic = Restic(program, self.base / "unused")
        restic.environment["RESTIC_REPOSITORY"] = self.gateway.restic(credential, repository_id)
        # Each sees what a machine of its own would.
        restic.environment["RESTIC_CACHE_DIR"] = str(self.base / f"cache-{credential}")
        return restic

    def through(self, credential: str) -> ObjectStore:
        """The repository as our own programs reach it."""
        options = StoreOptions(rest_username="any", rest_password=credential, attempts=1)
        store = open_store(f"rest:{self.gateway.url}/restic/repo/", options, environment={})
        self.resources.callback(store.close)
        return store

    def names(self) -> set[str]:
        return {info.key for info in self.store.list("")}


@contextmanager
def region_at(location: str, base: Path, options: dict[str, Any]) -> Iterator[Region]:
    with served(location, options=options) as gateway, ExitStack() as resources:
        store = store_at(location, options)
        resources.callback(store.close)
        yield Region(gateway, store, base, resources)
        gateway.settle()


@pytest.fixture(params=["local", "radosgw"])
def region(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Region]:
    location, options = str(tmp_path / "region"), {}
    if request.param == "radosgw":
        ceph: Radosgw = request.getfixturevalue("radosgw")
        location = f"s3:{ceph.endpoint_url}/{ceph.make_bucket()}/region"
        options = {"access_key_id": ceph.access_key, "secret_access_key": ceph.secret_key}
    with region_at(location, tmp_path, options) as region:
        yield region


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Region]:
    with region_at(str(tmp_path / "region"), tmp_path, {}) as region:
        yield region


@pytest.fixture(params=["OLD", "NEW"])
def program(request: pytest.FixtureRequest) -> str:
    return restic_named(request.param)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    files: dict[str, int | bytes] = {"a": b"one", "sub/b": 3_000_000, "sub/deep/c": 70_000}
    return fill(tmp_path / "source", files)


def test_a_whole_life_through_the_gateway(region: Region, program: str, source: Path) -> None:
    """I2: plain restic keeps working against the repository."""
    restic = region.restic(program)
    restic.run("init")
    (source / "link").symlink_to("a")
    restic.backup(str(source))
    (source / "sub/b").write_bytes(random.Random(2).randbytes(2_000_000))
    (source / "new").write_bytes(b"more")
    second = restic.backup(str(source))
    assert second["files_changed"] == 1
    target = region.base / "restored"
    restic.run("restore", "latest", "--target", str(target))
    assert_same_tree(source, target / str(source).lstrip("/"))
    restic.check()
    before = sum(info.size_bytes for info in region.store.list("data/"))
    restic.run("forget", "--keep-last", "1", "--prune", "--max-unused", "0")
    assert sum(info.size_bytes for info in region.store.list("data/")) < before
    restic.check()
    assert len(restic.snapshots()) == 1
    assert not any(key.startswith("locks/") for key in region.names())
    again = region.base / "restored again"
    restic.run("restore", "latest", "--target", str(again))
    assert_same_tree(source, again / str(source).lstrip("/"))


def test_what_restic_and_holdfast_write_through_it_is_one_repository(
    region: Region, program: str, source: Path
) -> None:
    through = region.through("full")
    repository = Repository.create(through, PASSWORD, scrypt=CHEAP)
    save(repository, source)
    restic = region.restic(program)
    restic.backup(str(source))
    restic.check()
    past = reopen(repository, region.store)
    snapshots, findings = past.snapshots()
    assert not findings
    assert len(snapshots) == 2
    for snapshot in snapshots:
        assert contents(past, snapshot) == expected(source)
    result = verify(repository, VerifyRequest(read_data=True))
    assert not result.findings


def test_who_may_only_append_backs_up_and_erases_nothing(local: Region, source: Path) -> None:
    """H2: deletion is done elsewhere."""
    restic_full = local.restic(restic_named("NEW"))
    restic_full.run("init")
    restic_full.backup(str(source))
    before = local.names()
    restic = local.restic(restic_named("NEW"), "writer")
    (source / "new").write_bytes(b"more")
    restic.backup(str(source))
    assert local.names() > before
    before = local.names()
    restic.run("forget", "latest", fails=True)
    restic.run("forget", "--keep-last", "1", "--prune", fails=True)
    assert {key for key in before if not key.startswith("locks/")} <= local.names()
    for key in sorted(before):
        kind, _, rest = key.partition("/")
        name = rest.rpartition("/")[2]
        path = f"/restic/repo/{kind}/{name}" if rest else "/restic/repo/config"
        assert local.gateway.ask("DELETE", path, "writer").status_code == 403
        body = local.store.read(key) + b"!"
        overwritten = local.gateway.ask("POST", path, "writer", content=body)
        assert overwritten.status_code in (400, 409)
        assert local.store.read(key) == body[:-1]
    restic_full.check()


def test_restic_that_may_only_put_adds_and_reads_nothing_back(
    local: Region, program: str, source: Path
) -> None:
    """H2: a hacked machine can neither read nor erase the past."""
    restic_full = local.restic(program)
    restic_full.run("init")
    restic_full.backup(str(source))
    (source / "new").write_bytes(random.Random(3).randbytes(100_000))
    restic = local.restic(program, "put")
    # Without --force restic reads the last snapshot to compare with.
    restic.backup("--force", str(source))
    assert len(restic_full.snapshots()) == 2
    restic_full.check()
    target = local.base / "restored"
    restic_full.run("restore", "latest", "--target", str(target))
    assert_same_tree(source, target / str(source).lstrip("/"))
    for key in sorted(local.names()):
        kind, _, name = key.rpartition("/")
        kind = kind.partition("/")[0]
        if kind in ("data", "snapshots"):
            answer = local.gateway.ask("GET", f"/restic/repo/{kind}/{name}", "put")
            assert answer.status_code == 403
    for kind in ("data", "snapshots"):
        assert local.gateway.ask("GET", f"/restic/repo/{kind}/", "put").status_code == 403


def test_our_own_engine_may_only_put(local: Region, source: Path) -> None:
    """H2: deduplication works, reading does not."""
    full = local.through("full")
    first = save(Repository.create(full, PASSWORD, scrypt=CHEAP), source)
    stored = sum(info.size_bytes for info in local.store.list("data/"))
    put = local.through("put")
    repository = Repository.open(put, PASSWORD)
    (source / "new").write_bytes(random.Random(3).randbytes(1000))
    second = save(repository, source, parent=None)
    added = sum(info.size_bytes for info in local.store.list("data/")) - stored
    assert added < 100_000  # the rest was known from the index
    past = reopen(repository, local.store)
    assert contents(past, second) == expected(source)
    with pytest.raises(StoreDenied):
        repository.snapshot(first.id)
    pack = next(iter(local.store.list("data/"))).key
    with pytest.raises(StoreDenied):
        put.read(pack)
    with pytest.raises(StoreDenied):
        put.delete(f"snapshots/{first.id}")


def test_the_repository_of_another_account_is_not_there(local: Region, source: Path) -> None:
    """A4: neither for restic nor for our own engine."""
    restic_named("NEW")
    save(Repository.create(local.store, PASSWORD, scrypt=CHEAP), source)
    before = local.names()
    stranger = local.restic(restic_named("NEW"), "stranger")
    missing = local.restic(restic_named("NEW"), "stranger", "missing")
    said = [each.run("snapshots", fails=True) for each in (stranger, missing)]
    assert said[0].replace("repo/", "missing/") == said[1]
    stranger.run("init", fails=True)
    with pytest.raises(NotARepository):
        Repository.open(local.through("stranger"), PASSWORD)
    assert local.names() == before
