"""A gateway as its clients see it: a real server on a port of loopback, and who may use it.

The authority is a table of grants, an implementation of the protocol like any other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from sample_repository import PASSWORD

from holdfast.errors import NotFound, NotSignedIn
from holdfast.gateway.app import make_app
from holdfast.gateway.authority import Authority, Grant
from holdfast.gateway.workroom import Limits, Workroom
from holdfast.store.location import open_store
from holdfast.store.options import StoreOptions
from holdfast.store.protocol import ObjectStore

FULL = frozenset({"append", "read", "delete"})


@dataclass
class Table:
    """An `Authority`: which credential has which rights in which account, and what is whose."""

    credentials: dict[str, tuple[str, frozenset[str], bool]] = field(default_factory=dict)
    repositories: dict[str, Grant] = field(default_factory=dict)
    snapshots: dict[str, Grant] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add_repository(
        self, repository_id: str, location: str, *, account: str = "ours", **options: Any
    ) -> None:
        self.repositories[repository_id] = Grant(
            account, "", frozenset(), repository_id, location, options=options
        )

    def add_snapshot(
        self, snapshot_id: str, repository_id: str, manifest_id: str | None, **more: Any
    ) -> None:
        self.snapshots[snapshot_id] = replace(
            self.repositories[repository_id],
            password=PASSWORD,
            manifest_id=manifest_id,
            **more,
        )

    def allow(
        self, credential: str, *rights: str, account: str = "ours", put_only: bool = False
    ) -> str:
        self.credentials[credential] = (account, frozenset(rights), put_only)
        return credential

    def resolve(
        self,
        credential: str,
        *,
        repository_id: str | None = None,
        snapshot_id: str | None = None,
    ) -> Grant:
        self.asked.append(credential)
        if credential not in self.credentials:
            raise NotSignedIn("This credential is unknown.")
        account, rights, put_only = self.credentials[credential]
        known = self.repositories if repository_id is not None else self.snapshots
        grant = known.get(repository_id or snapshot_id or "")
        if grant is None or grant.account_id != account:
            raise NotFound("There is no such thing.")
        return replace(grant, principal=credential, rights=rights, put_only=put_only)


class Served:
    """A running gateway and a client of it."""

    def __init__(self, url: str, room: Workroom, authority: Table) -> None:
        self.url, self.room, self.authority = url, room, authority
        self.client = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def restic(self, credential: str, repository_id: str = "repo") -> str:
        """The repository as plain restic is told of it."""
        return f"rest:{self.url.replace('://', f'://any:{credential}@')}/restic/{repository_id}/"

    def ask(
        self, method: str, path: str, credential: str | None = "full", **more: Any
    ) -> httpx.Response:
        """One request, with the credential as a bearer token."""
        headers: Mapping[str, str] = more.pop("headers", {})
        if credential is not None:
            headers = {"Authorization": f"Bearer {credential}", **headers}
        return self.client.request(method, path, headers=headers, **more)

    def settle(self) -> None:
        """Wait until no request holds anything."""
        budgets = (self.room.uploads, self.room.downloads, self.room.exports)
        deadline = time.monotonic() + 60
        while any(budget.taken for budget in budgets):
            assert time.monotonic() < deadline, "a request that is over holds something"
            time.sleep(0.01)


@contextmanager
def serving(authority: Authority, **more: Any) -> Iterator[tuple[str, Workroom]]:
    """Run a gateway until the end; yield its address, and what is inside."""
    app = make_app(authority, **more)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="critical", ws="none", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="gateway-under-test")
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive(), "the gateway did not start"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", app.state.workroom
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the gateway did not end"


@contextmanager
def served(
    location: str | Path,
    *,
    limits: Limits | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Served]:
    """A gateway with the repository ``repo`` in a region, and a credential for each role."""
    table = Table()
    table.add_repository("repo", str(location), **(options or {}))
    table.add_repository("foreign", str(location), account="theirs", **(options or {}))
    table.allow("full", *FULL)
    table.allow("append", "append")
    table.allow("writer", "append", "read")
    table.allow("reader", "read")
    table.allow("put", *FULL, put_only=True)
    table.allow("nothing")
    table.allow("stranger", *FULL, account="theirs")
    with serving(table, limits=limits or Limits()) as (url, room):
        running = Served(url, room, table)
        try:
            yield running
        finally:
            running.client.close()


def store_at(location: str | Path, options: Mapping[str, Any] | None = None) -> ObjectStore:
    """The store of the repository ``repo`` in a region, past the gateway."""
    place = f"{location}/repositories/repo"
    return open_store(place, StoreOptions(**(options or {})), environment={})
