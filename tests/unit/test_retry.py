"""`RetryingStore`: what is repeated, after which pause, and what a lost answer means."""

from __future__ import annotations

import hashlib

import pytest

from holdfast.errors import (
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UsageError,
)
from holdfast.store.faults import Call, Fault, FaultyStore, Plan, fail_after, fail_before, on
from holdfast.store.memory import MemoryStore
from holdfast.store.retry import Retry, RetryingStore

GONE = StoreUnavailable("The line is down.")


class Bench:
    """A retrying store over a faulty one over a memory, with everything written down."""

    def __init__(self, plan: Plan, attempts: int = 4, jitter: float = 0.0) -> None:
        self.memory = MemoryStore()
        self.faulty = FaultyStore(self.memory, plan)
        self.pauses: list[float] = []
        self.retries: list[Retry] = []
        self.store = RetryingStore(
            self.faulty,
            attempts=attempts,
            first_pause_seconds=1.0,
            longest_pause_seconds=5.0,
            sleep=self.pauses.append,
            jitter=lambda: jitter,
            report=self.retries.append,
        )


def test_what_works_is_not_repeated() -> None:
    bench = Bench(lambda call: None)
    bench.store.create("a", b"1")
    assert bench.store.read("a") == b"1"
    assert [call.method for call in bench.faulty.calls] == ["create", "read"]
    assert bench.pauses == []


@pytest.mark.parametrize("method", ["create", "read", "size", "list", "delete"])
def test_what_may_pass_is_repeated_and_reported(method: str) -> None:
    bench = Bench(on(method, fail_before(GONE), times=2))
    bench.store.create("a", b"1")
    assert bench.store.read("a") == b"1"
    assert bench.store.size("a") == 1
    assert [info.key for info in bench.store.list("")] == ["a"]
    bench.store.delete("a")
    assert list(bench.memory.list("")) == []
    key = "" if method == "list" else "a"
    assert bench.retries == [
        Retry(method, key, 1, 4, 1.0, GONE),
        Retry(method, key, 2, 4, 2.0, GONE),
    ]
    assert bench.pauses == [1.0, 2.0]


def test_pauses_grow_to_a_limit_and_then_it_gives_up() -> None:
    bench = Bench(on("read", fail_before(GONE)), attempts=6)
    with pytest.raises(StoreUnavailable, match=r"The line is down\. Gave up after 6 attempts\."):
        bench.store.read("a")
    assert bench.pauses == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert len(bench.faulty.calls) == 6


def test_jitter_shortens_a_pause_by_half_at_most() -> None:
    bench = Bench(on("read", fail_before(GONE), times=2), jitter=0.5)
    bench.memory.create("a", b"")
    bench.store.read("a")
    assert bench.pauses == [0.75, 1.5]


@pytest.mark.parametrize(
    "error",
    [StoreDenied("no"), StoreFull("full"), StoreError("odd"), ObjectNotFound("none")],
)
def test_what_does_not_pass_is_not_repeated(error: Exception) -> None:
    bench = Bench(on("read", fail_before(error)))
    with pytest.raises(type(error)) as caught:
        bench.store.read("a")
    assert caught.value is error
    assert bench.pauses == []


def test_a_create_whose_answer_was_lost_has_worked() -> None:
    bench = Bench(on("create", fail_after(GONE), times=1))
    bench.store.create("a", bytearray(b"mine"))
    assert bench.memory.read("a") == b"mine"
    assert [call.method for call in bench.faulty.calls] == ["create", "create", "size", "read"]


def test_where_nothing_may_be_read_a_name_that_is_the_hash_settles_it() -> None:
    """H2: a put-only machine whose answer was lost goes on."""
    denied = fail_before(StoreDenied("put only"))

    def plan(call: Call) -> Fault | None:
        if call.method in ("size", "read"):
            return denied
        return fail_after(GONE) if call.number == 0 else None

    bench = Bench(plan)
    name = hashlib.sha256(b"mine").hexdigest()
    bench.store.create(f"data/{name[:2]}/{name}", memoryview(b"xxmine")[2:])
    assert bench.memory.read(f"data/{name[:2]}/{name}") == b"mine"
    for key, content in (("config", b"mine"), (f"keys/{name}", b"other")):
        bench = Bench(plan)
        with pytest.raises(StoreDenied):
            bench.store.create(key, content)


def test_a_view_is_compared_by_its_bytes() -> None:
    bench = Bench(on("create", fail_after(GONE), times=1))
    bench.store.create("a", memoryview(b"xxmine")[2:])
    assert bench.memory.read("a") == b"mine"


@pytest.mark.parametrize("theirs", [b"they", b"theirs"])
def test_after_a_failure_another_content_is_a_conflict(theirs: bytes) -> None:
    bench = Bench(on("create", fail_before(GONE), times=1))
    bench.memory.create("a", theirs)
    with pytest.raises(ObjectExists):
        bench.store.create("a", b"mine")
    assert bench.memory.read("a") == theirs


def test_without_a_failure_equal_content_is_a_conflict_too() -> None:
    bench = Bench(lambda call: None)
    bench.memory.create("a", b"mine")
    with pytest.raises(ObjectExists):
        bench.store.create("a", b"mine")
    assert [call.method for call in bench.faulty.calls] == ["create"]


def test_the_comparison_is_itself_repeated() -> None:
    def plan(call: Call) -> Fault | None:
        return {0: fail_after(GONE), 2: fail_before(GONE), 4: fail_before(GONE)}.get(call.number)

    bench = Bench(plan)
    bench.store.create("a", b"mine")
    assert [retry.method for retry in bench.retries] == ["create", "size", "read"]


def test_a_create_that_conflicts_with_something_deleted_meanwhile() -> None:
    def plan(call: Call) -> Fault | None:
        if call.number == 0:
            return fail_after(GONE)
        return Fault(before=lambda: bench.memory.delete("a")) if call.method == "size" else None

    bench = Bench(plan)
    with pytest.raises(ObjectExists):
        bench.store.create("a", b"mine")


def test_a_broken_listing_yields_nothing_twice() -> None:
    bench = Bench(on("list", fail_after(GONE), times=2))
    for number in range(10):
        bench.memory.create(f"locks/{number}", b"")
    assert sorted(info.key for info in bench.store.list("locks/")) == [
        f"locks/{number}" for number in range(10)
    ]
    assert len(bench.retries) == 2


def test_at_least_one_attempt_is_needed() -> None:
    with pytest.raises(UsageError):
        RetryingStore(MemoryStore(), attempts=0)
