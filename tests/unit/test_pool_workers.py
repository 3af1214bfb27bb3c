"""Workers: results under their tags, errors of their own class, and no worker left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from holdfast.errors import Damaged, HoldfastError, StoreFull, WorkerLost
from holdfast.repo.pool import Pool, Setup

pytestmark = pytest.mark.timeout(60)
everywhere = pytest.mark.parametrize("workers", [0, 1, 2])
in_processes = pytest.mark.parametrize("workers", [1, 2])


@dataclass(frozen=True)
class Work:
    """Does what a task says; picklable, so that spawned workers can have it too."""

    prefix: str = ""

    def __call__(self) -> Callable[[Any], Any]:
        return self.run

    def run(self, task: Any) -> Any:
        match task:
            case "pid":
                return os.getpid()
            case "full":
                raise StoreFull("no room at /srv; remove something")
            case "damaged":
                raise Damaged("pack 12 is damaged")
            case "own":
                raise Unlisted("an error of no class in the tree")
            case "bug":
                return dict[str, int]()["missing"]
            case "unpicklable":
                return lambda: None
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case ("sleep", seconds):
                time.sleep(seconds)
        return f"{self.prefix}{task}"


class Unlisted(HoldfastError):
    """Not in `holdfast.errors`, as a wrapper's own error might be."""


@dataclass(frozen=True)
class BrokenSetup:
    def __call__(self) -> Callable[[Any], Any]:
        raise Damaged("the index is damaged")


def drain(pool: Pool) -> Iterator[tuple[Any, Any]]:
    while pool.outstanding:
        yield from pool.results()


def run(workers: int, setup: Setup, task: Any) -> list[tuple[Any, Any]]:
    """One task in a pool of its own."""
    with Pool(workers, setup) as pool:
        pool.submit(None, task)
        return list(drain(pool))


@everywhere
def test_every_result_comes_once_with_its_tag(workers: int) -> None:
    with Pool(workers, Work("did ")) as pool:
        seen = []
        for number in range(50):
            if pool.room <= 0:
                seen += list(pool.results())
            pool.submit(("tag", number), number)
        seen += list(drain(pool))
        assert pool.outstanding == 0
        assert list(pool.results()) == []
    assert sorted(seen) == [(("tag", n), f"did {n}") for n in range(50)]


@everywhere
def test_unordered_runs_every_task_and_takes_them_only_when_there_is_room(workers: int) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    with Pool(workers, Work()) as pool:
        results = pool.unordered(tasks())
        first = next(results)
        assert len(taken) <= 3 * pool.workers + 1
        assert sorted([first, *results], key=int) == [str(n) for n in range(40)]


@everywhere
def test_nothing_to_do_is_done(workers: int) -> None:
    with Pool(workers, Work()) as pool:
        assert list(pool.unordered([])) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_a_broadcast_reaches_each_worker_once(workers: int) -> None:
    with Pool(workers, Work()) as pool:
        pids = pool.broadcast("pid")
    assert len(set(pids)) == len(pids) == workers
    assert os.getpid() not in pids


def test_inline_work_is_done_here_and_at_once() -> None:
    with Pool(0, Work()) as pool:
        assert pool.broadcast("pid") == [os.getpid()]
        assert (pool.workers, pool.room, pool.outstanding) == (1, 1, 0)
        pool.submit("tag", "pid")
        assert (pool.room, pool.outstanding) == (0, 1)
        assert list(pool.results()) == [("tag", os.getpid())]
        with pytest.raises(StoreFull):
            pool.submit("tag", "full")


@everywhere
@pytest.mark.parametrize(("task", "kind"), [("full", StoreFull), ("damaged", Damaged)])
def test_an_error_of_ours_keeps_its_class_and_words(
    workers: int, task: str, kind: type[HoldfastError]
) -> None:
    with pytest.raises(HoldfastError) as caught:
        run(workers, Work(), task)
    assert type(caught.value) is kind
    assert caught.value.message in {"no room at /srv; remove something", "pack 12 is damaged"}


@in_processes
@pytest.mark.parametrize(
    ("task", "said"),
    [("bug", "KeyError: 'missing'"), ("unpicklable", "pickle"), ("own", "an error of no class")],
)
def test_any_other_error_becomes_a_runtime_error_that_tells_where(
    workers: int, task: str, said: str
) -> None:
    with pytest.raises(RuntimeError, match=said) as caught:
        run(workers, Work(), task)
    assert "in a worker process" in str(caught.value)
    assert task == "own" or "Traceback" in str(caught.value)


@in_processes
def test_a_worker_goes_on_after_an_error(workers: int) -> None:
    with Pool(workers, Work()) as pool:
        for task in ("full", "bug"):
            pool.submit(None, task)
            with pytest.raises((StoreFull, RuntimeError)):
                list(drain(pool))
        assert pool.broadcast("still here") == ["still here"] * workers


@in_processes
def test_a_setup_that_fails_is_told_by_the_first_task(workers: int) -> None:
    with pytest.raises(Damaged, match="index is damaged"):
        run(workers, BrokenSetup(), "anything")


@in_processes
@pytest.mark.parametrize(("task", "status"), [("die", "-9"), ("exit", "3")])
def test_a_worker_that_dies_is_told_with_its_status(workers: int, task: str, status: str) -> None:
    with pytest.raises(WorkerLost, match=rf"exit status {status}\)") as caught:
        run(workers, Work(), task)
    assert caught.value.retryable


def send_until_it_is_noticed(pool: Pool) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        pool.submit(None, b"x" * 10_000)
        time.sleep(0.005)


def test_a_task_for_a_worker_that_is_gone_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with Pool(1, Work()) as pool:
        (pid,) = pool.broadcast("pid")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match="exit status -9"):
            send_until_it_is_noticed(pool)
    assert capfd.readouterr().err == ""


@in_processes
def test_closing_waits_for_the_last_task_and_aborting_does_not(workers: int) -> None:
    aborted = Pool(workers, Work())
    pids = aborted.broadcast("pid")
    for _ in range(workers):
        aborted.submit(None, ("sleep", 3600))  # longer than a test may take
    aborted.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert not any(map(alive, pids))
    with Pool(workers, Work()) as pool:
        pids = pool.broadcast("pid")
    pool.close()
    assert not any(map(alive, pids))


@in_processes
def test_results_give_up_waiting_after_the_time(workers: int) -> None:
    pool = Pool(workers, Work())
    pool.submit(None, ("sleep", 60))
    assert list(pool.results(timeout_seconds=0.01)) == []
    assert pool.outstanding == 1
    pool.close(abort=True)


def test_spawned_workers_do_the_same_work() -> None:
    with Pool(1, Work("spawned "), fork=False) as pool:
        (pid,) = pool.broadcast("pid")
        assert pid != os.getpid()
        pool.submit("tag", "task")
        assert list(drain(pool)) == [("tag", "spawned task")]
        pool.submit(None, "full")
        with pytest.raises(StoreFull):
            list(drain(pool))


@pytest.mark.parametrize("fork", [True, False])
def test_workers_end_when_their_parent_is_killed(fork: bool) -> None:
    program = textwrap.dedent(
        f"""
        import sys, time
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_pool_workers import Work
        from holdfast.repo.pool import Pool
        if __name__ == "__main__":
            pool = Pool(2, Work(), fork={fork})
            print(*pool.broadcast("pid"), flush=True)
            pool.submit(None, ("sleep", 600))
            time.sleep(600)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    parent.kill()
    parent.wait()
    until = time.monotonic() + 60
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(alive, pids))


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
