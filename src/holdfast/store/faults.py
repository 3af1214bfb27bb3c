"""Breaks a store on purpose, at chosen calls: for tests only, of every package.

It lies here and not under ``tests`` because the tests of `repo`, `flows` and the command
line, and their child processes, import it. Nothing in Holdfast itself does.

Every call gets a number, from 0, in the order in which calls begin. A plan is asked once
per call and answers with a `Fault` or None. The store never decides anything itself, so
the same calls and the same plan give the same failures.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from holdfast.store.protocol import Buffer, ObjectInfo, ObjectStore
from holdfast.store.wrapped import WrappedStore


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a store's method; `key` is the prefix where the method is ``list``."""

    number: int
    method: str
    key: str


def do_nothing() -> None:
    """What happens before or after a call that is left alone."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What to run before the inner store is called, and after it has succeeded.

    Either may raise, sleep or end the process. For a listing `after` runs in place of its
    end, when every object has been yielded.
    """

    before: Callable[[], None] = do_nothing
    after: Callable[[], None] = do_nothing


Plan = Callable[[Call], Fault | None]
"""Says what happens to a call; called from whichever thread makes the call."""


def fail_before(error: Exception) -> Fault:
    """The call fails and has done nothing."""
    return Fault(before=_raising(error))


def fail_after(error: Exception) -> Fault:
    """The call fails although it has been done: its answer was lost."""
    return Fault(after=_raising(error))


def delay(seconds: float, sleep: Callable[[float], None] = time.sleep) -> Fault:
    """The call is done, late."""
    return Fault(before=lambda: sleep(seconds))


def act_before(act: Callable[[], None]) -> Fault:
    """Run `act`, such as a kill of this process, and then do the call."""
    return Fault(before=act)


def act_after(act: Callable[[], None]) -> Fault:
    """Do the call, and then run `act`."""
    return Fault(after=act)


def at(number: int, fault: Fault) -> Plan:
    """A plan that strikes the call of that number only."""
    return lambda call: fault if call.number == number else None


def on(method: str, fault: Fault, *, times: int | None = None) -> Plan:
    """A plan that strikes the first `times` calls of one method, or all of them."""
    struck = itertools.count()

    def plan(call: Call) -> Fault | None:
        if call.method != method:
            return None
        return fault if times is None or next(struck) < times else None

    return plan


class FaultyStore(WrappedStore):
    """An `ObjectStore` that follows a plan of faults and remembers every call.

    It has no lock: numbers and records come from single atomic operations, so that it is
    thread-safe and survives a fork.
    """

    def __init__(self, inner: ObjectStore, plan: Plan = lambda _call: None) -> None:
        super().__init__(inner)
        self._plan = plan
        self._numbers = itertools.count()
        self._calls: list[Call] = []

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every call so far, by number."""
        return tuple(sorted(self._calls, key=lambda call: call.number))

    def create(self, key: str, data: Buffer) -> None:
        fault = self._begin("create", key)
        self._inner.create(key, data)
        fault.after()

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        fault = self._begin("read", key)
        data = self._inner.read(key, offset, length)
        fault.after()
        return data

    def size(self, key: str) -> int:
        fault = self._begin("size", key)
        size_bytes = self._inner.size(key)
        fault.after()
        return size_bytes

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        fault = self._begin("list", prefix)
        yield from self._inner.list(prefix)
        fault.after()

    def delete(self, key: str) -> None:
        fault = self._begin("delete", key)
        self._inner.delete(key)
        fault.after()

    def _begin(self, method: str, key: str) -> Fault:
        call = Call(next(self._numbers), method, key)
        self._calls.append(call)
        fault = self._plan(call) or Fault()
        fault.before()
        return fault


def _raising(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act
