"""Regions: where things can be stored."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Response
from pydantic import Field

from holdfast.api.document import Body, Document, Listing
from holdfast.api.fields import Word
from holdfast.api.operation import router
from holdfast.control import regions as service
from holdfast.edge.answers import listing
from holdfast.edge.call import Asked
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, Cursor, Limit, page_of_all

routes = router("regions")

OptionName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.-]+$")]
OptionValue = Annotated[str, Field(max_length=4000, pattern=r"^[^\x00]*$")]
Options = Annotated[dict[OptionName, OptionValue], Field(max_length=50)]


class Region(Document):
    """A place with one object store."""

    id: str
    name: str
    created_at: datetime


class Regions(Listing[Region]):
    """A page of regions."""


class NewRegion(Body):
    """A place to store things. `options` are the store's credentials; they are never shown."""

    name: Annotated[str, Field(min_length=1, max_length=50, pattern=r"^[^\x00-\x1f\x7f]+$")]
    location: Word
    options: Annotated[dict[OptionName, OptionValue], Field(max_length=50)] = Field(
        default_factory=dict
    )


@routes.get("/regions", response_model=Regions)
def list_regions(call: Asked, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Response:
    """List the regions by name."""
    with call.reading() as tx:
        found = service.regions(tx, call.who)
    page = page_of_all(found, name=lambda row: row.id, cursor=cursor, limit=limit)
    return listing(call.request, page, Region.model_validate)


@routes.post("/regions", response_model=Region, status_code=201)
def create_region(call: Asked, body: NewRegion, key: KeyHeader = None) -> Response:
    """Make a region. Operators only."""
    return once(
        call,
        key,
        body,
        lambda tx: service.create_as(
            tx,
            call.who,
            name=body.name,
            location=body.location,
            options=body.options or None,
            keys=call.keys,
            now=call.now,
        ),
        Region.model_validate,
        status=201,
    )
