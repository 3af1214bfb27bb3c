"""`ThrottledStore`: the rate holds, is shared by threads and processes, and idle time is not
hoarded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast.errors import UsageError
from holdfast.repo.pool import Pool
from holdfast.store.local import LocalStore
from holdfast.store.memory import MemoryStore
from holdfast.store.throttle import ThrottledStore


def stopped_clock() -> float:
    return 1000.0


@dataclass(frozen=True)
class Sleeper:
    """Writes down what it was asked for, as sleepers of several processes must."""

    path: str

    def __call__(self, seconds: float) -> None:
        with open(self.path, "a", encoding="ascii") as file:
            file.write(f"{seconds}\n")


@dataclass(frozen=True)
class Creating:
    """What a worker process does: a task is the name of an object of 1000 bytes."""

    store: ThrottledStore

    def __call__(self) -> Callable[[str], int]:
        return self.create

    def create(self, key: str) -> int:
        self.store.create(key, b"x" * 1000)
        return len(self.store.read(key))


class Time:
    """A clock that moves only when somebody sleeps; sleepers of several threads add up."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)


def throttled(time: Time, read: float | None, write: float | None) -> ThrottledStore:
    return ThrottledStore(
        MemoryStore(),
        read_bytes_per_second=read,
        write_bytes_per_second=write,
        clock=time.clock,
        sleep=time.sleep,
    )


def test_writes_wait_for_their_turn() -> None:
    time = Time()
    store = throttled(time, None, 100)
    store.create("a", b"x" * 100)
    assert time.slept == []
    store.create("b", b"x" * 250)
    assert time.slept == [2.5]
    time.now += 2.5
    store.create("c", memoryview(b"x" * 50))
    assert time.slept == [2.5, 0.5]
    assert store.read("b") == b"x" * 250
    assert len(time.slept) == 2


def test_reads_are_paid_by_what_came() -> None:
    time = Time()
    store = throttled(time, 100, None)
    store.create("a", b"x" * 300)
    assert store.read("a", 250, 1000) == b"x" * 50
    assert time.slept == []
    store.read("a")
    assert time.slept == [2.5]


def test_idle_time_is_saved_for_one_second_only() -> None:
    time = Time()
    store = throttled(time, None, 100)
    store.create("a", b"x" * 100)
    time.now += 3600
    store.create("b", b"x" * 300)
    assert time.slept == [2.0]


def test_threads_share_one_rate() -> None:
    time = Time()
    store = throttled(time, None, 1000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.create(f"k{number}", b"x" * 1000), range(20)))
    # 20 seconds' worth, of which one was saved: the last of them waits 19 seconds.
    assert sorted(time.slept) == [float(second) for second in range(1, 20)]


@pytest.mark.parametrize("fork", [True, False])
def test_processes_share_one_rate(tmp_path: Path, fork: bool) -> None:
    notes = tmp_path / "notes"
    (tmp_path / "store").mkdir()
    store = ThrottledStore(
        LocalStore(str(tmp_path / "store")),
        write_bytes_per_second=1000,
        clock=stopped_clock,
        sleep=Sleeper(str(notes)),
    )
    store.create("first", b"x" * 1000)
    with Pool(2, Creating(store), fork=fork) as pool:
        for number in range(20):
            pool.submit(None, f"k{number}")
        done = 0
        while done < 20:
            done += sum(size == 1000 for _, size in pool.results())
    # The saved second was used up before the two began: each object waits a second more.
    slept = sorted(map(float, notes.read_text().split()))
    assert slept == [float(second) for second in range(1, 21)]
    store.create("last", b"x" * 1000)
    assert float(notes.read_text().split()[-1]) == 21.0
    store.close()


def test_nothing_waits_without_a_limit_or_without_bytes() -> None:
    time = Time()
    store = throttled(time, 1, 1)
    store.create("a", b"")
    assert store.read("a") == b""
    assert store.size("a") == 0
    assert [info.key for info in store.list("")] == ["a"]
    store.delete("a")
    assert time.slept == []


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_must_be_above_nothing(rate: float) -> None:
    with pytest.raises(UsageError):
        ThrottledStore(MemoryStore(), write_bytes_per_second=rate)
