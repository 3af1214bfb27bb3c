"""`FaultyStore`: it strikes where the plan says, before or after, and nowhere else."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast.errors import StoreUnavailable
from holdfast.store.faults import (
    Call,
    FaultyStore,
    act_after,
    act_before,
    at,
    delay,
    fail_after,
    fail_before,
    on,
)
from holdfast.store.local import LocalStore
from holdfast.store.memory import MemoryStore

GONE = StoreUnavailable("gone")


def test_every_call_is_numbered_in_order() -> None:
    store = FaultyStore(MemoryStore())
    store.create("a", b"1")
    store.read("a")
    store.size("a")
    list(store.list(""))
    store.delete("a")
    assert store.calls == (
        Call(0, "create", "a"),
        Call(1, "read", "a"),
        Call(2, "size", "a"),
        Call(3, "list", ""),
        Call(4, "delete", "a"),
    )


def test_before_has_done_nothing_and_after_has_done_all() -> None:
    memory = MemoryStore()
    with pytest.raises(StoreUnavailable):
        FaultyStore(memory, at(0, fail_before(GONE))).create("a", b"1")
    assert list(memory.list("")) == []
    with pytest.raises(StoreUnavailable):
        FaultyStore(memory, at(0, fail_after(GONE))).create("a", b"1")
    assert memory.read("a") == b"1"
    with pytest.raises(StoreUnavailable):
        FaultyStore(memory, at(0, fail_before(GONE))).delete("a")
    assert memory.size("a") == 1
    with pytest.raises(StoreUnavailable):
        FaultyStore(memory, at(0, fail_after(GONE))).delete("a")
    assert list(memory.list("")) == []


def test_a_listing_breaks_off_at_its_end() -> None:
    memory = MemoryStore()
    memory.create("a", b"1")
    listing = FaultyStore(memory, on("list", fail_after(GONE))).list("")
    assert next(listing).key == "a"
    with pytest.raises(StoreUnavailable):
        next(listing)


def test_a_plan_strikes_only_what_it_names() -> None:
    store = FaultyStore(MemoryStore(), on("create", fail_before(GONE), times=2))
    for key in ("a", "b"):
        with pytest.raises(StoreUnavailable):
            store.create(key, b"")
    store.create("c", b"")
    assert store.size("c") == 0


def test_a_delayed_call_is_done() -> None:
    slept: list[float] = []
    store = FaultyStore(MemoryStore(), at(0, delay(2.5, slept.append)))
    store.create("a", b"1")
    assert store.read("a") == b"1"
    assert slept == [2.5]


def test_numbers_are_not_given_twice_by_threads() -> None:
    store = FaultyStore(MemoryStore())
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: store.create(str(number), b""), range(500)))
    assert [call.number for call in store.calls] == list(range(500))


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _write(root: str, when: str) -> None:
    fault = act_before(_kill) if when == "before" else act_after(_kill)
    store = FaultyStore(LocalStore(root), at(1, fault))
    store.create("first", b"1")
    store.create("second", b"2")


@pytest.mark.parametrize(("when", "left"), [("before", ["first"]), ("after", ["first", "second"])])
def test_a_kill_before_or_after_a_call(tmp_path: Path, when: str, left: list[str]) -> None:
    child = multiprocessing.get_context("fork").Process(target=_write, args=(str(tmp_path), when))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert sorted(info.key for info in LocalStore(str(tmp_path)).list("")) == left
