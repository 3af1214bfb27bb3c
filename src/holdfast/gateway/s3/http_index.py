"""The bucket index that is asked over HTTP: the control plane's, at one address.

A refusal comes back as the error of the tree that it was there. A call whose answer was lost
is repeated once: each is found done.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import httpx

from holdfast.errors import (
    BucketNotEmpty,
    Changed,
    Conflict,
    CreditExhausted,
    Forbidden,
    HoldfastError,
    InvalidPart,
    NoSuchBucket,
    NoSuchKey,
    NoSuchUpload,
    NotFound,
    NotSignedIn,
    PartTooSmall,
    QuotaExceeded,
    UsageError,
)
from holdfast.gateway.authority import Grant
from holdfast.gateway.control_plane import ControlPlane, problem_of, too_many
from holdfast.gateway.s3.index import (
    BucketName,
    Caller,
    DueBody,
    Entry,
    ListedEntry,
    OpenedBucket,
    PartEntry,
    Piece,
    SeenView,
    SigningKey,
    StoredBytes,
    UploadEntry,
)

_TIMEOUT_SECONDS = 30.0
_log = logging.getLogger(__name__)


class HttpBucketIndex:
    """A `BucketIndex` that is the control plane at `base_url`."""

    def __init__(
        self, base_url: str, credential: str, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        """`credential` is the gateway's own."""
        self._control = ControlPlane(
            base_url,
            credential,
            timeout_seconds=_TIMEOUT_SECONDS,
            without="What is in this bucket cannot be told now; try again soon.",
            transport=transport,
        )

    def close(self) -> None:
        """Give back connections."""
        self._control.close()

    def signing_keys(
        self, access_key: str, date: str, region: str, address: str
    ) -> Sequence[SigningKey]:
        question = {"access_key": access_key, "date": date, "region": region, "address": address}
        found = self._ask("s3/keys", question)["candidates"]
        return [SigningKey(each["token_id"], bytes.fromhex(each["signing_key"])) for each in found]

    def buckets(self, caller: Caller) -> Sequence[BucketName]:
        found = self._ask("buckets/list", caller.document)["buckets"]
        return [
            BucketName(each["name"], each["account_id"], _time(each["created_at"]))
            for each in found
        ]

    def create(self, caller: Caller, bucket: str) -> bool:
        return bool(self._ask("buckets/create", _of(caller, bucket))["made"])

    def open(self, caller: Caller, bucket: str) -> OpenedBucket:
        return _opened(self._ask("buckets/open", _of(caller, bucket)))

    def remove(self, caller: Caller, bucket: str, *, views_empty: bool) -> None:
        self._ask("buckets/remove", _of(caller, bucket, views_empty=views_empty))

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
        asked = {"prefix": prefix, "delimiter": delimiter, "after": after, "limit": limit}
        answer = self._ask("buckets/objects", _of(caller, bucket, **asked))
        return [_listed(each) for each in answer["objects"]], bool(answer["more"])

    def object(self, caller: Caller, bucket: str, key: str) -> Entry:
        return _entry(self._ask("buckets/object", _of(caller, bucket, key=key)))

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
        question = _of(
            caller,
            bucket,
            key=key,
            **_stored(stored),
            content_type=content_type,
            headers=dict(headers),
            only_new=only_new,
        )
        return _entry(self._ask("buckets/put", question))

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
        question = _of(
            caller,
            target[0],
            key=target[1],
            source_bucket=source[0],
            source_key=source[1],
            content_type=content_type,
            headers=None if headers is None else dict(headers),
            only_new=only_new,
        )
        return _entry(self._ask("buckets/copy", question))

    def delete(self, caller: Caller, bucket: str, keys: Sequence[str]) -> None:
        self._ask("buckets/delete", _of(caller, bucket, keys=list(keys)))

    def hide(self, caller: Caller, bucket: str, keys: Sequence[str]) -> None:
        self._ask("buckets/hide", _of(caller, bucket, keys=list(keys)))

    def begin_upload(
        self,
        caller: Caller,
        bucket: str,
        key: str,
        *,
        content_type: str,
        headers: Mapping[str, str],
    ) -> str:
        question = _of(caller, bucket, key=key, content_type=content_type, headers=dict(headers))
        # Not repeated: a second one would be a second upload, which nobody completes.
        return str(self._ask("buckets/upload-begin", question)["upload_id"])

    def put_part(
        self,
        caller: Caller,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        *,
        stored: StoredBytes,
    ) -> PartEntry:
        question = _of(
            caller, bucket, key=key, upload_id=upload_id, number=number, **_stored(stored)
        )
        return _part(self._ask("buckets/upload-part", question))

    def parts(
        self, caller: Caller, bucket: str, key: str, upload_id: str, *, after: int, limit: int
    ) -> tuple[Sequence[PartEntry], bool]:
        question = _of(caller, bucket, key=key, upload_id=upload_id, after=after, limit=limit)
        answer = self._ask("buckets/upload-parts", question)
        return [_part(each) for each in answer["parts"]], bool(answer["more"])

    def complete_upload(
        self,
        caller: Caller,
        bucket: str,
        key: str,
        upload_id: str,
        parts: Sequence[tuple[int, str]],
        *,
        only_new: bool = False,
    ) -> Entry:
        named = [{"number": number, "etag": etag} for number, etag in parts]
        question = _of(caller, bucket, key=key, upload_id=upload_id, parts=named, only_new=only_new)
        return _entry(self._ask("buckets/upload-complete", question))

    def abort_upload(self, caller: Caller, bucket: str, key: str, upload_id: str) -> None:
        self._ask("buckets/upload-abort", _of(caller, bucket, key=key, upload_id=upload_id))

    def uploads(
        self,
        caller: Caller,
        bucket: str,
        *,
        prefix: str,
        after_key: str | None,
        after_id: str | None,
        limit: int,
    ) -> tuple[Sequence[UploadEntry], bool]:
        question = _of(
            caller, bucket, prefix=prefix, after_key=after_key, after_id=after_id, limit=limit
        )
        answer = self._ask("buckets/uploads", question)
        found = [
            UploadEntry(each["upload_id"], each["key"], _time(each["started_at"]))
            for each in answer["uploads"]
        ]
        return found, bool(answer["more"])

    def reserve(self, repository_id: str, count: int) -> Sequence[str]:
        question = {"repository_id": repository_id, "count": count}
        return [str(each) for each in self._ask("buckets/reserve", question)["ids"]]

    def due(self, limit: int) -> Sequence[DueBody]:
        found = self._ask("buckets/bodies-due", {"limit": limit})["bodies"]
        return [
            DueBody(each["id"], each["repository_id"], each["location"], each["options"])
            for each in found
        ]

    def removed(self, body_ids: Sequence[str]) -> None:
        self._ask("buckets/bodies-removed", {"ids": list(body_ids)})

    def _ask(self, what: str, question: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._control.ask(what, question)
        if answer.status_code == 204:
            return {}
        if answer.status_code == 200:
            try:
                document = answer.json()
            except ValueError as error:
                raise self._control.unavailable() from error
            if isinstance(document, dict):
                return document
        raise _refusal(answer) or self._control.unavailable()


_KINDS: dict[str, type[HoldfastError]] = {
    kind.code: kind
    for kind in (
        BucketNotEmpty,
        Changed,
        CreditExhausted,
        Forbidden,
        InvalidPart,
        NoSuchBucket,
        NoSuchKey,
        NoSuchUpload,
        NotSignedIn,
        PartTooSmall,
        QuotaExceeded,
        UsageError,
    )
}
_BY_STATUS: dict[int, type[HoldfastError]] = {
    400: UsageError,
    402: CreditExhausted,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: Changed,
    413: UsageError,
    422: UsageError,
}


def _refusal(answer: httpx.Response) -> HoldfastError | None:
    """The error that it was there; None where it is nothing that a caller could mend."""
    code, detail = problem_of(answer)
    if answer.status_code == 429:
        return too_many(answer, detail)
    kind = _KINDS.get(code) or _BY_STATUS.get(answer.status_code)
    if kind is not None:
        return kind(detail or "The control plane refuses this.")
    _log.warning("the control plane answered %d %s to a gateway", answer.status_code, code)
    return None


def _of(caller: Caller, bucket: str, **more: Any) -> dict[str, Any]:
    return {**caller.document, "bucket": bucket, **more}


def _stored(stored: StoredBytes) -> dict[str, Any]:
    return {
        "bodies": [{"id": each.id, "bytes": each.size_bytes} for each in stored.pieces],
        "size_bytes": stored.size_bytes,
        "etag": stored.etag,
    }


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _opened(document: Mapping[str, Any]) -> OpenedBucket:
    bucket, grant = document["bucket"], document["grant"]
    refusal = grant.get("refusal")
    kind = _KINDS.get(refusal["code"], Forbidden) if refusal else Forbidden
    return OpenedBucket(
        bucket["name"],
        _time(bucket["created_at"]),
        Grant(
            account_id=str(grant["account_id"]),
            principal=f"{grant['principal']['kind']}:{grant['principal']['id']}",
            rights=frozenset(grant["rights"]),
            repository_id=str(grant["repository_id"]),
            location=str(grant["location"]),
            options=dict(grant["options"]),
            password=grant["password"],
        ),
        tuple(
            SeenView(
                each["prefix"],
                each["snapshot_id"],
                each["manifest_id"],
                each["repository_id"],
                each["captured_path"],
                _time(each["created_at"]),
            )
            for each in document["views"]
        ),
        kind(refusal["message"]) if refusal else None,
    )


def _entry(document: Mapping[str, Any]) -> Entry:
    return Entry(
        document["key"],
        int(document["size_bytes"]),
        document["etag"],
        _time(document["modified_at"]),
        document["content_type"],
        dict(document["headers"]),
        tuple(Piece(each["id"], int(each["bytes"])) for each in document["bodies"]),
        bool(document["hidden"]),
    )


def _listed(document: Mapping[str, Any]) -> ListedEntry:
    return ListedEntry(
        document["key"],
        document["size_bytes"],
        document["etag"],
        _time(document["modified_at"]),
        document["hidden"],
    )


def _part(document: Mapping[str, Any]) -> PartEntry:
    return PartEntry(
        int(document["number"]),
        int(document["size_bytes"]),
        document["etag"],
        _time(document["stored_at"]),
    )
