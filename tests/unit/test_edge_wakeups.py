"""Long polls: who is woken, when, and that the poller rests while nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from holdfast.edge.wakeups import Wakeups


def test_only_the_one_with_work_is_woken() -> None:
    work: set[str | None] = set()

    async def run() -> list[bool]:
        wakeups = Wakeups(poll_seconds=0.02)
        with (
            wakeups.listening("a", keeper=False, find=lambda: work) as first,
            wakeups.listening("b", keeper=False, find=lambda: work) as second,
            wakeups.listening("c", keeper=True, find=lambda: work) as keeper,
        ):
            before = await first.wait(0.1)
            work.add("a")
            rung = [before, await first.wait(60), await second.wait(0.1), await keeper.wait(0.01)]
            work.clear()
            work.add(None)
            return [*rung, await keeper.wait(60), await second.wait(0.05)]

    assert asyncio.run(run()) == [False, True, False, False, True, False]


def test_a_nudge_is_looked_into_before_the_next_poll() -> None:
    async def run() -> bool:
        wakeups = Wakeups(poll_seconds=3600)
        with wakeups.listening("a", keeper=False, find=lambda: {"a"}) as bell:
            await asyncio.sleep(0.05)
            await asyncio.to_thread(wakeups.nudge)
            return await bell.wait(60)

    assert asyncio.run(run())


def test_a_database_that_is_away_is_asked_again() -> None:
    looked = 0

    def find() -> set[str | None]:
        nonlocal looked
        looked += 1
        if looked < 3:
            raise OSError("away")
        return {"a"}

    async def run() -> bool:
        wakeups = Wakeups(poll_seconds=0.01)
        with wakeups.listening("a", keeper=False, find=find) as bell:
            return await bell.wait(60)

    assert asyncio.run(run())
    assert looked == 3


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


def test_nobody_looks_while_nobody_waits() -> None:
    looked = 0

    def find() -> set[str | None]:
        nonlocal looked
        looked += 1
        return set()

    async def run() -> None:
        wakeups = Wakeups(poll_seconds=0.01)
        with wakeups.listening("a", keeper=False, find=find) as bell:
            await until(lambda: looked > 1)
            assert not await bell.wait(0)
        seen = looked
        await asyncio.sleep(0.3)
        assert looked <= seen + 1
        assert not wakeups._bells
        with wakeups.listening("a", keeper=False, find=find) as bell:
            await until(lambda: looked > seen + 1)  # it begins again
            assert not await bell.wait(0)

    asyncio.run(run())


def test_everybody_is_let_go_at_the_end() -> None:
    async def run() -> bool:
        wakeups = Wakeups(poll_seconds=3600)
        with wakeups.listening("a", keeper=True, find=lambda: set()) as bell:
            asyncio.get_running_loop().call_later(0.05, wakeups.close)
            return await bell.wait(60) and wakeups.closing

    assert asyncio.run(run())
