"""The price source is read hourly; what cannot be read changes nothing and is told (B10)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from control_world import World
from sqlalchemy import select

from holdfast.control import price_source, prices
from holdfast.control.database import Database
from holdfast.control.tables import Event, Price
from holdfast.errors import ServerUnavailable, UsageError


def document(rate: str) -> bytes:
    # A number as it stands in JSON, not as a float would have it.
    return (
        '{"format": "holdfast-prices-1", "prices": [{"what": "stored", "region": "here", '
        f'"currency": "EUR", "rate": {rate}, "unit": "GB-month"}}]}}'
    ).encode()


def rates(world: World) -> list[str]:
    with world.database.read() as tx:
        return list(tx.scalars(select(Price.rate).order_by(Price.valid_from)))


def told(world: World) -> list[tuple[str, str]]:
    with world.database.read() as tx:
        kind = Event.kind == "prices.unreadable"
        rows = tx.scalars(select(Event).where(kind).order_by(Event.id))
        return [(each.account_id, each.message) for each in rows]


class _Served(BaseHTTPRequestHandler):
    status = 200
    body = b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def served() -> Iterator[tuple[str, type[_Served]]]:
    handler = type("Handler", (_Served,), {"body": document("0.1")})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://user:secret@127.0.0.1:{server.server_port}/prices.json?key=secret", handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_it_is_read_hourly_and_by_one_replica(world: World, tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_bytes(document("0.0200000000000000000001"))
    other = Database(world.database.url)

    def refresh(database: Database) -> int:
        return price_source.refresh_due(database, str(path), now=world.now)

    try:
        assert [refresh(world.database), refresh(other)] == [1, 0]
        assert rates(world) == ["0.0200000000000000000001"]
        path.write_bytes(document("0.03"))
        world.advance(minutes=59)
        assert [refresh(other), refresh(world.database)] == [0, 0]
        world.advance(minutes=1)
        assert [refresh(other), refresh(world.database)] == [1, 0]
        assert rates(world)[1:] == ["0.03"]
    finally:
        other.close()


def test_without_a_source_new_regions_get_the_built_in_prices(world: World) -> None:
    assert price_source.refresh_due(world.database, None, now=world.now) == 9
    assert price_source.refresh_due(world.database, None, now=world.now) == 0
    world.add_region("there")
    assert price_source.refresh_due(world.database, None, now=world.now) == 9


@pytest.mark.parametrize(
    "content",
    [None, b"not JSON", b"[]", b'{"format": "other"}', document('"cheap"')],
    ids=["missing", "text", "list", "format", "entry"],
)
def test_what_cannot_be_read_leaves_the_prices_and_is_told(
    world: World, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "prices.json"
    path.write_bytes(document("0.02"))
    price_source.refresh_due(world.database, f"file://{path}", now=world.now)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    world.advance(hours=1)
    assert price_source.refresh_due(world.database, f"file://{path}", now=world.now) == 0
    assert rates(world) == ["0.02"]
    [(account_id, message)] = told(world)
    assert account_id == world.operator_account.id
    assert message.endswith("The prices that were read last stay valid.")
    path.write_bytes(document("0.04"))
    world.advance(hours=1)
    assert price_source.refresh_due(world.database, f"file://{path}", now=world.now) == 1
    assert len(told(world)) == 1


def test_it_is_read_from_an_address(world: World, served: tuple[str, type[_Served]]) -> None:
    address, _ = served
    assert price_source.refresh_due(world.database, address, now=world.now) == 1
    with world.database.read() as tx:
        [price] = prices.prices(tx, world.principal())
    assert price.rate == "0.1"
    assert price.origin.endswith("/prices.json"), "no secret of the address is kept"
    assert "secret" not in price.origin


def test_an_address_that_fails_is_told_without_its_secrets(
    world: World, served: tuple[str, type[_Served]]
) -> None:
    address, handler = served
    handler.status = 500
    assert price_source.refresh_due(world.database, address, now=world.now) == 0
    [(_, message)] = told(world)
    assert "status 500" in message
    assert "secret" not in message


def test_an_address_that_is_not_there() -> None:
    with pytest.raises(ServerUnavailable):
        price_source.read("http://127.0.0.1:1/prices.json")


def test_a_list_that_does_not_end_is_given_up(
    served: tuple[str, type[_Served]], tmp_path: Path
) -> None:
    address, handler = served
    handler.body = b" " * (5 << 20)
    with pytest.raises(UsageError, match="larger"):
        price_source.read(address)
    path = tmp_path / "large.json"
    path.write_bytes(handler.body)
    with pytest.raises(UsageError, match="larger"):
        price_source.read(str(path))


def test_the_documented_example_is_a_price_list(world: World) -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "prices.md"
    example = page.read_text("utf-8").split("```json\n")[1].split("```")[0]
    world.add_region("eu-1")
    with world.database.write() as tx:
        listed = json.loads(example)
        assert prices.refresh(tx, listed, origin="docs", now=world.now) >= len(listed["prices"])
