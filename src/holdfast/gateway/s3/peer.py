"""Where a request comes from, and whether nobody on the way could read or change it.

Proxies in front are believed only where they are known. Addresses that fail to sign again and
again are made to wait, so that nobody can try secrets.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from starlette.requests import Request

from holdfast.gateway.s3.refusal import S3Refused

Networks = Sequence[IPv4Network | IPv6Network]
_FAILURES, _PER_SECONDS = 30, 60.0
_ADDRESSES = 10_000


@dataclass(frozen=True, slots=True)
class Peer:
    """Who speaks to us."""

    address: str
    secure: bool


def peer_of(request: Request, trusted: Networks) -> Peer:
    """The client's own address, and whether it came by TLS; proxies in `trusted` are believed."""
    address = request.client.host if request.client is not None else ""
    secure = request.scope.get("scheme") == "https"
    if _within(address, trusted):
        secure = secure or request.headers.get("X-Forwarded-Proto", "").strip() == "https"
        hops = [each.strip() for each in request.headers.get("X-Forwarded-For", "").split(",")]
        for hop in reversed(hops):
            if not _is_address(hop):
                break
            address = hop
            if not _within(hop, trusted):
                break
    return Peer(address[:64], secure)


class FailedSignatures:
    """Counts failures of each address, and says when one has to wait. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raise `S3Refused` for an address that failed too often."""
        with self._lock:
            if self._count(address) >= _FAILURES:
                raise S3Refused(
                    "SlowDown", "Too many signatures from this address were wrong; wait a minute."
                )

    def note(self, address: str) -> None:
        """One more failure."""
        with self._lock:
            self._failed[address] = (self._count(address) + 1, self._clock())
            self._failed.move_to_end(address)
            if len(self._failed) > _ADDRESSES:
                self._failed.popitem(last=False)

    def _count(self, address: str) -> float:
        """Failures are forgotten one by one."""
        count, at = self._failed.get(address, (0.0, 0.0))
        return max(0.0, count - (self._clock() - at) * _FAILURES / _PER_SECONDS)


def _within(address: str, networks: Networks) -> bool:
    if not _is_address(address):
        return False
    found = ip_address(address)
    return any(found in network for network in networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
