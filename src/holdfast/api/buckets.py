"""Buckets: named places for objects, also reached by S3 clients under /s3."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from fastapi import Path, Query, Response
from pydantic import Field

from holdfast.api.document import Body, Document, Listing
from holdfast.api.fields import Flag
from holdfast.api.operation import PREFIX, router
from holdfast.control import bucket_clearing
from holdfast.control import buckets as service
from holdfast.control.database import Tx
from holdfast.control.tables import Bucket as Row
from holdfast.edge.answers import document, listing, nothing
from holdfast.edge.call import Asked
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, Cursor, Limit
from holdfast.errors import BucketNotEmpty

routes = router("buckets")

MOST_BATCHES: Final = 100
"""So that no request lasts for minutes; one that is repeated goes on."""

BucketName = Annotated[
    str, Field(min_length=3, max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$")
]
PathName = Annotated[str, Path(max_length=255, pattern=r"^[^\x00]*$")]


class Bucket(Document):
    """A bucket. `stored_bytes` counts what lies there once, also where objects share it."""

    id: str
    name: str
    region_id: str
    created_at: datetime
    objects: int
    stored_bytes: int


class Buckets(Listing[Bucket]):
    """A page of buckets."""


class NewBucket(Body):
    """A bucket's name: 3 to 63 lower-case letters, digits, hyphens and dots, as S3 has it."""

    name: BucketName


@routes.get("/buckets", response_model=Buckets)
def list_buckets(call: Asked, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Response:
    """List buckets with what they store, newest first."""
    with call.reading() as tx:
        found = service.listed(tx, call.who, cursor=cursor, limit=limit)
    return listing(call.request, found, Bucket.model_validate)


@routes.post("/buckets", response_model=Bucket, status_code=201)
def create_bucket(call: Asked, body: NewBucket, key: KeyHeader = None) -> Response:
    """Make a bucket; one of that name that the account has already is answered the same."""

    def act(tx: Tx) -> Row:
        return service.create(tx, call.who, body.name, keys=call.keys, now=call.now)[0]

    return once(
        call,
        key,
        body,
        act,
        Bucket.model_validate,
        status=201,
        location=lambda row: f"{PREFIX}/buckets/{row.name}",
    )


@routes.get("/buckets/{name}", response_model=Bucket)
def get_bucket(call: Asked, name: PathName) -> Response:
    """Show a bucket with what it stores."""
    with call.reading() as tx:
        row = service.show(tx, call.who, name)
    return document(call.request, Bucket.model_validate(row))


@routes.delete("/buckets/{name}", status_code=204)
def remove_bucket(
    call: Asked,
    name: PathName,
    contents: Annotated[
        Flag, Query(description="Remove what is in it, too; snapshots of tasks stay.")
    ] = False,
) -> Response:
    """Remove a bucket, which must be empty (409) unless its contents are to go with it.

    A very large one may take several requests: 409 then says how far it has come.
    """
    database, removed = call.deployment.database, 0
    for _ in range(MOST_BATCHES if contents else 0):
        done = database.transact(lambda tx: bucket_clearing.clear(tx, call.who, name, now=call.now))
        removed += done
        if not done:
            break
    else:
        if contents:
            raise BucketNotEmpty(
                f"{removed} objects and uploads were removed from {name}, and there are more; "
                "repeat the request until it is done."
            )
    database.transact(lambda tx: service.remove(tx, call.who, name, now=call.now))
    return nothing()
