"""What gateways ask about buckets, and what they are answered: the documents alone."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from holdfast.api.document import Body, Document
from holdfast.api.fields import Boolean, Bytes, Id, Secret

_NO_NUL: Final = r"^[^\x00]*$"
AnyName = Annotated[str, Field(max_length=255, pattern=_NO_NUL, description="A bucket's name.")]
Key = Annotated[str, Field(min_length=1, max_length=1024, pattern=_NO_NUL)]
Keys = Annotated[list[Key], Field(min_length=1, max_length=1000)]
Prefix = Annotated[str, Field(max_length=1024, pattern=_NO_NUL)]
Position = Annotated[str, Field(max_length=1100, pattern=_NO_NUL)]
PageLimit = Annotated[int, Field(strict=True, ge=1, le=1000)]
# One more than a page of S3: whether another page follows is then known without asking again.
ListLimit = Annotated[int, Field(strict=True, ge=1, le=1001)]
ETag = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[!-~]+$")]
PartETag = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="The part's MD5, in hex.")]
PartNumber = Annotated[int, Field(strict=True, ge=1, le=10_000)]
ContentType = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[ -~]+$")]
HeaderName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
HeaderValue = Annotated[str, Field(max_length=4096, pattern=_NO_NUL)]
Headers = Annotated[
    dict[HeaderName, HeaderValue],
    Field(max_length=100, description="What is kept with the object; 8 KiB in all."),
]
UNTYPED: Final = "binary/octet-stream"


class Caller(Body):
    """For whom a gateway acts: exactly one of the two.

    `credential` is what was shown (a token's secret, or a browser's session). `token_id` is
    the token whose signature the gateway has checked itself.
    """

    credential: Secret | None = None
    token_id: Id | None = None

    @model_validator(mode="after")
    def _one(self) -> Caller:
        if (self.credential is None) == (self.token_id is None):
            raise ValueError("give a credential or a token_id: exactly one of both")
        return self


class Ask(Body):
    """Who asks, and from where."""

    caller: Caller
    address: Annotated[str, Field(max_length=64, pattern=_NO_NUL)] = ""


class AskOfBucket(Ask):
    """Who asks about which bucket of the caller's account."""

    bucket: AnyName


class StoredPiece(Body):
    """A body, and how many bytes of the object it holds: all that are in it."""

    id: Id
    bytes: Bytes


Pieces = Annotated[list[StoredPiece], Field(max_length=10_000)]


# --- what is answered ---


class GatewayBucket(Document):
    """A bucket."""

    id: str
    name: str
    account_id: str
    region_id: str
    repository_id: str
    created_at: datetime
    objects: int
    stored_bytes: int


class GatewayBuckets(Document):
    """All buckets of the caller's account that it extends to, by name."""

    buckets: list[GatewayBucket]


class CreatedBucket(Document):
    """A bucket that is there now; `made` says whether it was not before."""

    bucket: GatewayBucket
    made: bool


class BucketPrincipal(Document):
    """Who the caller is."""

    kind: str
    id: str


class Refusal(Document):
    """Why nothing may be added now: credit_exhausted or quota_exceeded."""

    code: str
    message: str


class BucketGrant(Document):
    """What the caller may do in the account's buckets, and where their bodies lie.

    `list`: see what there is; `read`: get bytes; `append`: put and upload; `delete`: delete,
    hide and replace. `refusal` is there where `append` would come to nothing now.
    """

    account_id: str
    principal: BucketPrincipal
    rights: list[Literal["append", "delete", "list", "read"]]
    refusal: Refusal | None
    repository_id: str
    location: str
    options: dict[str, Any]
    password: str


class SeenView(Document):
    """A snapshot that is seen in the bucket below `prefix`; oldest first, later ones win."""

    prefix: str
    snapshot_id: str
    manifest_id: str
    repository_id: str
    captured_path: str
    created_at: datetime


class OpenedBucket(Document):
    """A bucket, what the caller may do with it, and its views. May be kept five seconds."""

    bucket: GatewayBucket
    grant: BucketGrant
    views: list[SeenView]


class PieceShown(Document):
    """A body of an object."""

    id: str
    bytes: int


class GatewayObject(Document):
    """An object. With `hidden` it is none: files of that name in views are not shown.

    A hidden one concerns views that were made at `modified_at` or before.
    """

    key: str
    hidden: bool
    size_bytes: int
    etag: str
    content_type: str
    headers: dict[str, str]
    bodies: list[PieceShown]
    modified_at: datetime


class GatewayListedObject(Document):
    """What a list has of an object."""

    key: str
    hidden: bool
    size_bytes: int
    etag: str
    modified_at: datetime


class GatewayObjects(Document):
    """A page of objects in byte order, hidden ones among them; `more` follow."""

    objects: list[GatewayListedObject]
    more: bool


class DeletedKeys(Document):
    """Those of the keys under which there was an object; the others were not there."""

    deleted: list[str]


