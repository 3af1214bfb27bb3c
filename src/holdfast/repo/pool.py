"""Worker processes: tasks go out, results come back, one process per core.

A pool knows nothing of what its tasks do. Workers are forked where the store allows it,
because a fork shares the index and starts in milliseconds; otherwise they are spawned.
A worker ends when its parent does, whatever happens to the parent.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Protocol

from holdfast import errors
from holdfast.errors import HoldfastError, WorkerLost

_DEPTH = 3
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8

Handler = Callable[[Any], Any]


class Setup(Protocol):
    """Makes the handler of tasks inside a worker; pickled where workers are spawned."""

    def __call__(self) -> Handler: ...


def keep_freed_memory() -> None:
    """Tell malloc to keep what is freed.

    Buffers of a megabyte come and go thousands of times a second; giving each back to the
    kernel and faulting it in again costs a fifth of the run.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)
    libc.mallopt(_M_ARENA_MAX, 2)


class Pool:
    """Runs tasks in `workers` processes, or inline when `workers` is 0.

    Inline, `submit` does the task at once; that serves stores that live in one process,
    and tests that inject faults.
    """

    def __init__(self, workers: int, setup: Setup, *, fork: bool = True) -> None:
        self._handler: Handler | None = None
        self._done: deque[tuple[Any, Any]] = deque()
        self._links: list[Connection] = []
        self._tags: dict[Connection, deque[Any]] = {}
        self._processes: dict[Connection, Any] = {}
        self._closed = False
        if workers == 0:
            self._handler = setup()
            return
        context: Any = get_context("fork" if fork else "spawn")
        gc.freeze()  # collected objects would unshare the pages that workers share
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, setup, os.getpid()), daemon=True)
            process.start()
            theirs.close()
            self._links.append(ours)
            self._tags[ours] = deque()
            self._processes[ours] = process

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(abort=kind is not None)

    @property
    def workers(self) -> int:
        return max(1, len(self._links))

    @property
    def outstanding(self) -> int:
        """Tasks submitted whose results have not been taken."""
        return sum(map(len, self._tags.values())) + len(self._done)

    @property
    def room(self) -> int:
        """How many more tasks keep the workers busy without queueing deep."""
        if self._handler is not None:
            return 0 if self._done else 1
        return sum(max(0, _DEPTH - len(tags)) for tags in self._tags.values())

    def submit(self, tag: Any, task: Any) -> None:
        """Hand a task to the least busy worker; its result comes back with `tag`."""
        if self._handler is not None:
            self._done.append((tag, self._handler(task)))
            return
        link = min(self._links, key=lambda link: len(self._tags[link]))
        self._send(link, tag, task)

    def unordered(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Run every task and yield results as they come; tasks are taken when there is room."""
        waiting = iter(tasks)
        more = True
        while more or self.outstanding:
            while more and self.room > 0:
                try:
                    self.submit(None, next(waiting))
                except StopIteration:
                    more = False
                if self._handler is not None:
                    break
            for _, result in self.results():
                yield result

    def broadcast(self, task: Any) -> list[Any]:
        """Run a task once in each worker; return the results. Nothing else may be pending."""
        if self._handler is not None:
            return [self._handler(task)]
        for link in self._links:
            self._send(link, None, task)
        results: list[Any] = []
        while len(results) < len(self._links):
            results.extend(result for _, result in self.results())
        return results

    def results(self, timeout_seconds: float | None = None) -> Iterator[tuple[Any, Any]]:
        """Wait until something is finished, then yield every finished (tag, result).

        Raises what a worker raised, and `WorkerLost` where one died.
        """
        while self._done:
            yield self._done.popleft()
        busy = [link for link, tags in self._tags.items() if tags]
        if not busy:
            return
        for link in wait(busy, timeout_seconds):
            assert isinstance(link, Connection)
            try:
                result, failure = link.recv()
            except (EOFError, ConnectionResetError):
                raise self._lost(link) from None
            tag = self._tags[link].popleft()  # a worker answers in the order of its tasks
            if failure is not None:
                raise _rebuilt(failure)
            yield tag, result

    def close(self, *, abort: bool = False) -> None:
        """End the workers; with `abort` at once, otherwise after their last task."""
        if self._closed:
            return
        self._closed = True
        for link, process in self._processes.items():
            if abort:
                process.kill()
            else:
                with suppress(BrokenPipeError, ConnectionResetError):
                    link.send(None)
        for link, process in self._processes.items():
            process.join()
            link.close()
            process.close()
        if self._processes:
            gc.unfreeze()

    def _send(self, link: Connection, tag: Any, task: Any) -> None:
        self._tags[link].append(tag)
        try:
            link.send((task,))
        except (BrokenPipeError, ConnectionResetError):
            raise self._lost(link) from None

    def _lost(self, link: Connection) -> WorkerLost:
        process = self._processes[link]
        process.join(5)
        return WorkerLost(
            f"a worker process ended (exit status {process.exitcode}); if the machine is short "
            "of memory, use fewer workers. Nothing acknowledged was lost; run it again"
        )


def _rebuilt(failure: tuple[str, str]) -> Exception:
    name, message = failure
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, HoldfastError):
        return kind(message)
    return RuntimeError(f"in a worker process:\n{message}")


def _work(link: Connection, setup: Setup, parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    keep_freed_memory()
    gc.freeze()
    try:
        handler = setup()
    except BaseException as error:
        failure = error

        def handler(_task: Any) -> Any:
            raise failure

    # Tasks are taken in while a long answer is on its way: otherwise the parent, sending a
    # long task, and the worker would each wait for the other to read.
    tasks: SimpleQueue[tuple[Any] | None] = SimpleQueue()
    Thread(target=_receive, args=(link, tasks), name="tasks", daemon=True).start()
    while (message := tasks.get()) is not None:
        try:
            link.send((handler(message[0]), None))
        except HoldfastError as error:
            link.send((None, (type(error).__name__, error.message)))
        except Exception:
            link.send((None, ("", traceback.format_exc())))


def _receive(link: Connection, tasks: SimpleQueue[tuple[Any] | None]) -> None:
    try:
        while (message := link.recv()) is not None:
            tasks.put(message)
    except (EOFError, ConnectionResetError):
        pass  # the parent is gone
    finally:
        tasks.put(None)
