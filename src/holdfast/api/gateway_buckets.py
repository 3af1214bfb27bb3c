"""The gateways' side of buckets: what a gateway asks and reports for whoever speaks to it.

A gateway acts for a caller, whose credential it was shown or whose signature it has checked;
every right is checked here again, for that caller. Acts may be repeated when their answer
was lost: they are then found done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import orjson
from fastapi import Response

from holdfast.api.gateway_bucket_documents import (
    Ask,
    AskOfBucket,
    BeginUpload,
    BodiesQuestion,
    BucketGrant,
    BucketPrincipal,
    CompleteUpload,
    CopyObject,
    CreatedBucket,
    DeletedKeys,
    DueBodies,
    DueBody,
    GatewayBucket,
    GatewayBuckets,
    GatewayObject,
    GatewayObjects,
    GatewayPart,
    GatewayParts,
    GatewayUpload,
    GatewayUploads,
    KeysQuestion,
    ListObjects,
    ListParts,
    ListUploads,
    ManyKeys,
    OneObject,
    OneUpload,
    OpenedBucket,
    PutObject,
    Refusal,
    RemoveBucket,
    RemovedBodies,
    ReserveBodies,
    ReservedBodies,
    SeenView,
    SigningKey,
    SigningKeys,
    StoredPiece,
    UploadedPart,
)
from holdfast.api.operation import router
from holdfast.control import bodies, bucket_access, buckets, object_list, objects, uploads
from holdfast.control.database import Tx
from holdfast.control.principal import Principal
from holdfast.control.tables import Bucket as BucketRow
from holdfast.control.tables import Upload as UploadRow
from holdfast.edge.answers import JSON_TYPE, nothing, plain
from holdfast.edge.call import AskedByGateway, Call

routes = router("gateway")

_T = TypeVar("_T")


def _principal(call: Call, tx: Tx, body: Ask) -> Principal:
    return bucket_access.caller(
        tx,
        credential=body.caller.credential,
        token_id=body.caller.token_id,
        address=body.address or call.address,
        request_id=call.request_id,
        now=call.now,
    )


def _note(call: Call, who: Principal) -> None:
    """Write down that a token was used; in a transaction of its own, so in no other one."""
    if who.kind == "token":
        call.deployment.uses.note(call.deployment.database, who.id, who.address, call.now)


def _changed(call: Call, body: AskOfBucket, act: Callable[[Tx, Principal, BucketRow], _T]) -> _T:
    """Do something in a bucket for the caller; again where the database was lost meanwhile."""

    def attempt(tx: Tx) -> _T:
        who = _principal(call, tx, body)
        return act(tx, who, buckets.get(tx, who, body.bucket))

    return call.deployment.database.transact(attempt)


@routes.post("/gateway/s3/keys", response_model=SigningKeys)
def derive_signing_keys(call: AskedByGateway, body: KeysQuestion) -> Response:
    """Ask which keys may have signed a request. The answer may be kept for five seconds."""
    with call.reading() as tx:
        found = bucket_access.signing_keys(
            tx, body.access_key, body.date, body.region, keys=call.keys, now=call.now
        )
    return plain(
        SigningKeys(
            candidates=[
                SigningKey(token_id=token_id, signing_key=key.hex()) for token_id, key in found
            ]
        )
    )


@routes.post("/gateway/buckets/list", response_model=GatewayBuckets)
def gateway_list_buckets(call: AskedByGateway, body: Ask) -> Response:
    """List the caller's buckets."""
    with call.reading() as tx:
        who = _principal(call, tx, body)
        found = buckets.buckets(tx, who)
    _note(call, who)
    return plain(GatewayBuckets(buckets=[GatewayBucket.model_validate(each) for each in found]))


@routes.post("/gateway/buckets/create", response_model=CreatedBucket)
def gateway_create_bucket(call: AskedByGateway, body: AskOfBucket) -> Response:
    """Make a bucket; one that the account has already is no error."""

    def act(tx: Tx) -> tuple[BucketRow, bool]:
        who = _principal(call, tx, body)
        return buckets.create(tx, who, body.bucket, keys=call.keys, now=call.now)

    row, made = call.deployment.database.transact(act)
    return plain(CreatedBucket(bucket=GatewayBucket.model_validate(row), made=made))