class GatewayUpload(Document):
    """A multipart upload in progress."""

    upload_id: str
    key: str
    content_type: str
    headers: dict[str, str]
    started_at: datetime


class GatewayUploads(Document):
    """A page of uploads by key, then by id; `more` follow."""

    uploads: list[GatewayUpload]
    more: bool


class GatewayPart(Document):
    """A stored part of an upload."""

    number: int
    size_bytes: int
    etag: str
    stored_at: datetime


class GatewayParts(Document):
    """A page of an upload's parts by number; `more` follow."""

    upload: GatewayUpload
    parts: list[GatewayPart]
    more: bool


class ReservedBodies(Document):
    """Ids of bodies to be written; one that is not reported within a day is removed."""

    ids: list[str]


class DueBody(Document):
    """A body that nobody needs any more, and where it lies."""

    id: str
    repository_id: str
    location: str
    options: dict[str, Any]


class DueBodies(Document):
    """Bodies to be removed from the store; afterwards report them as removed."""

    bodies: list[DueBody]


class SigningKey(Document):
    """A token that a request may be signed with, and its derived key of that day, in hex."""

    token_id: str
    signing_key: str


class SigningKeys(Document):
    """Whose signature it may be; empty where nobody is known by that access key."""

    candidates: list[SigningKey]


# --- what is asked ---


class KeysQuestion(Body):
    """Which keys a request that names this access key may be signed with.

    `access_key` is a token's id or a person's e-mail address.
    """

    access_key: Annotated[str, Field(min_length=1, max_length=254, pattern=_NO_NUL)]
    date: Annotated[str, Field(pattern=r"^[0-9]{8}$")]
    region: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[!-~]+$")]
    address: Annotated[str, Field(max_length=64, pattern=_NO_NUL)] = ""


class RemoveBucket(AskOfBucket):
    """Remove a bucket without objects; `views_empty`: no view in it shows a file."""

    views_empty: Boolean = False


class ListObjects(AskOfBucket):
    """A page of the keys with `prefix`, behind `after` and from `begin_at` (inclusive) on.

    With `delimiter`, of those that share what stands up to it only the first that is seen.
    """

    prefix: Prefix = ""
    delimiter: Prefix = ""
    after: Position | None = None
    begin_at: Position | None = None
    limit: ListLimit = 1000


class OneObject(AskOfBucket):
    """An object."""

    key: Key


class PutObject(OneObject):
    """Bytes were stored as `bodies`; they are an object now, in place of what was there.

    With `only_new` there must have been none: 412 `changed` otherwise.
    """

    bodies: Pieces
    size_bytes: Bytes
    etag: ETag
    content_type: ContentType = UNTYPED
    headers: Headers = Field(default_factory=dict)
    only_new: Boolean = False


class CopyObject(OneObject):
    """Make `key` of `bucket` a copy of another object. Without `headers` it keeps those."""

    source_bucket: AnyName
    source_key: Key
    content_type: ContentType | None = None
    headers: Headers | None = None
    only_new: Boolean = False


class ManyKeys(AskOfBucket):
    """Some keys of a bucket."""

    keys: Keys


class BeginUpload(OneObject):
    """Begin a multipart upload."""

    content_type: ContentType = UNTYPED
    headers: Headers = Field(default_factory=dict)


class OneUpload(OneObject):
    """An upload of `key`."""

    upload_id: Annotated[str, Field(max_length=200, pattern=_NO_NUL)]


class UploadedPart(OneUpload):
    """A part was stored as `bodies`, in place of an earlier one of that number."""

    number: PartNumber
    bodies: Pieces
    size_bytes: Bytes
    etag: PartETag


class ListParts(OneUpload):
    """The parts of an upload behind `after`."""

    after: Annotated[int, Field(strict=True, ge=0, le=10_000)] = 0
    limit: PageLimit = 1000


class NamedPart(Body):
    """A part that an upload is completed with."""

    number: PartNumber
    etag: Annotated[str, Field(max_length=64, pattern=_NO_NUL)]


class CompleteUpload(OneUpload):
    """Make an object of these parts."""

    parts: Annotated[list[NamedPart], Field(max_length=10_000)]
    only_new: Boolean = False


class ListUploads(AskOfBucket):
    """Uploads in progress, behind (`after_key`, `after_id`); without an id, behind all of a key."""

    prefix: Prefix = ""
    after_key: Position | None = None
    after_id: Annotated[str | None, Field(max_length=200, pattern=_NO_NUL)] = None
    limit: PageLimit = 1000


class ReserveBodies(Body):
    """A gateway is about to write bodies into a repository's place."""

    repository_id: Id
    count: Annotated[int, Field(strict=True, ge=1, le=1000)] = 1


class BodiesQuestion(Body):
    """How many bodies a gateway wants to remove now."""

    limit: PageLimit = 100


class RemovedBodies(Body):
    """Bodies that are no more in the store."""

    ids: Annotated[list[Id], Field(min_length=1, max_length=1000)]


# --- operations ---
