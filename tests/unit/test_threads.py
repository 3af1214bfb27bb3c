"""Threads are gone for the kernel, too, when they have been waited for."""

from __future__ import annotations

import os
import threading

from holdfast.repo.threads import JoinedThreads, wait_until_gone


def tasks() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def test_after_a_pool_none_of_its_threads_is_left() -> None:
    for _ in range(100):
        with JoinedThreads(8) as threads:
            native = {*threads.map(lambda _: str(threading.get_native_id()), range(16))}
            assert native <= tasks()
        assert not native & tasks()


def test_a_thread_that_python_has_joined_is_waited_for() -> None:
    for _ in range(100):
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        assert thread.native_id is not None
        wait_until_gone([thread.native_id])
        assert str(thread.native_id) not in tasks()


def test_what_is_not_there_is_not_waited_for() -> None:
    wait_until_gone([2**30])
