"""Prices: what storing and moving data costs."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from fastapi import Query, Response
from pydantic import Field

from holdfast.api.document import Body, Document, Listing
from holdfast.api.fields import Flag, Id, Time
from holdfast.api.operation import router
from holdfast.control import prices as service
from holdfast.control.database import Tx
from holdfast.control.tables import Price as Row
from holdfast.edge.answers import listing
from holdfast.edge.call import Asked
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, Cursor, Limit, page_of_all

routes = router("prices")


class Price(Document):
    """One rate, valid from a time until a later one of the same kind."""

    id: str
    what: str
    region_id: str
    currency: str
    rate: str
    unit: str
    valid_from: datetime
    origin: str


class Prices(Listing[Price]):
    """A page of prices."""


class NewPrice(Body):
    """A rate as it is published, such as 0.023 per GB-month."""

    what: Literal["stored", "uploaded", "downloaded"]
    region_id: Id
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    rate: Annotated[str, Field(max_length=40, pattern=r"^[0-9]{1,12}(\.[0-9]{1,18})?$")]
    unit: Annotated[str, Field(max_length=32, pattern=r"^[A-Za-z-]+$")]
    valid_from: Time | None = None


@routes.get("/prices", response_model=Prices)
def list_prices(
    call: Asked,
    current: Annotated[Flag, Query(description="Only those valid now, and those to come.")] = True,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """List prices."""
    with call.reading() as tx:
        found = service.prices(tx, call.who, at=call.now if current else None)
    page = page_of_all(found, name=lambda row: row.id, cursor=cursor, limit=limit)
    return listing(call.request, page, Price.model_validate)


@routes.post("/prices", response_model=Price, status_code=201)
def set_price(call: Asked, body: NewPrice, key: KeyHeader = None) -> Response:
    """Set a price from now, or from a time to come, on. Operators only."""

    def act(tx: Tx) -> Row:
        call.who.require_operator()
        return service.set_price(
            tx,
            what=body.what,
            region_id=body.region_id,
            currency=body.currency,
            rate=Decimal(body.rate),
            unit=body.unit,
            valid_from=max(body.valid_from or call.now, call.now),
            origin=f"{call.who.kind}:{call.who.id}",
            who=call.who,
            now=call.now,
        )

    return once(call, key, body, act, Price.model_validate, status=201)
