"""What is in buckets: a gateway's questions about them, and the control plane's answers.

A `BucketIndex` knows names, sizes and which bodies an object is made of, and never a byte of
them. Every call says for whom it is made; rights are checked by the index, for that caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from holdfast.errors import (
    HoldfastError,
)
from holdfast.gateway.authority import Grant


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom a call is made: a credential that was shown, or a token that signed."""

    kind: str
    secret: str = field(repr=False)
    address: str = ""

    @property
    def document(self) -> dict[str, Any]:
        return {"caller": {self.kind: self.secret}, "address": self.address}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """Whose signature it may be, and with which key it was made."""

    token_id: str
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class BucketName:
    """A bucket as it is listed."""

    name: str
    account_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SeenView:
    """A snapshot that is seen below `prefix`; of two that show a key the later one wins."""

    prefix: str
    snapshot_id: str
    manifest_id: str
    repository_id: str
    captured_path: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class OpenedBucket:
    """A bucket, what the caller may do in it, and its views, oldest first.

    `refusal` says why nothing may be added now.
    """

    name: str
    created_at: datetime
    grant: Grant
    views: tuple[SeenView, ...] = ()
    refusal: HoldfastError | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A body, and how many bytes of an object are in it."""

    id: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """An object; with `hidden` it only hides files of views made at `modified_at` or before."""

    key: str
    size_bytes: int
    etag: str
    modified_at: datetime
    content_type: str = "binary/octet-stream"
    headers: Mapping[str, str] = field(default_factory=dict)
    bodies: tuple[Piece, ...] = ()
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """What a list has of an object; with `hidden` as in `Entry`."""

    key: str
    size_bytes: int
    etag: str
    modified_at: datetime
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class UploadEntry:
    """A multipart upload in progress."""

    upload_id: str
    key: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class PartEntry:
    """A stored part of one."""

    number: int
    size_bytes: int
    etag: str
    stored_at: datetime


@dataclass(frozen=True, slots=True)
class DueBody:
    """A body to be removed, and the region in which it lies."""

    id: str
    repository_id: str
    location: str
    options: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """Bytes that are in the store already, and what they are."""

    pieces: tuple[Piece, ...]
    size_bytes: int
    etag: str


class BucketIndex(Protocol):
    """Knows buckets. Called from several threads at once; each call may take a while.

    Raises `NoSuchBucket`, `NoSuchKey`, `NoSuchUpload`, `Forbidden`, `NotSignedIn`, and
    `ServerUnavailable` where the answer cannot be had now.
    """

    def signing_keys(
        self, access_key: str, date: str, region: str, address: str
    ) -> Sequence[SigningKey]: ...

    def buckets(self, caller: Caller) -> Sequence[BucketName]: ...

    def create(self, caller: Caller, bucket: str) -> bool:
        """Make a bucket; False where the account has it already."""
        ...

    def open(self, caller: Caller, bucket: str) -> OpenedBucket: ...

    def remove(self, caller: Caller, bucket: str, *, views_empty: bool) -> None: ...

    def objects(
        self,
        caller: Caller,
        bucket: str,
        *,
        prefix: str,
        delimiter: str,
        after: str | None,
        limit: int,
    ) -> tuple[Sequence[ListedEntry], bool]:
        """A page of entries behind `after`, hidden ones too, and whether more follow.

        With a delimiter, of a common prefix only those up to the first that is seen.
        """
        ...

    def object(self, caller: Caller, bucket: str, key: str) -> Entry: ...

    def put(
        self,
        caller: Caller,
        bucket: str,
        key: str,
        stored: StoredBytes,
        *,
        content_type: str,
        headers: Mapping[str, str],
        only_new: bool = False,
    ) -> Entry:
        """Make an object; with `only_new`, here and below, `Changed` where there is one."""
        ...

    def copy(
        self,
        caller: Caller,
        source: tuple[str, str],
        target: tuple[str, str],
        *,
        content_type: str | None,
        headers: Mapping[str, str] | None,
        only_new: bool = False,
    ) -> Entry:
        """Copy between (bucket, key); without `headers` those of the source are kept."""
        ...

    def delete(self, caller: Caller, bucket: str, keys: Sequence[str]) -> None: ...

    def hide(self, caller: Caller, bucket: str, keys: Sequence[str]) -> None: ...

    def begin_upload(
        self,
        caller: Caller,
        bucket: str,
        key: str,
        *,
        content_type: str,
        headers: Mapping[str, str],
    ) -> str: ...

    def put_part(
        self,
        caller: Caller,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        *,
        stored: StoredBytes,
    ) -> PartEntry: ...

    def parts(
        self, caller: Caller, bucket: str, key: str, upload_id: str, *, after: int, limit: int
    ) -> tuple[Sequence[PartEntry], bool]: ...

    def complete_upload(
        self,
        caller: Caller,
        bucket: str,
        key: str,
        upload_id: str,
        parts: Sequence[tuple[int, str]],
        *,
        only_new: bool = False,
    ) -> Entry: ...

    def abort_upload(self, caller: Caller, bucket: str, key: str, upload_id: str) -> None: ...

    def uploads(
        self,
        caller: Caller,
        bucket: str,
        *,
        prefix: str,
        after_key: str | None,
        after_id: str | None,
        limit: int,
    ) -> tuple[Sequence[UploadEntry], bool]: ...

    def reserve(self, repository_id: str, count: int) -> Sequence[str]:
        """Ids for bodies that are about to be written; good for a day."""
        ...

    def due(self, limit: int) -> Sequence[DueBody]: ...

    def removed(self, body_ids: Sequence[str]) -> None: ...
