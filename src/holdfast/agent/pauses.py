"""Growing pauses with jitter, between attempts at something that may take days to come back."""

from __future__ import annotations

import random
from collections.abc import Callable


class Pauses:
    """Each pause is twice the one before, up to the longest; each shortened by up to half,
    so that a thousand agents do not come back in the same second."""

    def __init__(
        self,
        first_seconds: float,
        longest_seconds: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._first, self._longest, self._jitter = first_seconds, longest_seconds, jitter
        self._next = first_seconds

    def next(self, at_least_seconds: float = 0.0) -> float:
        """How long to wait now."""
        pause = self._next * (1 - self._jitter() / 2)
        self._next = min(self._next * 2, self._longest)
        return max(pause, at_least_seconds)

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has failed since it last worked."""
        return self._next == self._first

    def reset(self) -> None:
        """It worked; begin anew with the first."""
        self._next = self._first
