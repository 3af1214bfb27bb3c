"""The small parts of the gateway, each alone: budgets, leases, pumps, names, ranges, errors."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from starlette.requests import Request

from holdfast.errors import (
    Damaged,
    HoldfastError,
    Interrupted,
    NotFound,
    NotSignedIn,
    ObjectExists,
    ServerUnavailable,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    TooManyRequests,
    UsageError,
    WrongPassword,
)
from holdfast.gateway.answer import plain_answer, problem_answer
from holdfast.gateway.budget import Budget
from holdfast.gateway.byte_range import ByteRange, parse_range
from holdfast.gateway.disposition import attachment
from holdfast.gateway.leases import Leases
from holdfast.gateway.place import from_base64, to_base64
from holdfast.gateway.pump import Pump, PumpSink
from holdfast.gateway.stores import Stores

# Budget


def test_a_budget_serves_in_order_and_nobody_takes_more_than_a_share() -> None:
    async def run() -> None:
        budget = Budget(10, 5, patience_seconds=30)
        order: list[str] = []
        release = {name: asyncio.Event() for name in "abcdef"}

        async def hold(name: str, owner: str, amount: int) -> None:
            async with budget.take(owner, amount):
                order.append(name)
                await release[name].wait()

        async def settle() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        tasks = [asyncio.ensure_future(hold("a", "x", 4))]
        await settle()
        tasks.append(asyncio.ensure_future(hold("b", "x", 4)))  # more than x's share
        tasks.append(asyncio.ensure_future(hold("c", "y", 5)))
        await settle()
        assert order == ["a", "c"]
        assert budget.taken == 9
        tasks.append(asyncio.ensure_future(hold("d", "z", 3)))  # does not fit
        tasks.append(asyncio.ensure_future(hold("e", "z", 1)))  # would, but waits its turn
        await settle()
        assert order == ["a", "c"]
        release["c"].set()
        await settle()
        assert order == ["a", "c", "d", "e"]
        release["a"].set()
        await settle()
        assert order[-1] == "b"
        for event in release.values():
            event.set()
        await asyncio.gather(*tasks)
        assert budget.taken == 0
        # More than there is at all is admitted alone, or it could never be.
        async with budget.take("x", 50):
            assert budget.taken == 50
        assert budget.taken == 0

    asyncio.run(run())


def test_who_waits_too_long_is_told_and_who_goes_away_leaves_no_trace() -> None:
    async def run() -> None:
        budget = Budget(2, 2, patience_seconds=0.05)
        async with budget.take("x", 2):
            with pytest.raises(ServerUnavailable):
                async with budget.take("y", 1):
                    pass
            waiting = asyncio.ensure_future(budget.take("y", 1).__aenter__())
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        # Cancelled at the very moment that it is admitted.
        async with budget.take("x", 2):
            late = asyncio.ensure_future(budget.take("y", 1).__aenter__())
            await asyncio.sleep(0)
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        assert budget.taken == 0

    asyncio.run(run())


# Leases


def test_leases_make_once_keep_what_is_used_and_close_the_oldest() -> None:
    made: list[str] = []
    closed: list[str] = []
    now = [0.0]
    leases: Leases[str] = Leases(closed.append, limit=2, idle_seconds=100, clock=lambda: now[0])

    def make(name: str) -> str:
        made.append(name)
        return name

    with leases.use("a", lambda: make("a")):
        for name in "bcd":
            with leases.use(name, lambda name=name: make(name)) as value:  # type: ignore[misc]
                assert value == name
        assert closed == ["b", "c"]  # a is in use
        with leases.use("d", lambda: make("d again")) as value:
            assert value == "d"
    assert made == ["a", "b", "c", "d"]
    now[0] = 101
    with leases.use("e", lambda: make("e")):
        assert set(closed) == {"b", "c"}
    assert set(closed) == {"a", "b", "c", "d"}
    with leases.use("e", lambda: make("e")):
        leases.close()
        assert "e" not in closed
    assert closed[-1] == "e"
    assert len(leases) == 0


def test_a_failure_to_make_one_is_forgotten() -> None:
    leases: Leases[str] = Leases(lambda _value: None, limit=2, idle_seconds=100)

    def fail() -> str:
        raise NotFound("not now")

    with pytest.raises(NotFound), leases.use("a", fail):
        pass
    assert len(leases) == 0
    with leases.use("a", lambda: "there") as value:
        assert value == "there"


def test_many_threads_make_one_thing_once() -> None:
    made: list[int] = []
    leases: Leases[int] = Leases(lambda _value: None, limit=2, idle_seconds=100)

    def make() -> int:
        time.sleep(0.02)
        made.append(1)
        return 1

    def act() -> None:
        with leases.use("a", make):
            pass

    threads = [threading.Thread(target=act) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_a_store_with_an_unknown_option_is_refused() -> None:
    stores = Stores()
    with pytest.raises(UsageError, match="colour"), stores.use("/nowhere", {"colour": "red"}):
        pass


# Pump


def test_a_pump_gives_everything_in_order_and_waits_for_its_reader() -> None:
    parts = [bytes([number % 256]) * size for number, size in enumerate([1, 300_000, 7] * 40)]
    written = [0]

    def produce(sink: PumpSink) -> None:
        for part in parts:
            sink.write(part)
            written[0] += len(part)

    async def run() -> bytes:
        pump = Pump(produce, "test")
        got = bytearray(await pump.read())
        await asyncio.sleep(0.1)
        assert written[0] < 6_000_000  # of 12
        while data := await pump.read():
            got += data
        await pump.close()
        return bytes(got)

    assert asyncio.run(run()) == b"".join(parts)


def test_a_pump_tells_what_failed_and_stops_what_nobody_reads() -> None:
    stopped: list[BaseException] = []

    def fail(sink: PumpSink) -> None:
        sink.write(b"x")
        raise Damaged("a blob is lost")

    def endless(sink: PumpSink) -> None:
        try:
            while True:
                sink.write(bytes(1_000_000))
        except BaseException as error:
            stopped.append(error)
            raise

    async def run() -> None:
        broken = Pump(fail, "test")
        with pytest.raises(Damaged):
            await broken.read()
        await broken.close()
        left = Pump(endless, "test")
        assert len(await left.read()) == 1_000_000
        await left.close()

    asyncio.run(run())
    assert [type(error) for error in stopped] == [Interrupted]


# Ranges, names, base64


@pytest.mark.parametrize(
    ("header", "size", "stretch"),
    [
        ("bytes=0-9", 10, (0, 10)),
        ("bytes=0-10", 10, (0, 10)),
        ("bytes=9-", 10, (9, 1)),
        ("bytes=10-", 10, None),
        ("bytes=-3", 10, (7, 3)),
        ("bytes=-30", 10, (0, 10)),
        ("bytes=-0", 10, None),
        ("bytes=0-", 0, None),
    ],
)
def test_ranges(header: str, size: int, stretch: tuple[int, int] | None) -> None:
    parsed = parse_range(header)
    assert parsed is not None
    assert parsed.within(size) == stretch


@pytest.mark.parametrize("header", [None, "", "bytes", "bytes=5-4", "bytes=1-2,3-4", "bytes=٣-"])
def test_what_is_no_range_asks_for_everything(header: str | None) -> None:
    assert parse_range(header) is None
    assert ByteRange(0, None).within(5) == (0, 5)


@pytest.mark.parametrize(
    ("name", "plain", "exact"),
    [
        (b"a.txt", "a.txt", "a.txt"),
        ("ü €.bin".encode(), "_ _.bin", "%C3%BC%20%E2%82%AC.bin"),
        (b"\xff\xfe.dat", "_FF_FE.dat", "%25FF%25FE.dat"),
        (b'q"uo\\te.txt', "q_uo_te.txt", "q%22uo_te.txt"),
        (b"new\r\nline: x", "new__line_ x", "new__line%3A%20x"),
        (b"..", "download", "download"),
        (b"", "download", "download"),
        (b"x" * 300 + b".zip", "x" * 196 + ".zip", "x" * 196 + ".zip"),
    ],
)
def test_names_of_downloads(name: bytes, plain: str, exact: str) -> None:
    value = attachment(name)
    assert value == f"attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}"
    assert value.isascii()
    assert value.isprintable()


def test_base64_of_either_alphabet() -> None:
    for data in (b"", b"a", b"\xff\xfe\xfd", bytes(range(256))):
        assert from_base64(to_base64(data)) == data
        assert from_base64(to_base64(data).rstrip("=")) == data
    assert from_base64("+/8=") == b"\xfb\xff"
    for wrong in ("!", "a", "ä"):
        with pytest.raises(UsageError):
            from_base64(wrong)


# Errors


def request(method: str = "GET", accept: str = "*/*") -> Request:
    headers = [(b"accept", accept.encode())]
    return Request({"type": "http", "method": method, "path": "/", "headers": headers})


SECRET = "/srv/of/the/operator"


@pytest.mark.parametrize(
    ("error", "status", "method"),
    [
        (NotSignedIn("who?"), 401, "GET"),
        (NotFound("no"), 404, "GET"),
        (ObjectExists(f"x exists in {SECRET}"), 409, "POST"),
        (StoreFull(f"no room in {SECRET}"), 507, "POST"),
        (StoreUnavailable(f"no answer of {SECRET}"), 503, "GET"),
        (StoreError(f"{SECRET} fails"), 502, "GET"),
        (StoreDenied(f"{SECRET} refuses us"), 502, "GET"),
        (StoreDenied(f"a retention period in {SECRET}"), 403, "DELETE"),
        (WrongPassword(f"at {SECRET}"), 500, "GET"),
        (Damaged(f"in {SECRET}"), 500, "GET"),
        (TooManyRequests("slowly", 7), 429, "GET"),
    ],
)
def test_errors_have_a_status_and_tell_no_place(
    error: HoldfastError, status: int, method: str
) -> None:
    for answer in (plain_answer(error, request(method)), problem_answer(error, request(method))):
        assert answer.status_code == status
        assert SECRET.encode() not in bytes(answer.body)
        assert ("www-authenticate" in answer.headers) == (status == 401)
        assert answer.headers.get("retry-after") == {503: "5", 429: "7"}.get(status)
    assert answer.headers["content-type"] == "application/problem+json"
    asked_for = plain_answer(error, request(method, "application/problem+json"))
    assert asked_for.body == answer.body
