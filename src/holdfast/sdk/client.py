"""The client of a Holdfast server: one attribute for each resource of the API.

    with Client("https://backup.example.org", token) as client:
        for host in client.hosts.list():
            ...

Results are frozen values, lists are iterators over pages, and what the server refuses is
raised as the error of `holdfast.errors` that it is. Synchronous and thread-safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from holdfast.sdk.accounts import AccountsResource
from holdfast.sdk.audit import AuditResource
from holdfast.sdk.billing import BillingResource
from holdfast.sdk.buckets import BucketsResource
from holdfast.sdk.data import SnapshotData
from holdfast.sdk.drills import DrillsResource
from holdfast.sdk.events import EventsResource
from holdfast.sdk.hosts import HostsResource
from holdfast.sdk.jobs import JobsResource
from holdfast.sdk.me import MyselfResource
from holdfast.sdk.members import MembersResource
from holdfast.sdk.prices import PricesResource
from holdfast.sdk.regions import RegionsResource
from holdfast.sdk.repositories import RepositoriesResource
from holdfast.sdk.restores import RestoresResource
from holdfast.sdk.schedules import SchedulesResource
from holdfast.sdk.snapshots import SnapshotsResource
from holdfast.sdk.sources import SourcesResource
from holdfast.sdk.task_snapshots import TaskSnapshotsResource
from holdfast.sdk.tasks import TasksResource
from holdfast.sdk.tokens import TokensResource
from holdfast.sdk.transport import Transport
from holdfast.sdk.webhooks import WebhooksResource


class Client:
    """Speaks to the server at `url` with `token`.

    `timeout_seconds` bounds connecting and each silence of the server; `attempts` counts
    the tries of one request.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_seconds: float = 30.0,
        attempts: int = 5,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        transport = Transport(
            url, token, timeout_seconds=timeout_seconds, attempts=attempts, pause=pause
        )
        self._transport = transport
        self.url = transport.url
        self.me = MyselfResource(transport)
        self.accounts = AccountsResource(transport)
        self.members = MembersResource(transport)
        self.tokens = TokensResource(transport)
        self.regions = RegionsResource(transport)
        self.repositories = RepositoriesResource(transport)
        self.hosts = HostsResource(transport)
        self.sources = SourcesResource(transport)
        self.schedules = SchedulesResource(transport)
        self.snapshots = SnapshotsResource(transport, pause)
        self.data = SnapshotData(transport, pause)
        self.restores = RestoresResource(transport, pause)
        self.drills = DrillsResource(transport, pause)
        self.tasks = TasksResource(transport, pause)
        self.task_snapshots = TaskSnapshotsResource(transport, pause)
        self.buckets = BucketsResource(transport, pause)
        self.jobs = JobsResource(transport)
        self.events = EventsResource(transport, pause)
        self.webhooks = WebhooksResource(transport)
        self.audit = AuditResource(transport)
        self.prices = PricesResource(transport)
        self.billing = BillingResource(transport)

    def close(self) -> None:
        """Give back connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
