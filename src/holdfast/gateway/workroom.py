"""What all routes share: who may, opened stores and repositories, threads and budgets.

Everything below HTTP is synchronous and runs in threads of this room, never in the event
loop. One instance serves one app; `close` ends it.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from holdfast.errors import Forbidden, NotFound
from holdfast.gateway.authority import Authority, Grant, GrantedRight, RecallingAuthority
from holdfast.gateway.budget import Budget
from holdfast.gateway.credential import credential_of
from holdfast.gateway.repositories import Repositories
from holdfast.gateway.stores import Stores
from holdfast.store.protocol import ObjectStore

T = TypeVar("T")

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one gateway process.

    `upload_memory_bytes` are bodies of objects on their way to the store,
    `download_memory_bytes` objects on their way to clients. `exports` is how many files,
    folders and archives are decoded at the same time; each has a thread of its own and takes
    some 30 MB. Of each of these one account gets half. `patience_seconds` is how long a
    request waits for its turn before it is told to come back, `stall_seconds` how long a
    client may neither send nor take a byte.
    """

    upload_memory_bytes: int = 512 << 20
    download_memory_bytes: int = 256 << 20
    exports: int = 16
    threads: int = 32
    index_memory_bytes: int = 1 << 30
    pack_bytes: int = 144 << 20
    patience_seconds: float = 60.0
    stall_seconds: float = 60.0


class Workroom:
    """The gateway without its routes."""

    def __init__(self, authority: Authority, limits: Limits, cache_directory: str | None) -> None:
        self.authority, self.limits = authority, limits
        self._temporary = None
        if cache_directory is None:
            cache_directory = self._temporary = tempfile.mkdtemp(prefix="holdfast-gateway-")
        self.stores = Stores()
        self.repositories = Repositories(self.stores, cache_directory, limits.index_memory_bytes)
        self.uploads = self._budget(limits.upload_memory_bytes)
        self.downloads = self._budget(limits.download_memory_bytes)
        self.exports = self._budget(limits.exports)
        self._threads = ThreadPoolExecutor(limits.threads, thread_name_prefix="gateway")
        # Apart, so that stores that do not answer keep nobody from being refused.
        self._asking = ThreadPoolExecutor(8, thread_name_prefix="gateway-asks")

    def close(self) -> None:
        """End what is idle; what is under way goes on to its end."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._asking.shutdown(wait=True, cancel_futures=True)
        self.repositories.close()
        self.stores.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    async def in_thread(self, act: Callable[[], T]) -> T:
        """Run what blocks. It runs to its end even where the request is given up."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, act)

    async def asking(self, act: Callable[[], T]) -> T:
        """Run what asks the control plane, in threads that do nothing else."""
        return await asyncio.get_running_loop().run_in_executor(self._asking, act)

    async def repository_grant(self, request: Request, repository_id: str) -> Grant:
        """What the request's credential may do with a repository."""
        credential = credential_of(request)
        if _ID.fullmatch(repository_id) is None:
            raise NotFound("There is no such repository.")
        grant = await self._ask(credential, repository_id=repository_id)
        if not grant.rights:
            raise Forbidden("This credential carries no right to this repository.")
        return grant

    async def snapshot_grant(self, request: Request, snapshot_id: str) -> Grant:
        """What it may do with a snapshot; raises `Forbidden` unless that may be read."""
        credential = credential_of(request)
        if _ID.fullmatch(snapshot_id) is None:
            raise NotFound("There is no such snapshot.")
        grant = await self._ask(credential, snapshot_id=snapshot_id)
        grant.require(GrantedRight.READ)
        return grant

    @contextmanager
    def store(self, grant: Grant) -> Iterator[ObjectStore]:
        """Hold the store of a grant's repository; blocks, so in a thread."""
        with self.stores.use(grant.repository_location, grant.options) as store:
            yield store

    @contextmanager
    def region(self, grant: Grant) -> Iterator[ObjectStore]:
        """Hold the store of its region, for what lies beside repositories."""
        with self.stores.use(grant.location, grant.options) as store:
            yield store

    async def _ask(
        self,
        credential: str,
        *,
        repository_id: str | None = None,
        snapshot_id: str | None = None,
    ) -> Grant:
        authority = self.authority
        if isinstance(authority, RecallingAuthority):
            known = authority.recall(
                credential, repository_id=repository_id, snapshot_id=snapshot_id
            )
            if known is not None:
                return known

        def act() -> Grant:
            return authority.resolve(
                credential, repository_id=repository_id, snapshot_id=snapshot_id
            )

        return await self.asking(act)

    def _budget(self, amount: int) -> Budget:
        return Budget(amount, max(1, amount // 2), self.limits.patience_seconds)
