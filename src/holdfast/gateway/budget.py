"""A bounded amount of something, such as bytes in memory, that requests take and give back.

Who comes first is served first. One owner cannot take more than its share, however much it
asks for, so that one account's slow clients do not keep all others waiting. Used in one event
loop only.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from holdfast.errors import ServerUnavailable


@dataclass(slots=True, eq=False)
class _Waiter:
    owner: str
    amount: int
    admitted: asyncio.Event = field(default_factory=asyncio.Event)


class Budget:
    """`limit` in all, `share` of it for each owner; waits at most `patience_seconds`.

    A single request for more than either is admitted when it is alone.
    """

    def __init__(self, limit: int, share: int, patience_seconds: float) -> None:
        self._limit, self._share, self._patience = limit, share, patience_seconds
        self._taken: Counter[str] = Counter()
        self._total = 0
        self._waiting: list[_Waiter] = []

    @property
    def taken(self) -> int:
        """How much is taken now."""
        return self._total

    @asynccontextmanager
    async def take(self, owner: str, amount: int) -> AsyncIterator[None]:
        """Hold `amount`; raise `ServerUnavailable` where it does not become free in time."""
        waiter = _Waiter(owner, amount)
        self._waiting.append(waiter)
        self._admit()
        try:
            try:
                async with asyncio.timeout(self._patience):
                    await waiter.admitted.wait()
            except TimeoutError:
                if not waiter.admitted.is_set():
                    raise ServerUnavailable(
                        "The gateway is busy with other requests; try again in a few seconds."
                    ) from None
            yield
        finally:
            # Also where the request was cancelled at the very moment that it was admitted.
            if waiter.admitted.is_set():
                self._give_back(waiter)
            else:
                self._waiting.remove(waiter)

    def _give_back(self, waiter: _Waiter) -> None:
        self._taken[waiter.owner] -= waiter.amount
        if not self._taken[waiter.owner]:
            del self._taken[waiter.owner]
        self._total -= waiter.amount
        self._admit()

    def _admit(self) -> None:
        for waiter in tuple(self._waiting):
            if self._total and self._total + waiter.amount > self._limit:
                return  # nobody overtakes, or a large one would wait for ever
            mine = self._taken[waiter.owner]
            if mine and mine + waiter.amount > self._share:
                continue
            self._waiting.remove(waiter)
            self._taken[waiter.owner] = mine + waiter.amount
            self._total += waiter.amount
            waiter.admitted.set()