@routes.post("/gateway/buckets/open", response_model=OpenedBucket)
def gateway_open_bucket(call: AskedByGateway, body: AskOfBucket) -> Response:
    """Show a bucket, what the caller may do in it, and where its bodies lie."""
    with call.reading() as tx:
        who = _principal(call, tx, body)
        found = bucket_access.opened(tx, who, body.bucket, keys=call.keys)
    # Whoever does something in a bucket opens it first.
    _note(call, who)
    grant = found.grant
    refusal = grant.refusal
    return plain(
        OpenedBucket(
            bucket=GatewayBucket.model_validate(found.bucket),
            grant=BucketGrant(
                account_id=grant.account_id,
                principal=BucketPrincipal(kind=who.kind, id=who.id),
                rights=sorted(grant.rights),  # type: ignore[arg-type]
                refusal=None
                if refusal is None
                else Refusal(code=refusal.code, message=refusal.message),
                repository_id=grant.repository_id,
                location=grant.location,
                options=dict(grant.options),
                password=grant.password,
            ),
            views=[SeenView.model_validate(each) for each in found.views],
        )
    )


@routes.post("/gateway/buckets/remove", status_code=204)
def gateway_remove_bucket(call: AskedByGateway, body: RemoveBucket) -> Response:
    """Remove an empty bucket; 409 `bucket_not_empty` otherwise."""

    def act(tx: Tx) -> None:
        who = _principal(call, tx, body)
        buckets.remove(tx, who, body.bucket, views_empty=body.views_empty, now=call.now)

    call.deployment.database.transact(act)
    return nothing()


@routes.post("/gateway/buckets/objects", response_model=GatewayObjects)
def gateway_list_objects(call: AskedByGateway, body: ListObjects) -> Response:
    """A page of a bucket's objects, in byte order of their keys."""
    with call.reading() as tx:
        who = _principal(call, tx, body)
        found = object_list.objects(
            tx,
            who,
            buckets.get(tx, who, body.bucket),
            prefix=body.prefix,
            delimiter=body.delimiter,
            after=body.after,
            begin_at=body.begin_at,
            limit=body.limit + 1,
        )
    page = {
        "objects": [each._asdict() for each in found[: body.limit]],
        "more": len(found) > body.limit,
    }
    # Written without the document's checks, which would take most of the time of a page.
    return Response(orjson.dumps(page, option=orjson.OPT_UTC_Z), media_type=JSON_TYPE)


@routes.post("/gateway/buckets/object", response_model=GatewayObject)
def gateway_get_object(call: AskedByGateway, body: OneObject) -> Response:
    """One object, also a hidden one; 404 `no_such_key` where there is neither."""
    with call.reading() as tx:
        who = _principal(call, tx, body)
        row = objects.head(tx, who, buckets.get(tx, who, body.bucket), body.key, hidden=True)
    return plain(GatewayObject.model_validate(row))


@routes.post("/gateway/buckets/put", response_model=GatewayObject)
def gateway_put_object(call: AskedByGateway, body: PutObject) -> Response:
    """Report an object whose bodies are stored."""
    row = _changed(
        call,
        body,
        lambda tx, who, bucket: objects.put(
            tx,
            who,
            bucket,
            body.key,
            bodies=_pieces(body.bodies),
            size=body.size_bytes,
            etag=body.etag,
            content_type=body.content_type,
            headers=body.headers,
            only_new=body.only_new,
            now=call.now,
        ),
    )
    return plain(GatewayObject.model_validate(row))


@routes.post("/gateway/buckets/copy", response_model=GatewayObject)
def gateway_copy_object(call: AskedByGateway, body: CopyObject) -> Response:
    """Copy an object within the account; no bytes are moved."""
    row = _changed(
        call,
        body,
        lambda tx, who, bucket: objects.copy(
            tx,
            who,
            bucket,
            body.key,
            source_bucket=buckets.get(tx, who, body.source_bucket),
            source_key=body.source_key,
            content_type=body.content_type,
            headers=body.headers,
            only_new=body.only_new,
            now=call.now,
        ),
    )
    return plain(GatewayObject.model_validate(row))


@routes.post("/gateway/buckets/delete", response_model=DeletedKeys)
def gateway_delete_objects(call: AskedByGateway, body: ManyKeys) -> Response:
    """Delete objects; a key without one is no error. Hidden ones stay hidden."""
    deleted = _changed(
        call,
        body,
        lambda tx, who, bucket: objects.delete(tx, who, bucket, body.keys, now=call.now),
    )
    return plain(DeletedKeys(deleted=deleted))


@routes.post("/gateway/buckets/hide", response_model=DeletedKeys)
def gateway_hide_objects(call: AskedByGateway, body: ManyKeys) -> Response:
    """Delete what is seen under these keys: objects, and files of views, which are hidden."""
    deleted = _changed(
        call,
        body,
        lambda tx, who, bucket: objects.hide(tx, who, bucket, body.keys, now=call.now),
    )
    return plain(DeletedKeys(deleted=deleted))


