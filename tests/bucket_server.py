"""A control plane and a gateway behind one port of loopback, for tests of what is in buckets.

Both are the real ones; the gateway asks over HTTP. Tokens and accounts are made past the API.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from sqlalchemy import select

from holdfast.control import buckets, regions, tokens, views
from holdfast.control.principal import ALL_RIGHTS, Principal
from holdfast.control.tables import Account, Host, Region, Repository, Snapshot, Source
from holdfast.flows.backup import BackupRequest, backup
from holdfast.gateway.s3.service import Buckets
from holdfast.repo.keyfile import Scrypt
from holdfast.repo.repository import Repository as OpenRepository
from holdfast.serve.app import GATEWAY_PREFIXES, OneApp, Surface
from holdfast.serve.control_parts import ControlParts
from holdfast.serve.gateway_part import gateway_app
from holdfast.serve.settings import Settings
from holdfast.serve.web_server import WebServer, listen
from holdfast.store.local import LocalStore


@dataclass
class BucketServer:
    """Its address, and what is inside."""

    url: str
    parts: ControlParts
    account: Account
    buckets: Buckets
    data: Path
    clients: list[Any] = field(default_factory=list)

    def account_named(self, name: str) -> Account:
        """Another account in the same region."""
        row = Account(name=name, region_id=self.account.region_id, created_at=_now())
        with self.parts.database.write() as tx:
            tx.add(row)
        return row

    def principal(self, account: Account | None = None) -> Principal:
        owner = account or self.account
        return Principal(
            "user", "somebody", owner.id, ALL_RIGHTS, address="192.0.2.1", request_id="request"
        )

    def token(self, *rights: str, account: Account | None = None) -> tuple[str, str]:
        """A token's id and secret; with all rights where none are named."""
        with self.parts.database.write() as tx:
            row, secret = tokens.issue(
                tx,
                self.principal(account),
                name="test",
                rights=list(rights or ALL_RIGHTS),
                keys=self.parts.keys,
                now=_now(),
            )
        return row.id, secret

    def client(self, token: tuple[str, str] | None = None, **config: Any) -> Any:
        """boto3's client, signing with a token."""
        key, secret = token or self.token()
        usual: dict[str, Any] = {"retries": {"max_attempts": 1}, "read_timeout": 120}
        made = boto3.client(
            "s3",
            endpoint_url=f"{self.url}/s3",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(**(usual | config)),
        )
        self.clients.append(made)
        return made

    def show(self, bucket: str, prefix: str, directory: Path) -> None:
        """Back a directory up, and let it be seen in a bucket below a prefix."""
        now = _now()
        with self.parts.database.write() as tx:
            found = buckets.get(tx, self.principal(), bucket)
            repository = tx.get_one(Repository, found.repository_id)
            region = tx.get_one(Region, repository.region_id)
            password = regions.password_of(tx, repository, self.parts.keys)
            store = LocalStore(f"{region.location}/repositories/{repository.id}")
        if Path(store.location, "config").exists():
            opened = OpenRepository.open(store, password)
        else:
            opened = OpenRepository.create(store, password, scrypt=Scrypt(n=16))
        done = backup(opened, BackupRequest((bytes(directory),), workers=0, settle_ns=0))
        assert done.snapshot is not None
        with self.parts.database.write() as tx:
            found = buckets.get(tx, self.principal(), bucket)
            host = Host(
                account_id=self.account.id,
                region_id=found.region_id,
                created_at=now,
                enrolled_at=now,
                name=f"host of {prefix}{now}",
                roots=[],
            )
            tx.add(host)
            tx.flush()
            source = Source(
                account_id=self.account.id, host_id=host.id, path=str(directory), created_at=now
            )
            tx.add(source)
            tx.flush()
            snapshot = Snapshot(
                account_id=self.account.id,
                source_id=source.id,
                host_id=host.id,
                repository_id=found.repository_id,
                status="COMPLETED",
                created_at=now,
                manifest_id=done.snapshot.id,
                captured_at=now,
                finished_at=now,
            )
            tx.add(snapshot)
            tx.flush()
            views.show(tx, found, prefix, snapshot, now=now)
        self.buckets.forget(bucket)


@contextmanager
def bucket_server(directory: Path) -> Iterator[BucketServer]:
    """A new installation in `directory`."""
    settings = Settings(
        data_directory=str(directory),
        token_requests_per_second=10_000,
        address_requests_per_second=10_000,
        request_burst=10_000,
    )
    directory.mkdir(mode=0o700, exist_ok=True)
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with ExitStack() as stack:
        stack.callback(listener.close)
        parts = ControlParts.open(settings, replica_id="test")
        stack.callback(parts.close)
        deployment = parts.deployment(url)
        gateway = gateway_app(settings, url, parts.gateway_credential(), stack)
        web = WebServer(
            OneApp([Surface(gateway, GATEWAY_PREFIXES), Surface(parts.api(deployment))]), listener
        )
        web.start()
        stack.callback(web.stop)
        stack.callback(deployment.wakeups.close)
        with parts.database.read() as tx:
            account = tx.scalars(select(Account).order_by(Account.created_at)).first()
        assert account is not None
        running = BucketServer(url, parts, account, gateway.state.buckets, directory)
        try:
            yield running
        finally:
            for client in running.clients:
                client.close()


def _now() -> datetime:
    return datetime.now(UTC)
