"""The whole engine on a real S3: with worker processes, and through a line that fails."""

from __future__ import annotations

import filecmp
import itertools
import os
import random
import subprocess
import threading
import time
from pathlib import Path

import pytest
from flaky_proxy import Act, Request, flaky_proxy
from radosgw import Radosgw
from sample_repository import CHEAP, PASSWORD

from holdfast.errors import StoreDenied
from holdfast.flows.backup import BackupRequest, backup
from holdfast.flows.prune import PruneRequest, plan_prune, prune
from holdfast.flows.restore import restore
from holdfast.flows.restore_request import RestoreRequest
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.model.finding import Finding
from holdfast.repo.prune_plan import PruneLimits
from holdfast.repo.repository import FileKind, Repository
from holdfast.store.location import open_store
from holdfast.store.protocol import ObjectStore

pytestmark = pytest.mark.xdist_group("radosgw")

RESTIC = os.environ.get("HOLDFAST_RESTIC_NEW", "")


def environment(gateway: Radosgw) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": gateway.access_key,
        "AWS_SECRET_ACCESS_KEY": gateway.secret_key,
        "AWS_REGION": gateway.region,
    }


def store_at(
    gateway: Radosgw, endpoint_url: str, bucket: str, findings: list[Finding] | None = None
) -> ObjectStore:
    return open_store(
        f"s3:{endpoint_url}/{bucket}/repo",
        environment=environment(gateway),
        report_finding=(findings if findings is not None else []).append,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A few thousand bytes in many files, and enough in one for several packs."""
    source = tmp_path / "source"
    chance = random.Random(7)
    for number in range(120):
        file = source / f"d{number % 7}" / f"f{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(chance.randbytes(chance.randrange(5000)))
    (source / "large").write_bytes(chance.randbytes(72 << 20))
    return source


def same(left: Path, right: Path) -> bool:
    comparison = filecmp.dircmp(left, right)
    if comparison.left_only or comparison.right_only or comparison.funny_files:
        return False
    _, mismatch, errors = filecmp.cmpfiles(left, right, comparison.common_files, shallow=False)
    return not (mismatch or errors) and all(
        same(left / name, right / name) for name in comparison.common_dirs
    )


def save(repository: Repository, tree: Path, workers: int = 2) -> str:
    result = backup(repository, BackupRequest((os.fsencode(tree),), workers=workers, settle_ns=0))
    assert result.snapshot is not None
    assert result.findings == ()
    return result.snapshot.id


def bring_back(repository: Repository, snapshot: str, tree: Path, target: Path) -> None:
    result = restore(
        repository,
        RestoreRequest(snapshot, os.fsencode(target), path=os.fsencode(str(tree).lstrip("/"))),
    )
    assert result.findings == ()
    assert same(tree, target)


def test_a_repository_lives_in_s3(radosgw: Radosgw, tree: Path, tmp_path: Path) -> None:
    """Backup, incremental, restore, verify, forget and prune, with caches and spawned workers."""
    bucket = radosgw.make_bucket()
    cache = str(tmp_path / "cache")
    store = store_at(radosgw, radosgw.endpoint_url, bucket)
    repository = Repository.create(store, PASSWORD, scrypt=CHEAP, cache_directory=cache)
    first = save(repository, tree)
    (tree / "d1" / "f1").write_bytes(b"changed")
    second = save(repository, tree)
    bring_back(repository, second, tree, tmp_path / "target")

    result = verify(repository, VerifyRequest(read_data=True))
    assert result.clean
    assert result.packs_read == result.packs > 4

    repository.remove(FileKind.SNAPSHOT, first)
    plan = plan_prune(repository, PruneRequest(PruneLimits(instant=True, max_unused_percent=0)))
    prune(repository, plan)
    again = Repository.open(store, PASSWORD, cache_directory=cache)
    assert verify(again, VerifyRequest(read_data=True)).clean
    bring_back(again, second, tree, tmp_path / "target2")
    if RESTIC:
        subprocess.run(
            [RESTIC, "-r", f"s3:{radosgw.endpoint_url}/{bucket}/repo", "check", "--read-data",
             "--no-cache"],
            env={**os.environ, **environment(radosgw), "RESTIC_PASSWORD": PASSWORD},
            check=True,
            capture_output=True,
        )  # fmt: skip


def test_a_line_that_fails_costs_time_and_nothing_else(
    radosgw: Radosgw, tree: Path, tmp_path: Path
) -> None:
    """Every fifth request meets a reset, a lost answer, a 503 or a delay."""
    acts = itertools.cycle(
        [
            Act("cut_request"),
            Act("answer", status=503, code="SlowDown"),
            Act("lose_answer"),
            Act("delay", seconds=0.3),
            Act("cut_answer"),
            Act("answer", status=500, code="InternalError"),
        ]
    )
    numbers = itertools.count(1)
    lock = threading.Lock()

    def plan(_request: Request) -> Act | None:
        with lock:
            return next(acts) if next(numbers) % 5 == 0 else None

    bucket = radosgw.make_bucket()
    with flaky_proxy(radosgw.endpoint_url) as proxy:
        store = store_at(radosgw, proxy.endpoint_url, bucket)
        repository = Repository.create(store, PASSWORD, scrypt=CHEAP)
        proxy.plan = plan
        snapshot = save(repository, tree)
        bring_back(repository, snapshot, tree, tmp_path / "target")
        struck = [act for _, act in proxy.seen if act is not None]
    assert {act.kind for act in struck} == {
        "cut_request", "answer", "lose_answer", "delay", "cut_answer",
    }  # fmt: skip
    direct = Repository.open(store_at(radosgw, radosgw.endpoint_url, bucket), PASSWORD)
    assert verify(direct, VerifyRequest(read_data=True)).clean


def test_uploads_are_parallel(radosgw: Radosgw, tree: Path) -> None:
    active, most = 0, 0
    lock = threading.Lock()

    def plan(request: Request) -> Act | None:
        nonlocal active, most
        if request.method == "PUT" and "/data/" in request.path:
            with lock:
                active += 1
                most = max(most, active)
            time.sleep(0.5)
            with lock:
                active -= 1
        return None

    bucket = radosgw.make_bucket()
    with flaky_proxy(radosgw.endpoint_url) as proxy:
        repository = Repository.create(
            store_at(radosgw, proxy.endpoint_url, bucket), PASSWORD, scrypt=CHEAP
        )
        proxy.plan = plan
        save(repository, tree)
    assert most >= 2


def test_object_lock_keeps_what_a_prune_would_take(
    radosgw: Radosgw, tree: Path, tmp_path: Path
) -> None:
    """Backups work under a lock; a deletion hides objects, and none is gone."""
    bucket = radosgw.make_bucket(object_lock=True)
    findings: list[Finding] = []
    store = store_at(radosgw, radosgw.endpoint_url, bucket, findings)
    repository = Repository.create(store, PASSWORD, scrypt=CHEAP)
    snapshot = save(repository, tree)
    repository.remove(FileKind.SNAPSHOT, snapshot)
    prune(repository, plan_prune(repository, PruneRequest(PruneLimits(instant=True))))
    client = radosgw.client()
    try:
        versions = client.list_object_versions(Bucket=bucket, Prefix="repo/data/")
        assert versions["Versions"], "the packs are still there, behind delete markers"
        version = versions["Versions"][0]
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            client.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
    finally:
        client.close()


def test_refused_credentials_say_what_to_do(radosgw: Radosgw) -> None:
    bucket = radosgw.make_bucket()
    store = open_store(
        f"s3:{radosgw.endpoint_url}/{bucket}/repo",
        environment={**environment(radosgw), "AWS_SECRET_ACCESS_KEY": "wrong"},
    )
    with pytest.raises(StoreDenied, match="credentials"):
        Repository.create(store, PASSWORD, scrypt=CHEAP)
