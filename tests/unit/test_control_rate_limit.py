"""Rate limits (A6): a bucket for each token and address."""

from __future__ import annotations

import pytest

from holdfast.control import rate_limit
from holdfast.control.rate_limit import RateLimiter
from holdfast.errors import TooManyRequests


def passes(limiter: RateLimiter, key: str, now: float) -> bool:
    try:
        limiter.take(key, now=now)
    except TooManyRequests:
        return False
    return True


def test_a6_a_burst_passes_then_the_rate() -> None:
    limiter = RateLimiter(2, 5)
    assert [passes(limiter, "k", 100.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert not passes(limiter, "k", 100.4)
    assert passes(limiter, "k", 100.5)
    assert not passes(limiter, "k", 100.5)
    assert sum(passes(limiter, "k", 200.0) for _ in range(20)) == 5


def test_a6_one_key_does_not_slow_another() -> None:
    limiter = RateLimiter(1, 1)
    assert passes(limiter, "a", 0)
    assert not passes(limiter, "a", 0)
    assert passes(limiter, "b", 0)


def test_a6_who_waits_as_long_as_told_passes() -> None:
    limiter = RateLimiter(0.2, 1)
    limiter.take("k", now=0)
    with pytest.raises(TooManyRequests, match="in 5 s") as caught:
        limiter.take("k", now=0)
    assert caught.value.retry_after_seconds == 5
    limiter.take("k", now=5)


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    limiter = RateLimiter(1, 1)
    limiter.take("k", now=10)
    assert not passes(limiter, "k", 5)
    assert not passes(limiter, "k", 10.5)


def test_memory_is_bounded_and_the_longest_unused_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MAX_KEYS", 3)
    limiter = RateLimiter(0.001, 1)
    for key in "abc":
        limiter.take(key, now=0)
    assert not passes(limiter, "a", 0)  # used again: "b" is now the longest unused
    limiter.take("d", now=0)
    assert not passes(limiter, "a", 0)
    assert passes(limiter, "b", 0)
