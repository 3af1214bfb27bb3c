"""Work beside the thread that attends a task: one act at a time, in a thread of its own.

What the acts work with is opened for the first of them and kept open; after a failure it is
opened anew. How an act ended is handed over in the caller's own thread, so only that one
speaks and notes down. Invariant: a stop unwinds what is under way, where it reports.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from holdfast.errors import HoldfastError
from holdfast.model.progress import Progress

T = TypeVar("T")

_STOP_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Done:
    """How an act ended: with a value, or an error."""

    value: Any = None
    error: BaseException | None = None


class SideWork(Generic[T]):
    """One act at a time. `begin`, `poll` and `stop` are called from one thread."""

    def __init__(self, name: str, opened: Callable[[], AbstractContextManager[T]]) -> None:
        self._name, self._opened = name, opened
        self._acts: queue.Queue[Callable[[T], Any] | None] = queue.Queue()
        self._ended: queue.Queue[Done] = queue.Queue()
        self._then: Callable[[Done], None] | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        return self._then is not None

    def begin(self, act: Callable[[T], Any], then: Callable[[Done], None]) -> None:
        """Have `act` done; `then` is told by `poll` how it ended. Only where nothing is."""
        assert self._then is None, "one act at a time"
        self._then = then
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._acts.put(act)

    def poll(self) -> None:
        """Tell of what has ended since."""
        if self._then is None:
            return
        try:
            done = self._ended.get_nowait()
        except queue.Empty:
            return
        then, self._then = self._then, None
        then(done)

    def checked(self, report: Callable[[Progress], None]) -> Callable[[Progress], None]:
        """The same report, which unwinds the act when all is to stop."""

        def checking(progress: Progress) -> None:
            if self._stopping.is_set():
                # No error of the tree: those are passed over where this must not be.
                raise KeyboardInterrupt
            report(progress)

        return checking

    @property
    def is_stopping(self) -> bool:
        """Asked by acts that do not report."""
        return self._stopping.is_set()

    def stop(self, *, wait_seconds: float = _STOP_SECONDS) -> bool:
        """End soon; return whether the thread has ended. What is under way is not told of."""
        self._stopping.set()
        if self._thread is None:
            return True
        self._acts.put(None)
        self._thread.join(wait_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with ExitStack() as stack:
            opened: T | None = None
            while (act := self._acts.get()) is not None and not self._stopping.is_set():
                try:
                    if opened is None:
                        opened = stack.enter_context(self._opened())
                    done = Done(act(opened))
                except BaseException as error:
                    done = Done(error=error)
                    # What it remembers may be what failed; the next one begins anew.
                    opened = None
                    self._close(stack)
                self._ended.put(done)

    def _close(self, stack: ExitStack) -> None:
        try:
            stack.close()
        except HoldfastError:
            return
