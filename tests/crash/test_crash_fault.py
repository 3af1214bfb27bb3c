"""A fault at every store call, over a fixed history and random ones.

A call fails and has done nothing, or fails although it was done. An act then succeeds, or
raises an error of ours; in either case nothing promised is lost.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from aftermath import assert_all_well
from crash_cases import STRUCK, STRUCK_NAMES, Prepared, again, share_of_cases
from crash_history import Ground, History
from crash_journal import Promises
from dying import apart

from holdfast.errors import HoldfastError, StoreDenied, StoreError, StoreFull, StoreUnavailable
from holdfast.store.faults import Call, Fault, FaultyStore, fail_after, fail_before
from holdfast.store.memory import MemoryStore

pytestmark = pytest.mark.slow
pytest_plugins = ("crash_fixtures",)

REGRESSIONS: tuple[int, ...] = ()
"""Seeds that have found a mistake."""
ERRORS: tuple[type[HoldfastError], ...] = (StoreUnavailable, StoreFull, StoreDenied, StoreError)
MOST_CALLS_OF_AN_ACT = 60


class Outage:
    """A plan for both stores of a history: some calls of the act that it was armed in fail.

    Calls are numbered over both stores, from 0 at arming. The outage ends with the act.
    """

    def __init__(
        self, first: int, calls: int, kind: Callable[[Exception], Fault], error: type[HoldfastError]
    ) -> None:
        self._struck, self._kind, self._error = range(first, first + calls), kind, error
        self._numbers: itertools.count[int] | None = None
        self.reached = False

    def arm(self) -> None:
        self._numbers = itertools.count()

    def end(self) -> None:
        self._numbers = None

    def told(self, _number: int, act: str) -> None:
        """Strike every act but the unlocking afterwards."""
        if act == "unlock":
            self.end()
        else:
            self.arm()

    def __call__(self, call: Call) -> Fault | None:
        if self._numbers is None or next(self._numbers) not in self._struck:
            return None
        self.reached = True
        return self._kind(self._error(f"no {call.method} of {call.key}: a fault of this test"))


def faulty(
    stores: tuple[MemoryStore, MemoryStore], outage: Outage
) -> tuple[FaultyStore, FaultyStore]:
    first, second = (FaultyStore(store, outage) for store in stores)
    return first, second


@pytest.mark.parametrize("kind", [fail_before, fail_after], ids=["undone", "done"])
@pytest.mark.parametrize("number", STRUCK, ids=STRUCK_NAMES)
def test_a_fault_at_every_call(
    directory: Path, number: int, kind: Callable[[Exception], Fault]
) -> None:
    prepared = Prepared(directory, number)
    apart(lambda: fail_at_every_call(prepared, kind), directory / "failure")


def fail_at_every_call(prepared: Prepared, kind: Callable[[Exception], Fault]) -> None:
    for call in itertools.count():
        outage = Outage(call, 1, kind, ERRORS[call % len(ERRORS)])
        print("call", call)
        prepared.bring_back()
        stores = prepared.memory_stores()
        history = prepared.history(faulty(stores, outage), may_fail=True, before=outage.told)
        history.act(prepared.act)
        history.unlock()  # an act whose lock could not be removed has succeeded all the same
        prepared.assert_all_well_in(stores)
        if not outage.reached:
            break
    assert call > 5, "an act that calls next to nothing proves next to nothing"


@share_of_cases(0.4)
def test_an_outage_somewhere_in_a_random_history(directory: Path, seed: int) -> None:
    again("test_an_outage_somewhere", seed)
    apart(lambda: live_through_an_outage(directory, seed), directory / "failure")


def live_through_an_outage(directory: Path, seed: int) -> None:
    chance = random.Random(f"outage {seed}")
    ground = Ground(directory / "ground")
    ground.directory.mkdir()
    stores = MemoryStore("main"), MemoryStore("second")
    acts = chance.randrange(3, 10)
    fatal = chance.sample(range(acts), chance.randrange(1, 3))
    outage = Outage(
        chance.randrange(MOST_CALLS_OF_AN_ACT),
        chance.choice([1, 1, 2, 5, 1000]),
        chance.choice([fail_before, fail_after]),
        chance.choice(ERRORS),
    )

    def before(number: int, act: str) -> None:
        outage.end()
        if number in fatal and act != "unlock":
            outage.arm()

    history = History(
        ground,
        faulty(stores, outage),
        f"outage.{seed}",
        cached=chance.random() < 0.5,
        may_fail=True,
        before=before,
    )
    history.live(acts)
    promises = Promises(ground.journal)
    assert len(promises.ended) == acts
    assert sum(bool(act.error) for act in promises.ended) <= len(fatal)
    history.unlock()
    assert_all_well(ground, stores, promises)
