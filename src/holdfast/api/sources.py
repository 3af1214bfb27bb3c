"""Sources: what is protected."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Query, Response
from pydantic import Field

from holdfast.api.document import Body, Changes, Document, Listing
from holdfast.api.fields import Boolean, FilterId, Flag, Id, Labels, PathId, PathText
from holdfast.api.operation import PREFIX, router
from holdfast.control import sources as service
from holdfast.edge.answers import change, document, listing, remove
from holdfast.edge.call import Asked
from holdfast.edge.etags import IfMatch
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, Cursor, Limit

routes = router("sources")

OBSERVED: Final = ("protected_at",)
Pattern = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00]+$")]


class Source(Document):
    """A path on a host. `protected_at` is when its last good snapshot was captured."""

    id: str
    host_id: str
    kind: str
    path: str
    options: dict[str, Any]
    labels: dict[str, str]
    created_at: datetime
    removed_at: datetime | None
    protected_at: datetime | None


class Sources(Listing[Source]):
    """A page of sources."""


class Options(Body):
    """How a path is read: what is left out, and what the copy is made from."""

    exclude: Annotated[list[Pattern], Field(max_length=1000)] = Field(default_factory=list)
    one_file_system: Boolean = False
    consistency: Literal["auto", "snapshot", "reflink", "live"] = "auto"


class NewSource(Body):
    """What to protect: an absolute path inside a guarded root of the host."""

    host_id: Id
    path: PathText
    options: Options = Field(default_factory=Options)
    labels: Labels = Field(default_factory=dict)


class SourceEdit(Changes):
    """What can be changed of a source; another path is another source."""

    options: Options = Field(default_factory=Options)
    labels: Labels = Field(default_factory=dict)


@routes.get("/sources", response_model=Sources)
def list_sources(
    call: Asked,
    *,
    host_id: FilterId = None,
    search: Annotated[
        str | None, Query(max_length=200, pattern=r"^[^\x00]*$", description="In their paths.")
    ] = None,
    removed: Annotated[Flag, Query(description="Also those that were removed.")] = False,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """List what is protected, newest first."""
    with call.reading() as tx:
        found = service.sources(
            tx,
            call.who,
            cursor=cursor,
            limit=limit,
            host_id=host_id,
            search=search,
            removed=removed,
        )
    return listing(call.request, found, Source.model_validate)


@routes.post("/sources", response_model=Source, status_code=201)
def create_source(call: Asked, body: NewSource, key: KeyHeader = None) -> Response:
    """Protect a path of a host."""
    return once(
        call,
        key,
        body,
        lambda tx: service.create(
            tx,
            call.who,
            host_id=body.host_id,
            path=body.path,
            options=body.options.model_dump(exclude_unset=True),
            labels=body.labels,
            now=call.now,
        ),
        Source.model_validate,
        status=201,
        location=lambda row: f"{PREFIX}/sources/{row.id}",
        observed=OBSERVED,
    )


@routes.get("/sources/{source_id}", response_model=Source)
def get_source(call: Asked, source_id: PathId) -> Response:
    """Show a source."""
    with call.reading() as tx:
        row = service.get(tx, call.who, source_id)
    return document(call.request, Source.model_validate(row), observed=OBSERVED)


@routes.patch("/sources/{source_id}", response_model=Source)
def edit_source(
    call: Asked, source_id: PathId, body: SourceEdit, if_match: IfMatch = None
) -> Response:
    """Change a source's options or labels."""
    changes = dict(body.given())
    if "options" in changes:
        changes["options"] = body.options.model_dump(exclude_unset=True)
    return change(
        call,
        if_match,
        read=lambda tx: service.get(tx, call.who, source_id),
        act=lambda tx: service.edit(tx, call.who, source_id, now=call.now, **changes),
        show=Source.model_validate,
        observed=OBSERVED,
    )


@routes.delete("/sources/{source_id}", status_code=204)
def remove_source(call: Asked, source_id: PathId, if_match: IfMatch = None) -> Response:
    """Protect a path no longer.

    Its schedules end and runs in progress are cancelled; its snapshots stay.
    """
    return remove(
        call,
        if_match,
        read=lambda tx: service.get(tx, call.who, source_id),
        act=lambda tx: service.remove(tx, call.who, source_id, now=call.now),
        show=Source.model_validate,
        observed=OBSERVED,
    )
