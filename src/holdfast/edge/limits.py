"""Rate limits at the door: one for each address, one for each credential, one for sign-ins.

An address is counted before anything is looked up, so that guessing costs the guesser and
not the database. Passwords have a narrow limit for each address, because checking one is
dear; failed sign-ins are remembered by the database, not here. Counts live in this process
only: with n replicas a caller may have n times as much.
"""

from __future__ import annotations

from collections.abc import Callable

from holdfast.control.rate_limit import RateLimiter


class Gates:
    """The limits of one process. Thread-safe, as the limiter is."""

    def __init__(
        self,
        *,
        address: tuple[float, int],
        token: tuple[float, int],
        sign_in: tuple[float, int],
        monotonic: Callable[[], float],
    ) -> None:
        self._address = RateLimiter(*address)
        self._token = RateLimiter(*token)
        self._sign_in = RateLimiter(*sign_in)
        self._monotonic = monotonic

    def pass_address(self, address: str) -> None:
        """Count one request from an address; `TooManyRequests` when there were too many."""
        self._address.take(address, now=self._monotonic())

    def pass_credential(self, kind: str, credential_id: str) -> None:
        """Count one request of somebody who is known."""
        self._token.take(f"{kind}:{credential_id}", now=self._monotonic())

    def pass_sign_in(self, address: str) -> None:
        """Count one password that is shown."""
        self._sign_in.take(address, now=self._monotonic())
