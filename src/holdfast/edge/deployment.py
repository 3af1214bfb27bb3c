"""A deployment: everything that this process was started with, as one value.

The composition root makes it once and puts it on ``app.state.deployment``; all surfaces of
one process share it, and with it their limits and long polls. Services never see it: they
take a transaction, keys and a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Final
from urllib.parse import urlsplit

from holdfast.control.database import Database
from holdfast.control.jobs import LEASE_SECONDS
from holdfast.control.migrate import schema_problem
from holdfast.control.sealing import MasterKeys
from holdfast.edge.last_uses import LastUses
from holdfast.edge.limits import Gates
from holdfast.edge.streams import Streams
from holdfast.edge.wakeups import Wakeups

SESSION_COOKIE: Final = "holdfast_session"


def wall_clock() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one caller may ask of this process.

    Rates are per second, with a burst that may be taken at once. `longest_wait_seconds`
    bounds an agent's long poll, `stream_seconds` how long one event stream stays open
    before its reader comes back with its last event's id.
    """

    max_body_bytes: int = 8 << 20
    address_rate: float = 200.0
    address_burst: int = 1000
    token_rate: float = 50.0
    token_burst: int = 200
    sign_in_rate: float = 0.2
    sign_in_burst: int = 10
    longest_wait_seconds: float = 30.0
    stream_seconds: float = 600.0
    stream_poll_seconds: float = 0.5
    heartbeat_seconds: float = 15.0
    streams_per_account: int = 50


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a process of the control plane works with.

    `public_url` is how people reach the API, `gateway_url` how repositories are reached,
    both without a slash at the end. `lease_seconds` is how long a job stays with a silent
    agent. `trusted_proxies` are the networks whose
    ``X-Forwarded-For`` is believed; addresses in `gateway_networks` are those of our own
    gateways, which ask for everybody and are not limited. `schema_problem` says what is
    wrong with the database's schema, or nothing.
    """

    database: Database
    keys: MasterKeys
    public_url: str
    gateway_url: str
    version: str
    replica_id: str
    clock: Callable[[], datetime] = wall_clock
    limits: Limits = field(default_factory=Limits)
    lease_seconds: int = LEASE_SECONDS
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    gateway_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    schema_problem: Callable[[Database], str | None] = schema_problem
    monotonic: Callable[[], float] = time.monotonic
    gates: Gates = field(init=False)
    uses: LastUses = field(default_factory=LastUses)
    wakeups: Wakeups = field(default_factory=Wakeups)
    streams: Streams = field(default_factory=Streams)

    def __post_init__(self) -> None:
        limits = self.limits
        gates = Gates(
            address=(limits.address_rate, limits.address_burst),
            token=(limits.token_rate, limits.token_burst),
            sign_in=(limits.sign_in_rate, limits.sign_in_burst),
            monotonic=self.monotonic,
        )
        object.__setattr__(self, "gates", gates)
        object.__setattr__(self, "public_url", self.public_url.rstrip("/"))
        object.__setattr__(self, "gateway_url", self.gateway_url.rstrip("/"))

    @property
    def is_secure(self) -> bool:
        """Whether people come over TLS, so that cookies may demand it."""
        return self.public_url.startswith("https://")

    @property
    def origin(self) -> str:
        """The origin of the public address, as browsers write it."""
        parts = urlsplit(self.public_url)
        return f"{parts.scheme}://{parts.netloc}".lower()

    def repository_url(self, repository_id: str) -> str:
        """Where restic's REST protocol finds a repository."""
        return f"{self.gateway_url}/restic/{repository_id}/"