@routes.post("/gateway/buckets/upload-begin", response_model=GatewayUpload)
def gateway_begin_upload(call: AskedByGateway, body: BeginUpload) -> Response:
    """Begin a multipart upload; after seven days it is aborted."""
    row = _changed(
        call,
        body,
        lambda tx, who, bucket: uploads.begin(
            tx,
            who,
            bucket,
            body.key,
            content_type=body.content_type,
            headers=body.headers,
            now=call.now,
        ),
    )
    return plain(_upload(row))


@routes.post("/gateway/buckets/upload-part", response_model=GatewayPart)
def gateway_store_part(call: AskedByGateway, body: UploadedPart) -> Response:
    """Report a part whose bodies are stored."""
    row = _changed(
        call,
        body,
        lambda tx, who, bucket: uploads.part(
            tx,
            who,
            bucket,
            body.key,
            body.upload_id,
            number=body.number,
            bodies=_pieces(body.bodies),
            size=body.size_bytes,
            etag=body.etag,
            now=call.now,
        ),
    )
    return plain(GatewayPart.model_validate(row))


@routes.post("/gateway/buckets/upload-parts", response_model=GatewayParts)
def gateway_list_parts(call: AskedByGateway, body: ListParts) -> Response:
    """The stored parts of an upload."""
    with call.reading() as tx:
        who = _principal(call, tx, body)
        upload, found = uploads.parts(
            tx,
            who,
            buckets.get(tx, who, body.bucket),
            body.key,
            body.upload_id,
            after=body.after,
            limit=body.limit + 1,
        )
    return plain(
        GatewayParts(
            upload=_upload(upload),
            parts=[GatewayPart.model_validate(each) for each in found[: body.limit]],
            more=len(found) > body.limit,
        )
    )


@routes.post("/gateway/buckets/upload-complete", response_model=GatewayObject)
def gateway_complete_upload(call: AskedByGateway, body: CompleteUpload) -> Response:
    """Make an object of an upload's parts; repeated, it is answered the same."""
    row = _changed(
        call,
        body,
        lambda tx, who, bucket: uploads.complete(
            tx,
            who,
            bucket,
            body.key,
            body.upload_id,
            parts=[(each.number, each.etag) for each in body.parts],
            only_new=body.only_new,
            now=call.now,
        ),
    )
    return plain(GatewayObject.model_validate(row))


@routes.post("/gateway/buckets/upload-abort", status_code=204)
def gateway_abort_upload(call: AskedByGateway, body: OneUpload) -> Response:
    """Abort an upload; its parts are removed."""
    _changed(
        call,
        body,
        lambda tx, who, bucket: uploads.abort(
            tx, who, bucket, body.key, body.upload_id, now=call.now
        ),
    )
    return nothing()


@routes.post("/gateway/buckets/uploads", response_model=GatewayUploads)
def gateway_list_uploads(call: AskedByGateway, body: ListUploads) -> Response:
    """Uploads in progress."""
    with call.reading() as tx:
        who = _principal(call, tx, body)
        found = uploads.uploads(
            tx,
            who,
            buckets.get(tx, who, body.bucket),
            prefix=body.prefix,
            after_key=body.after_key,
            after_id=body.after_id,
            limit=body.limit + 1,
        )
    shown = [_upload(each) for each in found[: body.limit]]
    return plain(GatewayUploads(uploads=shown, more=len(found) > body.limit))


@routes.post("/gateway/buckets/reserve", response_model=ReservedBodies)
def gateway_reserve_bodies(call: AskedByGateway, body: ReserveBodies) -> Response:
    """Reserve ids of bodies, before anything is written."""
    ids = call.deployment.database.transact(
        lambda tx: bodies.reserve(tx, body.repository_id, body.count, now=call.now)
    )
    return plain(ReservedBodies(ids=ids))


@routes.post("/gateway/buckets/bodies-due", response_model=DueBodies)
def gateway_list_due_bodies(call: AskedByGateway, body: BodiesQuestion) -> Response:
    """Bodies that nobody needs any more, those of all accounts."""
    with call.reading() as tx:
        found = bodies.due(tx, limit=body.limit, keys=call.keys, now=call.now)
    return plain(DueBodies(bodies=[DueBody.model_validate(each) for each in found]))


@routes.post("/gateway/buckets/bodies-removed", status_code=204)
def gateway_note_removed_bodies(call: AskedByGateway, body: RemovedBodies) -> Response:
    """Report bodies as removed from the store."""
    call.deployment.database.transact(lambda tx: bodies.removed(tx, body.ids, now=call.now))
    return nothing()


def _pieces(given: list[StoredPiece]) -> list[bodies.Piece]:
    return [bodies.Piece(each.id, each.bytes) for each in given]


def _upload(row: UploadRow) -> GatewayUpload:
    return GatewayUpload(
        upload_id=row.id,
        key=row.key,
        content_type=row.content_type,
        headers=row.headers,
        started_at=row.started_at,
    )
