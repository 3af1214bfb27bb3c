"""A copy into another region, from request to restore: a real server, a real keeper there.

Spec line S6: another region's storage, consistent, and restored by plain restic alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from agent_process import wait_until_gone, with_workers
from bucket_server import BucketServer, bucket_server
from restic_program import Restic, restic_named
from sample_repository import fill, flip, packs_holding
from tree_compare import assert_same_tree

from holdfast.agent import AgentSettings, enrol
from holdfast.control import copies, hosts, regions
from holdfast.control.principal import ALL_RIGHTS, Principal
from holdfast.control.tables import Host, Job, Region, Repository, Snapshot, Source
from holdfast.flows.backup import BackupRequest, backup
from holdfast.repo.keyfile import Scrypt
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import FileKind, pack_key
from holdfast.repo.repository import Repository as OpenRepository
from holdfast.store.local import LocalStore

PROGRAM = str(Path(sys.executable).with_name("holdfast"))
SLOW = "10 KB/s"
"""At which a copy of these files takes minutes, and its locks no time."""

_KEPT = ("PATH", "LANG", "TMPDIR", "HOME")


class Regions:
    """A customer's snapshot in the first region, and a keeper of a second one."""

    def __init__(self, base: Path, server: BucketServer) -> None:
        self.base, self.server, self.parts = base, server, server.parts
        self.customer = server.account_named("Customer")
        with self.parts.database.write() as tx:
            self.here = tx.get_one(Region, self.customer.region_id)
            self.there = regions.create(
                tx,
                name="there",
                location=str(base / "there"),
                options=None,
                keys=self.parts.keys,
                now=_now(),
            )
        self.source = self.repository(self.here)
        self.destination = self.repository(self.there)
        self.files = base / "files"
        self.original = self.back_up()
        self.agent: subprocess.Popen[bytes] | None = None
        self.keeper, self.credential = self.enrol_keeper()

    def repository(self, region: Region) -> Repository:
        with self.parts.database.write() as tx:
            return regions.repository_for(
                tx, self.customer.id, region.id, keys=self.parts.keys, now=_now()
            )

    def password(self, repository: Repository) -> str:
        with self.parts.database.read() as tx:
            return regions.password_of(tx, repository, self.parts.keys)

    def place(self, repository: Repository) -> Path:
        """Where a repository lies, past the gateway."""
        region = self.here if repository.region_id == self.here.id else self.there
        return Path(region.location, "repositories", repository.id)

    def opened(self, repository: Repository) -> OpenRepository:
        store = LocalStore(str(self.place(repository)))
        return OpenRepository.open(store, self.password(repository))

    def back_up(self) -> Snapshot:
        """What a run would have left: a snapshot in the repository, and its row."""
        fill(self.files, {"model.bin": 2_500_000, "notes/a.txt": b"words " * 900})
        os.symlink("model.bin", self.files / "latest")
        store = LocalStore(str(self.place(self.source)))
        opened = OpenRepository.create(store, self.password(self.source), scrypt=Scrypt(n=16))
        request = BackupRequest((bytes(self.files),), workers=0, settle_ns=0)
        made = backup(opened, request).snapshot
        assert made is not None
        now, account_id = _now(), self.customer.id
        with self.parts.database.write() as tx:
            host = Host(
                account_id=account_id,
                region_id=self.here.id,
                created_at=now,
                enrolled_at=now,
                name="gpu-7",
                roots=[],
            )
            tx.add(host)
            tx.flush()
            source = Source(
                account_id=account_id, host_id=host.id, path=str(self.files), created_at=now
            )
            tx.add(source)
            tx.flush()
            row = Snapshot(
                account_id=account_id,
                source_id=source.id,
                host_id=host.id,
                repository_id=self.source.id,
                status="COMPLETED",
                created_at=now,
                finished_at=now,
                captured_at=now,
                manifest_id=made.id,
                consistency="per_file",
                files=3,
                logical_bytes=2_505_400,
                stored_bytes=2_500_000,
                share_bytes=2_500_000,
            )
            tx.add(row)
        return row

    def enrol_keeper(self) -> tuple[Host, str]:
        """A machine of the operator's in the second region, enrolled as any other."""
        with self.parts.database.write() as tx:
            _, secret = hosts.invite(
                tx, self.operator(), name="keeper there", keeper=True, now=_now()
            )
        settings = AgentSettings(
            server=self.server.url, state_directory=str(self.base / "keeper" / "state")
        )
        credential = enrol(settings, secret)
        with self.parts.database.write() as tx:
            host = tx.get_one(Host, credential.host_id)
            host.region_id = self.there.id
        return host, credential.secret

    def operator(self) -> Principal:
        return Principal("user", "operator", self.server.account.id, ALL_RIGHTS, operator=True)

    def request(self) -> Snapshot:
        """Ask for the copy as the customer."""
        with self.parts.database.write() as tx:
            return copies.request(
                tx,
                self.server.principal(self.customer),
                self.original.id,
                region_id=self.there.id,
                now=_now(),
                keys=self.parts.keys,
            )

    def start_keeper(self, **settings: str) -> None:
        keeper = self.base / "keeper"
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {
            "HOLDFAST_AGENT_STATE_DIRECTORY": str(keeper / "state"),
            "HOLDFAST_AGENT_CACHE_DIRECTORY": str(keeper / "cache"),
            "HOLDFAST_AGENT_WORKERS": "1",
            **{f"HOLDFAST_AGENT_{name.upper()}": value for name, value in settings.items()},
        }
        with (keeper / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(
                [PROGRAM, "agent", "run", "--log-format", "json"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def kill_keeper(self) -> None:
        """At once, and wait until nothing of it is left."""
        assert self.agent is not None
        processes = with_workers(self.agent.pid)
        self.agent.kill()
        self.agent.wait()
        wait_until_gone(processes)

    def close(self) -> None:
        if self.agent is not None and self.agent.poll() is None:
            self.kill_keeper()

    def job(self, copy: Snapshot) -> Job:
        with self.parts.database.read() as tx:
            return tx.get_one(Job, copy.job_id)

    def again(self, copy: Snapshot) -> Snapshot:
        with self.parts.database.read() as tx:
            return tx.get_one(Snapshot, copy.id)

    def finished(self, copy: Snapshot) -> Snapshot:
        """The copy's row once it has ended."""
        self.wait(lambda: self.again(copy).finished_at is not None)
        return self.again(copy)

    def wait(self, until: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            log = self.base / "keeper" / "agent.log"
            assert time.monotonic() < deadline, log.read_text() if log.exists() else ""
            time.sleep(0.05)

    def ask(self, repository: Repository, path: str, method: str = "GET") -> int:
        """The status of a request to the gateway with the keeper's credential."""
        answer = httpx.request(
            method,
            f"{self.server.url}/restic/{repository.id}/{path}",
            headers={"Authorization": f"Bearer {self.credential}"},
            content=b"bytes" if method == "POST" else None,
            timeout=30,
        )
        return answer.status_code

    def restic(self, repository: Repository, program: str) -> Restic:
        restic = Restic(restic_named(program), self.place(repository))
        restic.environment["RESTIC_PASSWORD"] = self.password(repository)
        return restic


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Regions]:
    with bucket_server(tmp_path / "server") as server:
        made = Regions(tmp_path, server)
        try:
            yield made
        finally:
            made.close()


def _now() -> datetime:
    return datetime.now(UTC)


def check_restored(place: Regions, copy: Snapshot) -> None:
    """Plain restic finds no fault in the other region, and restores what was captured."""
    assert copy.manifest_id is not None
    for program in ("OLD", "NEW"):
        restic = place.restic(place.destination, program)
        restic.check()
    target = place.base / "restored"
    restic.run("restore", copy.manifest_id, "--target", str(target))
    assert_same_tree(place.files, target / place.files.relative_to("/"))


def test_a_keeper_of_the_other_region_pulls_a_copy(place: Regions) -> None:
    """S6: and what it was told to read is out of its reach again afterwards."""
    assert place.ask(place.source, "config") == 404
    place.start_keeper()
    copy = place.finished(place.request())
    assert (copy.status, copy.error_message) == ("COMPLETED", None)
    assert place.opened(place.destination).ids(FileKind.SNAPSHOT) == [copy.manifest_id]
    assert copy.stored_bytes is not None
    assert 2_500_000 < copy.stored_bytes < 2_600_000
    assert copy.read_bytes is not None
    assert copy.read_bytes > 2_500_000
    check_restored(place, copy)
    for repository in (place.source, place.destination):
        assert place.opened(repository).ids(FileKind.LOCK) == []
    # The gateway keeps an answer for some seconds.
    place.wait(lambda: place.ask(place.source, "config") == 404)
    assert place.ask(place.destination, "config") == 200


def test_a_keeper_that_is_killed_in_the_middle_goes_on_where_it_was(place: Regions) -> None:
    """S6: meanwhile it reads the source and changes nothing there."""
    place.start_keeper(limit_upload=SLOW)
    copy = place.request()
    place.wait(lambda: place.job(copy).progress.get("bytes_done", 0) > 0)
    (pack, _), *_ = place.opened(place.source).pack_files()
    held = f"data/{pack.hex()}"
    assert place.ask(place.source, held) == 200
    assert place.ask(place.source, held, "DELETE") == 403
    assert place.ask(place.source, f"data/{'ab' * 32}", "POST") == 403
    place.kill_keeper()
    assert place.opened(place.destination).ids(FileKind.SNAPSHOT) == []

    place.start_keeper()
    # Its lease is given back when it asks anew; nobody waits here for the pause after that.
    place.wait(lambda: place.job(copy).state == "queued")
    with place.parts.database.write() as tx:
        tx.get_one(Job, copy.job_id).not_before = _now()
    done = place.finished(copy)
    assert (done.status, place.job(copy).attempt) == ("COMPLETED", 2)
    assert place.opened(place.destination).ids(FileKind.SNAPSHOT) == [done.manifest_id]
    check_restored(place, done)
    for repository in (place.source, place.destination):
        assert place.opened(repository).ids(FileKind.LOCK) == []


def test_what_is_damaged_where_it_lies_fails_with_its_findings(place: Regions) -> None:
    source = place.opened(place.source)
    for pack in packs_holding(source, BlobType.DATA):
        flip(source.store, pack_key(pack), 1000)
    place.start_keeper()
    copy = place.finished(place.request())
    assert (copy.status, copy.error_code, copy.manifest_id) == ("FAILED", "damaged", None)
    assert [each["code"] for each in copy.findings] == ["pack_damaged", "snapshot_not_copied"]
    assert place.job(copy).attempt == 1, "another attempt would find the same"
    assert place.opened(place.destination).ids(FileKind.SNAPSHOT) == []
